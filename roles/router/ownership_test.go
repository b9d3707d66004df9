package router_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/roles/router"
	"imgo/store"
)

// ring says which partitions a router owns.
type ring struct {
	mu      sync.Mutex
	owned   []int32
	changed chan struct{}
}

func newRing(owned ...int32) *ring { return &ring{owned: owned, changed: make(chan struct{})} }

func (g *ring) get() ([]int32, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.owned), g.changed
}

func (g *ring) set(owned ...int32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.owned = owned
	close(g.changed)
	g.changed = make(chan struct{})
}

// newOwner is a router that owns partitions of a log; 2 partitions if the log
// is nil.
func newOwner(t *testing.T, kept *memLog, g *ring, change func(*router.Config)) *world {
	return newWorldOf(t, kept, g, func(c *router.Config) {
		c.LoseAfter, c.Repeats = 0, time.Minute
		if change != nil {
			change(c)
		}
	})
}

// userOf is a user of a partition.
func userOf(partition int32) string {
	for i := 0; ; i++ {
		if user := fmt.Sprint("user", i); envelope.Partition(user, 2) == partition {
			return user
		}
	}
}

// calls are all calls that concern a user.
func (w *world) calls(user string) map[string]error {
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	s, p := session("c", 99, user, "d"), uint32(envelope.Partition(user, 2))
	errs := make(map[string]error)
	_, errs["Attach"] = w.r.Attach(ctx, &envelope.AttachRequest{Session: s})
	_, errs["CatchUp"] = w.r.CatchUp(ctx, &envelope.CatchUpRequest{To: s.Address, User: user, Device: "d"})
	errs["Detach"] = w.r.Detach(ctx, &envelope.DetachRequest{
		Sessions: []*envelope.Detached{{Session: s.Address, User: user, Device: "d"}},
	})
	_, errs["Lookup"] = w.r.Lookup(ctx, &envelope.LookupRequest{Users: []string{user}})
	_, errs["User"] = w.r.User(ctx, &envelope.UserRequest{User: user})
	_, errs["Take"] = w.r.Take(ctx, &envelope.TakeRequest{User: user})
	_, errs["Claim"] = w.r.Claim(ctx, &envelope.ClaimRequest{Partition: p, Key: "k"})
	_, errs["Resolve"] = w.r.Resolve(ctx, &envelope.ResolveRequest{Partition: p})
	return errs
}

// owns waits until a router answers for a user, or does not.
func (w *world) owns(user string, want bool) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("owns the partition of %s: %v", user, want), func() bool {
		_, err := w.r.User(context.Background(), &envelope.UserRequest{User: user})
		return (err == nil) == want
	})
}

func TestNotOwned(t *testing.T) {
	w := newOwner(t, nil, newRing(0), nil)
	here, there := userOf(0), userOf(1)
	for call, err := range w.calls(here) {
		if err != nil {
			t.Errorf("%s of an owned partition: %v", call, err)
		}
	}
	for call, err := range w.calls(there) {
		if !errors.Is(err, envelope.ErrUnavailable) || !strings.Contains(err.Error(), "partition 1 is not owned by this router") {
			t.Errorf("%s of another one: %v", call, err)
		}
	}
	// Announced sessions of other partitions are ignored.
	a, b := session("c", 1<<32|1, here, ""), session("c", 1<<32|2, there, "")
	a.Key, b.Key, a.GlobalKey, b.GlobalKey = "k", "k", true, true
	reply := w.announce("c", 1, nil, a, b)
	if _, ok := reply.Epochs[0]; !ok || len(reply.Epochs) != 1 {
		t.Errorf("epochs %v", reply.Epochs)
	}
	l, err := w.r.Lookup(context.Background(), &envelope.LookupRequest{Keys: []string{"k"}})
	if err != nil || len(l.Keyed) != 1 || l.Keyed[0].User != here {
		t.Errorf("lookup by key: %v, %v", l, err)
	}
}

func TestGainLoseRegain(t *testing.T) {
	g := newRing(0)
	w := newOwner(t, nil, g, nil)
	u := userOf(1)
	s := session("c", 1<<32|1, u, "d")
	w.push(u, "a")

	g.set(0, 1)
	w.owns(u, true)
	first := w.announce("c", 1, nil, s).Epochs[1]
	if got := bodies(w.attach(s).Backlog); got != "a" || w.online(u) != 1 {
		t.Fatalf("gained with %q, %d sessions", got, w.online(u))
	}
	if n := w.gauges("imgo_router_sessions")[""]; n != 1 {
		t.Fatalf("%v sessions", n)
	}

	g.set(0)
	w.owns(u, false)
	if n := w.gauges("imgo_router_sessions")[""]; n != 0 {
		t.Fatalf("%v sessions of a lost partition", n)
	}
	w.push(u, "b")

	g.set(0, 1)
	w.owns(u, true)
	if n := w.online(u); n != 0 {
		t.Fatalf("%d sessions at once", n)
	}
	if again := w.announce("c", 1, nil, s).Epochs[1]; again == first {
		t.Fatal("the epoch must change with a gain")
	}
	if got := bodies(w.attach(s).Backlog); got != "ab" || w.online(u) != 1 {
		t.Fatalf("regained with %q, %d sessions", got, w.online(u))
	}
}

// Within the grace a lost partition is still answered for, but not announced
// as owned; one that comes back in it has another epoch.
func TestGrace(t *testing.T) {
	g := newRing(0, 1)
	w := newOwner(t, nil, g, func(c *router.Config) { c.LoseAfter = time.Hour })
	u := userOf(1)
	before := w.announce("c", 1, nil).Epochs[1]
	w.attach(session("c", 1<<32|1, u, "d"))
	g.set(0)
	eventually(t, "no epoch of a lost partition", func() bool {
		_, ok := w.announce("c", 1, nil).Epochs[1]
		return !ok
	})
	w.push(u, "a")
	w.awaitApplied([]string{u})
	if got := bodies(w.attach(session("c", 1<<32|1, u, "d")).Backlog); got != "a" {
		t.Fatalf("in the grace: %q", got)
	}
	g.set(0, 1)
	eventually(t, "another epoch", func() bool {
		e, ok := w.announce("c", 1, nil).Epochs[1]
		return ok && e != before
	})
	if w.online(u) != 1 {
		t.Fatal("the session is gone")
	}
}

// Flapping as quickly as it may never loses anything.
func TestFlapping(t *testing.T) {
	g := newRing(0, 1)
	w := newOwner(t, nil, g, func(c *router.Config) { c.FlushInterval = time.Millisecond })
	u := userOf(1)
	s := session("c", 1<<32|1, u, "d")
	w.attach(s)
	want := ""
	for i := range 100 {
		want += fmt.Sprint(i % 10)
		w.push(u, fmt.Sprint(i%10))
		g.set(0)
		if i%3 == 0 {
			w.owns(u, false)
		}
		g.set(0, 1)
		w.announce("c", 1, nil, s)
	}
	w.owns(u, true)
	w.awaitApplied([]string{u})
	if got := bodies(w.attach(s).Backlog); got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

// A second router takes over with an empty disk, and with an old one; while
// both own the partition both derive the same.
func TestTakeOver(t *testing.T) {
	ga, gb := newRing(0, 1), newRing()
	a := newOwner(t, nil, ga, nil)
	b := newOwner(t, a.kept, gb, nil)
	b.clock = a.clock
	u := userOf(1)
	s := session("c", 1<<32|1, u, "d")
	x := a.push(u, "x")
	a.attach(s)
	a.push(u, "y")
	a.ack(u, "d", x)
	same := func(when string) {
		t.Helper()
		a.awaitApplied([]string{u})
		b.awaitApplied([]string{u})
		if one, two := a.state([]string{u}), b.state([]string{u}); one != two {
			t.Fatalf("%s:\n%s\n%s", when, one, two)
		}
	}
	gb.set(1) // an empty disk
	b.owns(u, true)
	same("both own it")
	if got := bodies(b.attach(s).Backlog); got != "y" {
		t.Fatalf("taken over with %q", got)
	}
	ga.set(0)
	a.owns(u, false)
	z := b.push(u, "z")
	b.ack(u, "d", z)
	b.push(u, "w")
	ga.set(0, 1) // a has its old disk
	a.owns(u, true)
	same("back at the first")
	if got := bodies(a.attach(s).Backlog); got != "yw" {
		t.Fatalf("back with %q", got)
	}
	gb.set()
	b.owns(u, false)
}

func TestCleanUp(t *testing.T) {
	g := newRing(0, 1)
	w := newOwner(t, nil, g, func(c *router.Config) { c.CleanAfter = 500 * time.Millisecond })
	u, other := userOf(1), userOf(0)
	w.push(u, "a")
	w.push(other, "b")
	w.awaitApplied([]string{u, other})
	empty := func(p int32) bool {
		e, err := store.NewMailboxes(w.db).Empty(p)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	g.set(0)
	w.owns(u, false)
	eventually(t, "what is lost was written", func() bool { return !empty(1) })
	w.restart() // what is found on the disk is cleaned, too
	if empty(1) || empty(0) {
		t.Fatal("cleaned too early")
	}
	w.clock.add(time.Second)
	eventually(t, "what is lost for long is deleted", func() bool { return empty(1) })
	if empty(0) {
		t.Fatal("an owned partition was deleted")
	}
	// What is gained after that is read from the log's begin.
	g.set(0, 1)
	w.owns(u, true)
	if got := bodies(w.attach(session("c", 1<<32|1, u, "d")).Backlog); got != "a" {
		t.Fatalf("regained with %q", got)
	}
}

// Nothing is answered from a mailbox that is half rebuilt, and the progress
// is said.
func TestRebuildProgress(t *testing.T) {
	kept := newMemLog(2)
	g := newRing(0)
	w := newOwner(t, kept, g, nil)
	u := userOf(1)
	for range 50 {
		w.push(u, "x")
	}
	kept.inChunks(5)
	kept.stick(1, 20)
	g.set(0, 1)
	eventually(t, "progress", func() bool {
		err := w.r.Ready()
		return errors.Is(err, envelope.ErrNotReady) && strings.Contains(err.Error(), "partition 1: 20 of 50 records")
	})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	for call, err := range map[string]func() error{
		"Attach": func() error {
			_, err := w.r.Attach(ctx, &envelope.AttachRequest{Session: session("c", 1, u, "d")})
			return err
		},
		"CatchUp": func() error {
			_, err := w.r.CatchUp(ctx, &envelope.CatchUpRequest{To: &envelope.Address{Comet: "c"}, User: u})
			return err
		},
		"Lookup":  func() error { _, err := w.r.Lookup(ctx, &envelope.LookupRequest{Users: []string{u}}); return err },
		"Resolve": func() error { _, err := w.r.Resolve(ctx, &envelope.ResolveRequest{Partition: 1}); return err },
	} {
		if err := err(); !errors.Is(err, envelope.ErrNotReady) {
			t.Errorf("%s: %v", call, err)
		}
	}
	// Sessions are taken meanwhile.
	w.announce("c", 1, nil, session("c", 1<<32|1, u, ""))
	answered := make(chan int, 1)
	go func() { answered <- len(w.attach(session("c", 1<<32|2, u, "d")).Backlog.Messages) }()
	kept.stick(1, 0)
	if n := <-answered; n != 50 {
		t.Fatalf("%d messages", n)
	}
	if err := w.r.Ready(); err != nil || w.online(u) != 2 {
		t.Fatalf("ready: %v, %d sessions", err, w.online(u))
	}
}

func TestLag(t *testing.T) {
	w := newOwner(t, nil, newRing(1), nil)
	u := userOf(1)
	for range 3 {
		w.push(u, "x")
	}
	w.awaitApplied([]string{u})
	w.kept.stick(1, 3)
	w.push(u, "x")
	w.push(u, "x")
	if got := w.gauges("imgo_router_lag_records"); len(got) != 1 || got["partition=1"] != 2 {
		t.Errorf("lag %v", got)
	}
	w.kept.stick(1, 0)
}

// gauges are the values of one metric of the router, by their labels.
func (w *world) gauges(name string) map[string]float64 {
	w.t.Helper()
	families, err := w.reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	values := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.Metric {
			label := ""
			for _, l := range m.Label {
				label += l.GetName() + "=" + l.GetValue()
			}
			if f.GetName() == name {
				values[label] = m.GetGauge().GetValue()
			}
		}
	}
	return values
}
