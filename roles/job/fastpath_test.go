package job_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/roles/job"
)

// followedTopic is a topic that can be followed. Its reads wait until the topic is
// opened.
type followedTopic struct {
	*topic
	opened chan struct{}

	mu sync.Mutex
	fn func(partition int32)
}

func (l *followedTopic) Read(ctx context.Context, p int32, from int64, maxBytes int) ([]envelope.Entry, error) {
	select {
	case <-l.opened:
		return l.topic.Read(ctx, p, from, maxBytes)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *followedTopic) Recent(p int32, from int64, _ int) []envelope.Entry {
	l.topic.mu.Lock()
	defer l.topic.mu.Unlock()
	return l.parts[p][from:]
}

func (l *followedTopic) Follow(fn func(partition int32)) (stop func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fn = fn
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.fn = nil
	}
}

// commit calls the follower, as the log does after a commit. It reports whether there
// is a follower.
func (l *followedTopic) commit(p int32) bool {
	l.mu.Lock()
	fn := l.fn
	l.mu.Unlock()
	if fn != nil {
		fn(p)
	}
	return fn != nil
}

// startFollowed starts a job that follows the log, and waits until its fast path is
// open: its comets have got a record "0" then.
func startFollowed(t *testing.T) (*world, *followedTopic) {
	l := &followedTopic{opened: make(chan struct{})}
	w := start(t, func(_ *job.Config, d *job.Deps) {
		l.topic = d.Kept.(*topic)
		d.Kept, d.Local = l, d.Owners.(*owner)
	})
	w.kept.add(t, 0, push("0", "u"))
	for end := time.Now().Add(10 * time.Second); w.comets["b"].all() == ""; time.Sleep(time.Millisecond) {
		if l.commit(0); time.Now().After(end) {
			t.Fatal("nothing was delivered on the fast path")
		}
	}
	return w, l
}

func TestFastPath(t *testing.T) {
	w, l := startFollowed(t)
	w.kept.add(t, 0, push("1", "u"))
	w.kept.add(t, 0, &envelope.Record{Acks: &envelope.Acks{}})
	l.commit(0)
	for _, c := range []string{"a", "b"} {
		if got, want := w.comets[c].all(), "0/1<1 1/1<1"; got != want { // at once
			t.Fatalf("comet %s got %q, want %q", c, got, want)
		}
	}
	// The reader passes over that, and delivers what the fast path did not see.
	w.kept.add(t, 0, push("2", "u"))
	close(l.opened)
	w.eventually("a", "0/1<1 1/1<1 2/1<1")
	w.kept.add(t, 0, push("3", "u"))
	w.eventually("b", "0/1<1 1/1<1 2/1<1 3/1<1")
	w.stop()
	if l.commit(0) {
		t.Error("a job that has ended follows the log")
	}
	if got := w.comets["a"].all(); got != "0/1<1 1/1<1 2/1<1 3/1<1" {
		t.Errorf("comet a got %q in the end", got)
	}
}

// TestFastPathLeavesTheRestToTheReader shows that records that cannot be delivered at
// once are delivered by the reader, in order.
func TestFastPathLeavesTheRestToTheReader(t *testing.T) {
	many := make([]string, 65)
	for i := range many {
		many[i] = "u"
	}
	for name, test := range map[string]struct {
		users []string
		fail  error
	}{
		"the owner would have to wait": {users: []string{"u"}, fail: envelope.ErrNotReady},
		"the owner is broken":          {users: []string{"u"}, fail: errors.New("broken")},
		"many users":                   {users: many},
	} {
		t.Run(name, func(t *testing.T) {
			w, l := startFollowed(t)
			set := func(f func(*envelope.ResolveRequest) (*envelope.ResolveReply, error)) {
				w.owner.mu.Lock()
				defer w.owner.mu.Unlock()
				w.owner.resolve = f
			}
			if test.fail != nil {
				set(func(*envelope.ResolveRequest) (*envelope.ResolveReply, error) { return nil, test.fail })
			}
			w.kept.add(t, 0, push("1", test.users...))
			l.commit(0)
			if got := w.comets["a"].all(); got != "0/1<1" {
				t.Fatalf("comet a got %q", got)
			}
			set(everyone("a", "b"))
			close(l.opened)
			w.eventually("a", "0/1<1 1/1<1")
			w.eventually("b", "0/1<1 1/1<1")
		})
	}
}

// TestBusyCometIsNotWaitedFor shows that the fast path does not wait for a comet that is
// being pushed to, and that the comet gets everything in order.
func TestBusyCometIsNotWaitedFor(t *testing.T) {
	w, l := startFollowed(t)
	entered, free := make(chan struct{}, 10), make(chan struct{})
	w.comets["a"].block = func(context.Context) error {
		entered <- struct{}{}
		<-free
		return nil
	}
	w.kept.add(t, 0, push("1", "u"))
	close(l.opened)
	<-entered // on the normal path
	w.kept.add(t, 1, push("2", "v"))
	w.kept.add(t, 1, push("3", "v"))
	l.commit(1)
	close(free)
	w.eventually("a", "0/1<1 1/1<1 2/1<1 3/1<1")
}

// TestRemoteRouterMeansNoFastPath shows that the log is not followed if owners and
// comets may be in other processes.
func TestRemoteRouterMeansNoFastPath(t *testing.T) {
	l := &followedTopic{opened: make(chan struct{})}
	close(l.opened)
	w := start(t, func(_ *job.Config, d *job.Deps) {
		l.topic = d.Kept.(*topic)
		d.Kept = l
	})
	w.kept.add(t, 0, push("1", "u"))
	w.eventually("a", "1/1<1")
	if l.commit(0) {
		t.Error("the log is followed")
	}
}
