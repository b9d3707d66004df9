package model_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"imgo/cluster/rpc"
	"imgo/envelope"
	"imgo/roles/comet"
	"imgo/roles/job"
	"imgo/roles/logic"
	"imgo/roles/router"
	"imgo/store"
)

// dice are random numbers for many goroutines.
type dice struct {
	mu  sync.Mutex
	rng *rand.Rand
}

func newDice(seed uint64) *dice { return &dice{rng: rand.New(rand.NewPCG(seed, 7))} }

func (d *dice) float() float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rng.Float64()
}

func (d *dice) n(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rng.IntN(n)
}

// rates are how often each fault happens.
type rates struct {
	drop, double, late, retry float64
	lateMax                   time.Duration
	// topic is how often an append to the events topic fails, or seems to.
	topic float64
	// lag is how often a router reads the log late, by up to lateMax.
	lag float64
}

// faults are on until the end of the run, when everything has to arrive.
type faults struct {
	dice *dice
	off  atomic.Bool
	rates
}

func (f *faults) hit(p float64) bool { return !f.off.Load() && f.dice.float() < p }

// doublingLog is the kept log whose producer retries appends that had worked.
type doublingLog struct {
	*store.Log
	f *faults
}

func (l doublingLog) AppendMany(ctx context.Context, entries []envelope.Entry) error {
	if err := l.Log.AppendMany(ctx, entries); err != nil {
		return err
	}
	if l.f.hit(l.f.retry) {
		again := make([]envelope.Entry, len(entries))
		copy(again, entries)
		return l.Log.AppendMany(ctx, again)
	}
	return nil
}

// laggingLog is the kept log as a router reads it that is not up to date.
type laggingLog struct {
	doublingLog
}

func (l laggingLog) Read(ctx context.Context, p int32, from int64, maxBytes int) ([]envelope.Entry, error) {
	entries, err := l.doublingLog.Read(ctx, p, from, maxBytes)
	if l.f.hit(l.f.lag) {
		select {
		case <-time.After(time.Duration(l.f.dice.n(int(l.f.lateMax)))):
		case <-ctx.Done():
		}
	}
	return entries, err
}

// place is a router that comes and goes, with its disk or without.
type place struct {
	mu sync.RWMutex
	r  *router.Router // nil: it is down
}

func (p *place) get() (*router.Router, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.r == nil {
		return nil, envelope.Errorf(envelope.CodeUnavailable, "router is down")
	}
	return p.r, nil
}

// view is which router somebody believes to own the partitions.
type view struct {
	places []*place
	which  atomic.Int32
}

func (v *view) owner() (*router.Router, error) { return v.places[v.which.Load()].get() }

// routers is a view as logic sees it.
type routers struct {
	*view
	partitions int32
}

func (v routers) Owner(int32) (logic.Router, error) {
	r, err := v.owner()
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (v routers) All() []logic.Router {
	if r, err := v.owner(); err == nil {
		return []logic.Router{r}
	}
	return nil
}

func (v routers) Partitions() int32 { return v.partitions }

// owners is a view as job sees it.
type owners struct{ *view }

func (v owners) Owner(int32) (job.Router, error) {
	r, err := v.owner()
	if err != nil {
		return nil, err
	}
	return r, nil
}

// node is a comet that may be hung, and the logic that it talks to.
type node struct {
	name  string
	comet *comet.Comet
	logic *logic.Logic
	view  *view
	hung  atomic.Bool
}

// errHung is what a call to or from a hung comet ends in.
var errHung = envelope.Errorf(envelope.CodeUnavailable, "comet is hung")

// link is the way from job to a comet: it drops, doubles, delays and so
// reorders what goes over it.
type link struct {
	n *node
	f *faults
	g *sync.WaitGroup
}

func (l link) Push(ctx context.Context, req *envelope.PushRequest) (*envelope.PushReply, error) {
	if l.n.hung.Load() {
		return nil, errHung
	}
	for _, d := range req.Deliveries {
		one := &envelope.PushRequest{Deliveries: []*envelope.Delivery{d}}
		copies := 1
		if l.f.hit(l.f.double) {
			copies = 2
		}
		for range copies {
			switch {
			case l.f.hit(l.f.drop):
			case l.f.hit(l.f.late):
				pause := time.Duration(l.f.dice.n(int(l.f.lateMax)))
				l.g.Go(func() {
					time.Sleep(pause)
					if !l.n.hung.Load() {
						_, _ = l.n.comet.Push(context.Background(), one)
					}
				})
			default:
				if _, err := l.n.comet.Push(ctx, one); err != nil {
					return nil, err
				}
			}
		}
	}
	return &envelope.PushReply{}, nil // no rooms here: see rooms_test.go
}

// upstream returns the way from a comet to its logic.
func upstream(n *node) comet.Logic {
	return rpc.AnyLogic(func(ctx context.Context, call func(context.Context, rpc.Logic) error) error {
		if n.hung.Load() {
			return errHung
		}
		return call(ctx, n.logic)
	})
}

// comets are both comets, as jobs and logics see them.
type comets struct {
	nodes []*node
	f     *faults
	g     *sync.WaitGroup
}

func (c comets) Comet(name string) job.Comet {
	for _, n := range c.nodes {
		if n.name == name {
			return link{n, c.f, c.g}
		}
	}
	return nil
}

func (c comets) Names() []string { return []string{c.nodes[0].name, c.nodes[1].name} }

func (c comets) All() map[string]logic.Comet { return nil }

// positions are where the jobs have come to, stored now and then. As a Group
// they give every job all partitions, for as long as it lives: two jobs are
// two that both think they own everything.
type positions struct {
	mu   sync.Mutex
	dice *dice
	next map[job.Part]int64 // of a Part without its Next
}

func newPositions(d *dice) *positions {
	p := &positions{dice: d, next: make(map[job.Part]int64)}
	for _, t := range []job.Topic{job.Kept, job.Live} {
		for partition := range int32(2) {
			p.next[job.Part{Topic: t, Partition: partition}] = 0
		}
	}
	return p
}

// group is positions for one job.
type group struct {
	*positions
	given bool
}

func (g *group) Next(ctx context.Context) (job.Assignment, error) {
	if g.given {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	g.given = true
	return g.positions, nil
}

func (p *positions) Done() <-chan struct{} { return nil }

func (p *positions) Parts() (parts []job.Part) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for part, next := range p.next {
		part.Next = next
		parts = append(parts, part)
	}
	return parts
}

func (p *positions) Commit(_ context.Context, at []job.Part) error {
	if p.dice.float() > 0.3 {
		return envelope.ErrUnavailable
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, part := range at {
		next := part.Next
		part.Next = 0
		p.next[part] = max(p.next[part], next)
	}
	return nil
}
