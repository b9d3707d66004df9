package router_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/roles/router"
	"imgo/store"
)

// stalledStore is a store whose reads of one user's mailbox hang until release
// is closed.
type stalledStore struct {
	router.Store
	user    string
	release chan struct{}

	mu    sync.Mutex
	loads int // of the user
}

func (s *stalledStore) Load(partition int32, user string) (*store.MailboxMeta, []store.MailboxEntry, error) {
	if user == s.user {
		s.mu.Lock()
		s.loads++
		s.mu.Unlock()
		<-s.release
	}
	return s.Store.Load(partition, user)
}

func (s *stalledStore) Used(partition int32, user, key string) (uint64, bool, error) {
	if user == s.user {
		<-s.release
	}
	return s.Store.Used(partition, user, key)
}

func (s *stalledStore) begun() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loads
}

// namedUser returns a user of one of two partitions.
func namedUser(partition int32, prefix string) string {
	for i := 0; ; i++ {
		if user := fmt.Sprint(prefix, i); envelope.Partition(user, 2) == partition {
			return user
		}
	}
}

// While the store does not answer for one user, other users of the partition are
// served and the records of other partitions are applied. The one user's calls,
// and records behind one of the user's, wait; and they succeed in the end.
func TestStalledStoreHoldsUpOneUser(t *testing.T) {
	for _, by := range []string{"attach", "record", "key"} {
		t.Run(by, func(t *testing.T) {
			slow, fast, other := namedUser(0, "slow"), namedUser(0, "fast"), namedUser(1, "other")
			w := newWorld(t, nil)
			for _, user := range []string{slow, fast, other} {
				w.attach(session("c", 1, user, "d"))
				w.push(user, "a")
				w.detach(session("c", 1, user, "d"))
			}
			w.stop() // all of it is in the store now
			stalled := &stalledStore{user: slow, release: make(chan struct{})}
			w.store = func(s router.Store) router.Store { stalled.Store = s; return stalled }
			w.start()

			late := make(chan error, 1)
			var behind uint64
			switch by {
			case "attach":
				go func() { late <- attach(w, slow) }()
			case "record":
				w.push(slow, "b")
			case "key":
				w.append(slow, &envelope.Record{Push: &envelope.Push{Users: []string{slow}, Body: []byte("b"), IdempotencyKey: "k",
					ExpiresMs: w.clock.now().Add(time.Hour).UnixMilli()}})
			}
			eventually(t, "the store is asked for the user", func() bool { return stalled.begun() > 0 })

			ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
			defer cancel()
			if got := bodies(w.attach(session("c", 2, fast, "d")).Backlog); got != "a" {
				t.Errorf("another user of the partition is handed %q", got)
			}
			l, err := w.r.Lookup(ctx, &envelope.LookupRequest{Users: []string{fast, slow}})
			if err != nil || len(l.Users[0].Sessions) != 1 || len(l.Users[1].Sessions) != 0 {
				t.Errorf("lookup: %v, %v", l, err)
			}
			if _, err := w.r.User(ctx, &envelope.UserRequest{User: fast}); err != nil {
				t.Error(err)
			}
			w.attach(session("c", 3, other, "d"))
			w.applied(other, w.push(other, "b"))
			if by == "attach" { // the log goes on in this partition too
				w.applied(fast, w.push(fast, "b"))
			} else {
				behind = w.push(fast, "b")
			}
			short, stop := context.WithTimeout(ctx, 20*time.Millisecond)
			defer stop()
			if _, err := w.r.User(short, &envelope.UserRequest{User: slow}); err == nil {
				t.Error("the user is known though the store has not answered")
			}
			if n := stalled.begun(); n != 1 {
				t.Errorf("the store was asked %d times at once", n)
			}

			close(stalled.release)
			if by == "attach" {
				if err := <-late; err != nil {
					t.Error(err)
				}
			} else {
				w.applied(fast, behind)
			}
			want := map[string]string{"attach": "a", "record": "ab", "key": "ab"}[by]
			if got := bodies(w.attach(session("c", 4, slow, "d")).Backlog); got != want {
				t.Errorf("the user is handed %q, want %q", got, want)
			}
		})
	}
}

func attach(w *world, user string) error {
	_, err := w.r.Attach(context.Background(), &envelope.AttachRequest{Session: session("c", 9, user, "d")})
	return err
}

// A mailbox that many want at once, while records for it arrive, is read once
// and misses nothing.
func TestColdMailboxIsReadOnce(t *testing.T) {
	const users, callers = 20, 4
	w := newWorld(t, func(c *router.Config) { c.IdleMailboxes, c.FlushInterval = 1, time.Millisecond })
	want := make(map[string]string)
	for round := range 10 {
		var g sync.WaitGroup
		for i := range users {
			user := fmt.Sprint("u", i)
			if round == 0 {
				w.append(user, &envelope.Record{Device: &envelope.Device{User: user, Device: "d", SeenMs: w.clock.now().UnixMilli()}})
			}
			body := string(rune('a' + round))
			want[user] += body
			for range callers {
				g.Go(func() {
					if _, err := w.r.User(context.Background(), &envelope.UserRequest{User: user}); err != nil {
						t.Error(err)
					}
				})
			}
			w.push(user, body)
		}
		g.Wait()
	}
	w.awaitApplied(slices.Collect(maps.Keys(want)))
	for user, bodiesWanted := range want {
		if got := bodies(w.attach(session("c", 1, user, "d")).Backlog); got != bodiesWanted {
			t.Errorf("%s is handed %q, want %q", user, got, bodiesWanted)
		}
	}
}

// The goroutine that may not wait gets no answer while the store does not.
func TestResolveNowDoesNotWaitForTheStore(t *testing.T) {
	slow, fast := namedUser(0, "slow"), namedUser(0, "fast")
	w := newWorld(t, nil)
	w.attach(session("c", 1, slow, "d"))
	w.detach(session("c", 1, slow, "d"))
	w.stop()
	stalled := &stalledStore{user: slow, release: make(chan struct{})}
	w.store = func(s router.Store) router.Store { stalled.Store = s; return stalled }
	w.start()
	w.attach(session("c", 2, fast, "d"))
	id := w.push(slow, "a")
	eventually(t, "the store is asked for the user", func() bool { return stalled.begun() > 0 })
	done := make(chan bool, 1)
	go func() {
		_, ok := w.r.ResolveNow(&envelope.ResolveRequest{Partition: 0, Items: []*envelope.ResolveItem{{Id: id, Users: []string{slow}}}})
		done <- ok
	}()
	select {
	case ok := <-done:
		if ok {
			t.Error("it answered for a record that was not applied")
		}
	case <-time.After(waitLimit):
		t.Error("it waits")
	}
	close(stalled.release)
	w.applied(slow, id)
}
