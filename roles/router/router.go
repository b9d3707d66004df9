// Package router is the role that REMEMBERS: for the users of the partitions
// that it owns, which sessions they have and which kept messages they have
// not acknowledged.
//
// It owns the mailboxes: a view of the kept log, applied record by record and
// written behind into the store together with the position it is true for; a
// restart resumes exactly, a lost disk is rebuilt from the log. Sessions live
// in memory only: comets announce them again to an owner that has forgotten.
// It answers who is to get a record only once it has applied that record, and
// it watches: what is still pending after a while is told to the comets.
//
// It is told which partitions it owns and follows the changes. Two routers
// that both think they own a partition derive the same mailboxes from the same
// log; neither harms the other.
//
// It does not write to clients, check tokens, decide what a push means or
// decide who owns what.
package router

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"imgo/envelope"
	"imgo/store"
)

// KeptLog is the kept topic, as router reads it and adds devices to it. If it
// also has the method End(partition int32) int64, the cached end of a
// partition (-1: not known), how far router is behind it is a metric.
type KeptLog interface {
	Partitions() int32
	Generation() uint16
	Read(ctx context.Context, partition int32, from int64, maxBytes int) ([]envelope.Entry, error)
	Bounds(ctx context.Context, partition int32) (begin, end int64, err error)
	AppendEssential(ctx context.Context, partition int32, value []byte) (int64, error)
}

// LiveLog is the live topic, as the owner's watch writes to it.
type LiveLog interface {
	Partitions() int32
	Append(ctx context.Context, partition int32, value []byte) (int64, error)
}

// Deps are what a router works with.
type Deps struct {
	Kept    KeptLog
	Live    LiveLog
	Store   *store.Mailboxes
	Log     zerolog.Logger
	Metrics prometheus.Registerer
	// Owned says which partitions this router owns now, and gives a channel
	// that is closed when that has changed; nil: all of them, for ever. It is
	// called from one goroutine and must not block.
	Owned func() ([]int32, <-chan struct{})
	// Growth is how Kept gets more partitions; nil: it does not.
	Growth Growth
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Events is told what happened to a user's data; nil: nobody.
	Events func(kind, user, detail string)
}

// recentLog is a log that can say what it has in memory without waiting, as the
// embedded one can.
type recentLog interface {
	Recent(partition int32, from int64, maxBytes int) []envelope.Entry
}

// Router is the role. Its methods are safe for concurrent use from New on. A
// call that concerns a partition waits, within its context, until that one was
// applied up to where the log ended when it was gained (envelope.ErrNotReady
// when it was not by then); for one that is not owned here it is answered with
// envelope.ErrUnavailable: ask again whoever owns it then.
type Router struct {
	cfg     Config
	kept    KeptLog
	recent  recentLog // kept, if it is one
	live    LiveLog
	store   *store.Mailboxes
	log     zerolog.Logger
	metrics *metrics
	now     func() time.Time
	event   func(kind, user, detail string)
	bound   bound
	kinds   kinds
	// started tells this router's memory from that of one before it.
	started  uint64
	owned    func() ([]int32, <-chan struct{})
	growth   Growth
	table    atomic.Pointer[[]*partition]
	keeper   keeper
	slots    chan struct{}
	ready    chan struct{}
	flushNow chan struct{}
	// unflushed is about how many bytes wait to be written, of all partitions.
	unflushed atomic.Int64
	// share is how many bytes of bodies each partition may hold.
	share atomic.Int64

	// peersMu is never held while a partition's mu is taken.
	peersMu sync.Mutex
	peers   map[string]*peer
	// forgotten is what the drops of a comet that is met begin at.
	forgotten uint64
}

// New makes the role; it touches nothing yet.
func New(cfg Config, d Deps) (*Router, error) {
	if cfg.MailboxLength < 1 {
		return nil, fmt.Errorf("mailbox length must be at least 1, not %d", cfg.MailboxLength)
	}
	if cfg.SessionsPolicy != RefuseNewest && cfg.SessionsPolicy != CloseOldest {
		return nil, fmt.Errorf("sessions policy %q is neither %q nor %q", cfg.SessionsPolicy, RefuseNewest, CloseOldest)
	}
	r := &Router{
		cfg: cfg, kept: d.Kept, live: d.Live, store: d.Store.ForGeneration(d.Kept.Generation()),
		log: d.Log.With().Str("role", "router").Logger(), metrics: newMetrics(d.Metrics),
		now: d.Now, event: d.Events,
		owned: d.Owned, growth: d.Growth, slots: make(chan struct{}, max(2, runtime.GOMAXPROCS(0))),
		ready: make(chan struct{}), flushNow: make(chan struct{}, 1),
		peers: make(map[string]*peer),
	}
	if r.now == nil {
		r.now = time.Now
	}
	if r.event == nil {
		r.event = func(string, string, string) {}
	}
	r.recent, _ = d.Kept.(recentLog)
	r.started = rand.Uint64()
	r.bound = bound{length: cfg.MailboxLength, dropped: func(user string, n int) {
		r.metrics.dropped.Add(float64(n))
		r.event("mailbox_dropped", user, fmt.Sprintf("%d oldest messages dropped: more than %d are waiting", n, cfg.MailboxLength))
	}}
	if r.owned == nil {
		all := make([]int32, d.Kept.Partitions())
		for i := range all {
			all[i] = int32(i)
		}
		r.owned = func() ([]int32, <-chan struct{}) { return all, nil }
	}
	none := make([]*partition, d.Kept.Partitions())
	r.table.Store(&none)
	r.keeper = newKeeper(len(none))
	r.sizes(d.Metrics)
	return r, nil
}

// Run follows the partitions that are owned until ctx is done, then writes
// what it has and returns. From then on no call is answered.
func (r *Router) Run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.keep(gctx, g) })
	g.Go(func() error { return r.housekeep(gctx) })
	g.Go(func() error { return r.remember(gctx) })
	g.Go(func() error { return r.flushLoop(gctx) })
	if r.growth != nil {
		g.Go(func() error { return r.move(gctx) })
	}
	return g.Wait()
}

// Ready says why the router cannot serve, nil when it can: when each partition
// that it owns was applied up to where the log ended when it was gained.
func (r *Router) Ready() error {
	select {
	case <-r.ready:
	default:
		return envelope.Errorf(envelope.CodeUnavailable, "router is finding its place in the log")
	}
	for _, p := range r.local() {
		p.mu.Lock()
		err := p.err
		p.mu.Unlock()
		if err != nil {
			return fmt.Errorf("partition %d: %w", p.index, err)
		}
		if p.owned.Load() && !p.isUp() {
			return envelope.Errorf(envelope.CodeNotReady, "%s", p.progress())
		}
	}
	return nil
}

// at is a partition that is owned here, once it has caught up with the log.
func (r *Router) at(ctx context.Context, index int32) (*partition, error) {
	if err := r.running(ctx); err != nil {
		return nil, err
	}
	p := (*r.table.Load())[index]
	if p == nil {
		return nil, notOwned(index)
	}
	if p.isUp() {
		return p, nil
	}
	select {
	case <-p.up:
		return p, nil
	case <-p.left:
		return nil, notOwned(index)
	case <-ctx.Done():
		return nil, envelope.Errorf(envelope.CodeNotReady, "router reads the log back, %s: %v", p.progress(), ctx.Err())
	}
}

// of is the partition of a user: see at.
func (r *Router) of(ctx context.Context, user string) (*partition, error) {
	return r.at(ctx, r.index(user))
}

func (r *Router) index(user string) int32 { return envelope.Partition(user, len(*r.table.Load())) }

// local are the partitions that are here: owned, or lost a moment ago.
func (r *Router) local() []*partition {
	var list []*partition
	for _, p := range *r.table.Load() {
		if p != nil {
			list = append(list, p)
		}
	}
	return list
}

// serving are the partitions that are owned and have caught up.
func (r *Router) serving() []*partition {
	return slices.DeleteFunc(r.local(), func(p *partition) bool { return !p.owned.Load() || !p.isUp() })
}

// running waits until Run knows which partitions are owned.
func (r *Router) running(ctx context.Context) error {
	select {
	case <-r.ready:
		return nil
	default:
	}
	select {
	case <-r.ready:
		return nil
	case <-ctx.Done():
		return envelope.Errorf(envelope.CodeUnavailable, "router is still starting: %v", ctx.Err())
	}
}

// housekeep is the watch and what else comes round.
func (r *Router) housekeep(ctx context.Context) error {
	watch := time.NewTicker(r.cfg.WatchInterval)
	defer watch.Stop()
	expire := time.NewTicker(time.Minute)
	defer expire.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-watch.C:
			now := r.now()
			r.bury(now)
			if !r.cfg.Faults.NoWatch {
				r.watch(ctx, now)
			}
		case <-expire.C:
			now := r.now()
			for _, p := range r.serving() {
				r.metrics.expired.Add(float64(p.expire(now)))
			}
			r.refresh(ctx, now)
		}
	}
}
