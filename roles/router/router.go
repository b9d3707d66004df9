// Package router is the role that remembers: for the users of the partitions
// that it owns, the sessions that they have and the kept messages that they
// have not acknowledged.
//
// It owns the mailboxes, which are a view of the kept log. It applies the log record by
// record. It writes the mailboxes behind into the store, together with the position for
// which they are true. A restart resumes exactly, and a lost disk is rebuilt from the
// log. Sessions live in memory only: comets announce them again to an owner that has
// forgotten. It answers which sessions are to get a record only once it has applied that
// record. It also watches: the comets are told of what is still pending after a while.
//
// It is told which partitions it owns and follows the changes. Two routers
// that both think they own a partition derive the same mailboxes from the same
// log; neither harms the other.
//
// It does not write to clients, check tokens, decide what a push means or
// decide which router owns a partition.
package router

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"imgo/envelope"
	"imgo/internal/wait"
	"imgo/store"
)

// KeptLog is the kept topic, as router reads it and adds devices to it. If it
// also has the method End(partition int32) int64, the cached end of a
// partition (-1: not known), how far router is behind it is a metric.
type KeptLog interface {
	envelope.Log
	AppendEssential(ctx context.Context, partition int32, value []byte) (int64, error)
}

// LiveLog is the live topic, as the owner's watch writes to it.
type LiveLog interface {
	Partitions() int32
	Append(ctx context.Context, partition int32, value []byte) (int64, error)
}

// Store is where the mailboxes of the log's generation are kept: a
// *store.Mailboxes.
type Store interface {
	Load(partition int32, user string) (*store.MailboxMeta, []store.MailboxEntry, error)
	Bodies(partition int32, user string, entries []store.MailboxEntry) ([]*envelope.Kept, error)
	Used(partition int32, user, key string) (id uint64, ok bool, err error)
	Claimed(partition int32, key string) (c store.MailboxClaim, ok bool, err error)
	Position(partition int32) (id uint64, version uint32, ok bool, err error)
	Empty(partition int32) (bool, error)
	Users(partition int32, after string, limit int) ([]store.MailboxUser, error)
	Keys(partition int32, after store.UsedKey, limit int) ([]store.UsedKey, error)
	Batch(partition int32) *store.MailboxBatch
	Dues(partition int32, after store.DueTime, untilMS int64, limit int) (dues []store.DueTime, next int64, ok bool, err error)
	Online(partition int32, after string, limit int) ([]string, error)
	DropPartition(ctx context.Context, partition int32) error
	DropOlder(ctx context.Context) (dropped bool, err error)
}

// Deps are what a router works with.
type Deps struct {
	Kept    KeptLog
	Live    LiveLog
	Store   Store
	Log     zerolog.Logger
	Metrics prometheus.Registerer
	// Owned returns the partitions that this router owns now, and a channel
	// that is closed when that has changed. If it is nil, all are owned, for ever. It is
	// called from one goroutine and must not block.
	Owned func() ([]int32, <-chan struct{})
	// Topic is where the events of pushes that ask for a report go. If it is nil, there are none.
	Topic EventsLog
	// Growth is how Kept gets more partitions. If it is nil, Kept gets none.
	Growth Growth
	// Records is the version of kept records in use, as far as it is known when the router
	// starts. 0 means 1. A stored mailbox that was derived by a router of a lower version may lack
	// what such records did.
	Records uint32
	// Versions is asked before a record of a newer version is appended. If it is nil, all nodes read all.
	Versions RecordVersions
	// Now is the node's clock. If it is nil, time.Now is used.
	Now func() time.Time
	// Notices is called with what happened to a user's data. n is how often, for what may
	// happen again and again, else 0. If it is nil, nothing is reported.
	Notices func(kind, user string, n int, detail string)
}

// recentLog is a log that returns what it has in memory without waiting, as the
// embedded one does.
type recentLog interface {
	Recent(partition int32, from int64, maxBytes int) []envelope.Entry
}

// resources are what all parts of a router work with.
type resources struct {
	cfg      Config
	kept     KeptLog
	recent   recentLog // kept, if it is one; else nil
	live     LiveLog
	store    Store
	log      zerolog.Logger
	metrics  *metrics
	now      func() time.Time
	clock    *logClock
	notice   func(kind, user string, n int, detail string)
	kinds    sessionKinds
	records  uint32 // Deps.Records
	versions RecordVersions
	// presenceRefused is set if some node does not read records of presence, and the log says so.
	presenceRefused atomic.Bool
	// eventsLog is Deps.Topic.
	eventsLog EventsLog
	// readSlots bounds the partitions that are read back side by side.
	readSlots chan struct{}
	// flushNow asks for a flush before the interval is over. ended says that a partition has ended that was not lost.
	flushNow, ended wait.Signal
	// unflushed is about how many bytes wait to be written, or are being written, of
	// all partitions.
	unflushed atomic.Int64
	// cacheShare is how many bytes of bodies each partition may hold.
	cacheShare atomic.Int64
}

// append encodes a record and puts it into the kept log. It returns the
// record's id. what names the record in an error.
func (res *resources) append(ctx context.Context, partition int32, rec *envelope.Record, what string) (id uint64, err error) {
	rec.Id, rec.TimeMs = envelope.NewRecordID(), res.clock.Now().UnixMilli()
	value, err := rec.MarshalVT()
	if err != nil {
		return 0, fmt.Errorf("encode %s: %w", what, err)
	}
	offset, err := res.kept.AppendEssential(ctx, partition, value)
	if err != nil {
		return 0, fmt.Errorf("append %s: %w", what, err)
	}
	return envelope.ID(res.kept.Generation(), offset), nil
}

// appendDevice puts a device record into the kept log. It returns its id.
func (res *resources) appendDevice(ctx context.Context, partition int32, d *envelope.Device) (id uint64, err error) {
	id, err = res.append(ctx, partition, &envelope.Record{Device: d}, "a device")
	if err != nil {
		err = fmt.Errorf("user %q: %w", d.User, err)
	}
	return id, err
}

// Router is the role. Its methods are safe for concurrent use from New on. A
// call that concerns a partition waits, within its context, until that one was
// applied up to where the log ended when it was gained. It returns
// envelope.ErrNotReady when it was not by then, and envelope.ErrUnavailable for
// a partition that is not owned here: the caller asks its owner again.
type Router struct {
	*resources
	parts    *ownership
	presence *presence
	growth   Growth
}

// New makes the role; it touches nothing yet.
func New(cfg Config, d Deps) (*Router, error) {
	if cfg.MailboxLength < 1 {
		return nil, fmt.Errorf("mailbox length must be at least 1, not %d", cfg.MailboxLength)
	}
	if err := cfg.checkPolicies(); err != nil {
		return nil, err
	}
	res := &resources{
		cfg: cfg, kept: d.Kept, live: d.Live, store: d.Store,
		log: d.Log.With().Str("role", "router").Logger(), metrics: newMetrics(d.Metrics), now: d.Now, notice: d.Notices,
		records: d.Records, versions: d.Versions, eventsLog: d.Topic,
		readSlots: make(chan struct{}, max(2, runtime.GOMAXPROCS(0))), flushNow: wait.NewSignal(), ended: wait.NewSignal(),
	}
	if res.now == nil {
		res.now = time.Now
	}
	res.clock = newLogClock(res.now)
	if res.notice == nil {
		res.notice = func(string, string, int, string) {}
	}
	res.recent, _ = d.Kept.(recentLog)
	parts := newOwnership(res, d.Owned)
	exportSizes(d.Metrics, parts)
	return &Router{resources: res, parts: parts, presence: newPresence(parts), growth: d.Growth}, nil
}

// Run follows the partitions that are owned until ctx is done, then writes
// what it has and returns. From then on no call is answered.
func (r *Router) Run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.parts.run(gctx, g) })
	g.Go(func() error { return r.housekeep(gctx) })
	g.Go(func() error { return r.watchLoop(gctx) })
	g.Go(func() error { return r.noteLoop(gctx) })
	g.Go(func() error { return r.repeatDevices(gctx) })
	g.Go(func() error { return r.flushLoop(gctx) })
	if r.growth != nil {
		g.Go(func() error { return r.moveLoop(gctx) })
	}
	return g.Wait()
}

// Ready returns why the router cannot serve. It returns nil once each partition
// that it owns was applied up to where the log ended when it was gained.
func (r *Router) Ready() error {
	if !isClosed(r.parts.ready) {
		return envelope.Errorf(envelope.CodeUnavailable, "router is finding its place in the log")
	}
	for _, p := range r.parts.local() {
		p.mu.Lock()
		err := cmp.Or(p.err, p.writes.errLocked())
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

// housekeep drops the sessions of silent comets, and what is over, until ctx is done. It works in
// memory only: a log or a store that does not answer never delays it.
func (r *Router) housekeep(ctx context.Context) error {
	comets := time.NewTicker(r.cfg.WatchInterval)
	defer comets.Stop()
	expire := time.NewTicker(time.Minute)
	defer expire.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-comets.C:
			r.presence.expireComets(r.now())
		case <-expire.C:
			for _, p := range r.parts.serving() {
				r.metrics.expired.Add(float64(p.expire()))
			}
		}
	}
}
