package job_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"imgo/envelope"
	"imgo/internal/wait/waittest"
	"imgo/roles/job"
)

func part(t job.Topic, p int32, next int64) job.Part {
	return job.Part{Topic: t, Partition: p, Next: next}
}

// group is a group whose assignments the test defines. It remembers positions.
type group struct {
	offers chan []job.Part

	mu      sync.Mutex
	next    map[job.Part]int64
	current *assignment
	refuse  bool
	commits int
}

type assignment struct {
	g     *group
	parts []job.Part
	done  chan struct{}
}

func newGroup(parts ...job.Part) *group {
	g := &group{offers: make(chan []job.Part, 10), next: make(map[job.Part]int64)}
	g.offers <- parts
	return g
}

func (g *group) Next(ctx context.Context) (job.Assignment, error) {
	select {
	case parts := <-g.offers:
		g.mu.Lock()
		defer g.mu.Unlock()
		g.current = &assignment{g: g, parts: parts, done: make(chan struct{})}
		return g.current, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// move ends the assignment and offers another one.
func (g *group) move(parts ...job.Part) {
	g.mu.Lock()
	close(g.current.done)
	g.mu.Unlock()
	g.offers <- parts
}

func (g *group) at(t job.Topic, p int32) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	next, ok := g.next[part(t, p, 0)]
	if !ok {
		return -1
	}
	return next
}

func (a *assignment) Parts() []job.Part     { return a.parts }
func (a *assignment) Done() <-chan struct{} { return a.done }

func (a *assignment) Commit(_ context.Context, at []job.Part) error {
	a.g.mu.Lock()
	defer a.g.mu.Unlock()
	if a.g.refuse {
		return envelope.ErrUnavailable
	}
	a.g.commits++
	for _, p := range at {
		a.g.next[part(p.Topic, p.Partition, 0)] = p.Next
	}
	return nil
}

var eventually = waittest.Eventually

// startGrouped starts a job with a group.
func startGrouped(t *testing.T, g *group, change func(*world)) *world {
	w := &world{t: t, kept: newTopic(2), live: newTopic(1), owner: &owner{resolve: everyone("a")},
		comets: comets{"a": {}, "b": {}}, reg: prometheus.NewRegistry()}
	if change != nil {
		change(w)
	}
	w.run(func(_ *job.Config, d *job.Deps) { d.Group = g })
	return w
}

// TestFirstPositionIsStoredAtOnce shows that a partition that no job has carried yet starts at
// its end, and that this position is stored at once: a job that takes over before the first
// record must not start at a later end.
func TestFirstPositionIsStoredAtOnce(t *testing.T) {
	g := newGroup(part(job.Kept, 0, -1), part(job.Live, 0, -1))
	w := startGrouped(t, g, func(w *world) {
		w.kept.add(t, 0, push("old", "u"))
		w.live.add(t, 0, &envelope.Envelope{Message: &envelope.Message{Op: 5, Body: []byte("old"), All: true}})
	})
	eventually(t, "both positions are stored", func() bool { return g.at(job.Kept, 0) == 1 && g.at(job.Live, 0) == 1 })
	w.stop()
	if got := w.comets["a"].all(); got != "" {
		t.Errorf("old records were carried: %s", got)
	}
}

// TestAssignmentMoves shows that the position is stored before a partition goes to the next
// job, and that the partition is not read any more.
func TestAssignmentMoves(t *testing.T) {
	g := newGroup(part(job.Kept, 0, 0))
	w := startGrouped(t, g, nil)
	w.kept.add(t, 0, push("1", "u"))
	w.eventually("a", "1/1<1")
	g.move(part(job.Kept, 1, 0))
	eventually(t, "the position is stored", func() bool { return g.at(job.Kept, 0) == 1 })
	w.kept.add(t, 0, push("2", "u"))
	w.kept.add(t, 1, push("3", "u"))
	w.eventually("a", "1/1<1 3/1<1")
}

// TestPositionWaitsForPushes shows that a push that is under way when the assignment ends
// finishes before the position is stored.
func TestPositionWaitsForPushes(t *testing.T) {
	free := make(chan struct{})
	g := newGroup(part(job.Kept, 0, 0))
	w := startGrouped(t, g, func(w *world) {
		w.owner.resolve = everyone("a", "b")
		w.comets["a"].block = func(ctx context.Context) error {
			select {
			case <-free:
			case <-ctx.Done():
			}
			return nil
		}
	})
	w.kept.add(t, 0, push("1", "u"))
	w.eventually("b", "1/1<1")
	g.move(part(job.Kept, 1, 0))
	if got := g.at(job.Kept, 0); got != -1 {
		t.Errorf("position %d was stored before the push had ended", got)
	}
	close(free)
	eventually(t, "the position is stored", func() bool { return g.at(job.Kept, 0) == 1 })
	if got := w.comets["a"].all(); got != "1/1<1" {
		t.Errorf("stored before it was pushed: %q", got)
	}
}

// TestCommitFails shows that a later commit stores a position whose commit failed.
func TestCommitFails(t *testing.T) {
	g := newGroup(part(job.Kept, 0, 0))
	g.refuse = true
	w := startGrouped(t, g, nil)
	w.kept.add(t, 0, push("1", "u"))
	w.eventually("a", "1/1<1")
	g.mu.Lock()
	g.refuse = false
	g.mu.Unlock()
	eventually(t, "the position is stored", func() bool { return g.at(job.Kept, 0) == 1 })
}

// TestPositionAfterTheEnd shows that a job goes on at the end of a log that ends before the
// stored position.
func TestPositionAfterTheEnd(t *testing.T) {
	g := newGroup(part(job.Kept, 0, 7))
	w := startGrouped(t, g, nil)
	eventually(t, "the position is the end", func() bool { return g.at(job.Kept, 0) == 0 })
	w.kept.add(t, 0, push("1", "u"))
	w.eventually("a", "1/1<1")
}

// ownerPair is a place for an owner that the test replaces.
type ownerPair struct {
	mu  sync.Mutex
	now job.Router
}

func (o *ownerPair) Owner(int32) (job.Router, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.now, nil
}

type hungOwner struct{ asked chan struct{} }

func (h *hungOwner) Resolve(ctx context.Context, _ *envelope.ResolveRequest) (*envelope.ResolveReply, error) {
	close(h.asked)
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestHungOwnerIsReplaced shows that a job does not wait for a hanging owner once there is
// another one.
func TestHungOwnerIsReplaced(t *testing.T) {
	w := &world{t: t, kept: newTopic(1), live: newTopic(1), comets: comets{"a": {}}, reg: prometheus.NewRegistry()}
	hung := &hungOwner{asked: make(chan struct{})}
	owners := &ownerPair{now: hung}
	w.run(func(c *job.Config, d *job.Deps) { d.Owners, c.ResolveTimeout = owners, time.Hour })
	w.kept.add(t, 0, push("1", "u"))
	<-hung.asked
	owners.mu.Lock()
	owners.now = &owner{resolve: everyone("a")}
	owners.mu.Unlock()
	w.eventually("a", "1/1<1")
}
