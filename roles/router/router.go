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
// It does not write to clients, check tokens or decide what a push means.
package router

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"imgo/envelope"
	"imgo/store"
)

// KeptLog is the kept topic, as router reads it and adds devices to it.
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
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Events is told what happened to a user's data; nil: nobody.
	Events func(kind, user, detail string)
}

// Router is the role. Its methods are safe for concurrent use from New on;
// they answer once Run has found where each partition goes on.
type Router struct {
	cfg     Config
	kept    KeptLog
	live    LiveLog
	store   *store.Mailboxes
	log     zerolog.Logger
	metrics *metrics
	now     func() time.Time
	event   func(kind, user, detail string)
	bound   bound
	// started tells this router's memory from that of one before it.
	started    uint64
	partitions []*partition
	ready      chan struct{}
	flushNow   chan struct{}

	peersMu sync.Mutex
	peers   map[string]*peer
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
		cfg: cfg, kept: d.Kept, live: d.Live, store: d.Store,
		log: d.Log.With().Str("role", "router").Logger(), metrics: newMetrics(d.Metrics),
		now: d.Now, event: d.Events,
		ready: make(chan struct{}), flushNow: make(chan struct{}, 1),
		peers: make(map[string]*peer),
	}
	if r.now == nil {
		r.now = time.Now
	}
	if r.event == nil {
		r.event = func(string, string, string) {}
	}
	r.started = uint64(r.now().UnixNano())
	r.bound = bound{length: cfg.MailboxLength, dropped: func(user string, n int) {
		r.metrics.dropped.Add(float64(n))
		r.event("mailbox_dropped", user, fmt.Sprintf("%d oldest messages dropped: more than %d are waiting", n, cfg.MailboxLength))
	}}
	for i := range d.Kept.Partitions() {
		r.partitions = append(r.partitions, newPartition(r, i))
	}
	r.sizes(d.Metrics)
	return r, nil
}

// Run follows the log until ctx is done, then writes what it has and returns.
func (r *Router) Run(ctx context.Context) error {
	for _, p := range r.partitions {
		if err := p.start(ctx); err != nil {
			return fmt.Errorf("router: %w", err)
		}
	}
	close(r.ready)
	g, gctx := errgroup.WithContext(ctx)
	for _, p := range r.partitions {
		g.Go(func() error { return p.run(gctx) })
	}
	g.Go(func() error { return r.housekeep(gctx) })
	g.Go(func() error { return r.flushLoop(gctx) })
	err := g.Wait()
	for _, p := range r.partitions {
		if ferr := p.flush(true); ferr != nil {
			r.log.Error().Err(ferr).Msg("the last changes were not written: they are read from the log again")
		}
	}
	return err
}

// Ready says why the router cannot serve, nil when it can.
func (r *Router) Ready() error {
	select {
	case <-r.ready:
	default:
		return envelope.Errorf(envelope.CodeUnavailable, "router is finding its place in the log")
	}
	for _, p := range r.partitions {
		p.mu.Lock()
		err := p.err
		p.mu.Unlock()
		if err != nil {
			return fmt.Errorf("partition %d: %w", p.index, err)
		}
	}
	return nil
}

func (r *Router) partition(user string) *partition {
	return r.partitions[envelope.Partition(user, len(r.partitions))]
}

// started waits until Run knows where the partitions go on.
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
			if !r.cfg.Without.Watch {
				r.watch(ctx, now)
			}
		case <-expire.C:
			now := r.now()
			for _, p := range r.partitions {
				r.metrics.expired.Add(float64(p.expire(now)))
			}
			r.refresh(ctx, now)
			r.forgetPeers(now)
		}
	}
}

// forgetPeers drops what is known of comets that are gone for a day.
func (r *Router) forgetPeers(now time.Time) {
	r.peersMu.Lock()
	defer r.peersMu.Unlock()
	for name, p := range r.peers {
		if now.Sub(p.seen) > 24*time.Hour {
			delete(r.peers, name)
		}
	}
}
