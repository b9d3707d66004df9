// Package job is the role that carries. It reads records and envelopes off the log,
// groups the deliveries by comet, and pushes them to each comet in the order of the
// partition.
//
// It carries the partitions that its group assigns to it, from the stored positions, and
// has a bounded queue for each comet. A comet that is down or slow is skipped and
// counted, and never delays another one. The owner's watch finds kept messages that were
// skipped, so nothing is retried for ever. A position is stored once everything before it
// was pushed or skipped. If a job dies, some deliveries are pushed twice.
//
// It stores no message and decides nothing. The record's owner says which sessions get
// a kept record, and the comets say which rooms have no member there (denials.go).
package job

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/internal/wait"
)

// Router is the owner of a partition, as job asks it.
type Router interface {
	Resolve(ctx context.Context, req *envelope.ResolveRequest) (*envelope.ResolveReply, error)
}

// Owners finds the owner of a partition of the kept topic. Two calls return the same
// (comparable) Router if and only if the owner is the same.
type Owners interface {
	Owner(partition int32) (Router, error)
}

// Comet is a comet, as job pushes to it.
type Comet interface {
	// Push gives deliveries to the comet's sessions, in order. The reply names the
	// rooms that have no member there.
	Push(ctx context.Context, req *envelope.PushRequest) (*envelope.PushReply, error)
}

// Comets finds the comets that are alive. It is safe for concurrent use and does not
// block.
type Comets interface {
	// Comet returns the comet of a name, or nil if it is not alive. Two calls return the
	// same (comparable) Comet if and only if the comet is the same process.
	Comet(name string) Comet
	// Names returns the names of all comets that are alive.
	Names() []string
}

// Config holds the settings of a job.
type Config struct {
	// ReadBytes is about how much is read and carried at a time.
	ReadBytes int
	// ResolveTimeout bounds one question to an owner. The question is repeated until it
	// is answered; only that partition waits for it.
	ResolveTimeout time.Duration
	// PushTimeout bounds one call to a comet, which answers after it has written. A push
	// to a million clients takes seconds and is no sign that the comet hangs.
	PushTimeout time.Duration
	// QueueBytes bounds the queue of one comet. Deliveries over the bound are skipped
	// and counted.
	QueueBytes int
	// PushBytes is about how much one call to a comet carries at most.
	PushBytes int
	// DeniedRooms bounds the remembered pairs of a comet and a room without a member
	// there. Over the bound, comets get messages of rooms that they do not need.
	DeniedRooms int
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		ReadBytes: 256 << 10, ResolveTimeout: 5 * time.Second, PushTimeout: 10 * time.Second,
		QueueBytes: 32 << 20, PushBytes: 1 << 20, DeniedRooms: 1_000_000,
	}
}

// Deps are the parts of the system that a job works with.
type Deps struct {
	// Kept and Live are the topics. Of one that also has the method End(partition int32) int64, job measures its
	// lag. End returns the offset after the last record as far as it is known without asking. It is -1 if it is not known.
	Kept, Live envelope.Log
	Owners     Owners
	Comets     Comets
	// Local is the router that owns every partition, if that router and all comets are
	// in this process. It is nil if they may be remote. Lone records of a Kept that can be
	// followed then take the fast path (fastpath.go).
	Local LocalRouter
	// Group may be nil. Job then carries every partition from the end of both topics,
	// as New finds it. That is right where every session is newer than the job, as in a
	// node that runs alone.
	Group   Group
	Log     zerolog.Logger
	Metrics prometheus.Registerer
}

// Job is the role.
type Job struct {
	cfg     Config
	d       Deps
	log     zerolog.Logger
	sampled zerolog.Logger // for events that may repeat with every batch
	metrics *metrics
	rooms   *roomBudget

	mu      sync.Mutex
	kept    map[int32]*reader // of the kept topic, with an open fast path
	senders map[string]*sender
	sending *sync.WaitGroup
	sendCtx context.Context
}

// New makes the role. A job without a group begins where the log ends now; ctx bounds
// the time to find that out.
func New(ctx context.Context, cfg Config, d Deps) (*Job, error) {
	if d.Group == nil {
		var err error
		if d.Group, err = newSoleGroup(ctx, &d); err != nil {
			return nil, err
		}
	}
	j := &Job{
		cfg: cfg, d: d, log: d.Log.With().Str("role", "job").Logger(), metrics: newMetrics(d.Metrics),
		rooms: &roomBudget{max: int64(cfg.DeniedRooms)}, senders: make(map[string]*sender),
	}
	// A comet that is away fails every batch. One line a second is enough: the metrics
	// count all of them.
	j.sampled = j.log.Sample(&zerolog.BurstSampler{Burst: 1, Period: time.Second})
	return j, nil
}

// retryMin and retryMax bound the pauses between tries. They are short: a partition
// whose owner is gone has to find the next owner soon.
const retryMin, retryMax = 5 * time.Millisecond, 200 * time.Millisecond

func newBackoff() wait.Backoff { return wait.Backoff{Min: retryMin, Max: retryMax} }

// Run carries until ctx is done. It then waits a short time for the pushes of what was
// read, and stores the positions.
func (j *Job) Run(ctx context.Context) error {
	sending, stopSending := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSending()
	var senders, pruning sync.WaitGroup
	j.mu.Lock()
	j.sending, j.sendCtx = &senders, sending
	j.mu.Unlock()
	pruning.Go(func() { j.pruneLoop(ctx) })
	defer j.followKept()()
	backoff := newBackoff()
	for ctx.Err() == nil {
		a, err := j.d.Group.Next(ctx)
		if err == nil {
			backoff.Reset()
			j.serve(ctx, a)
			continue
		}
		if ctx.Err() == nil {
			j.sampled.Warn().Err(err).Msg("no partitions were assigned yet; asking again")
		}
		_ = backoff.Sleep(ctx)
	}
	pruning.Wait()
	stopSending()
	senders.Wait()
	return nil
}

// Ready always returns nil. A job that waits for an owner counts that in its metrics,
// and the owner reports the reason.
func (j *Job) Ready() error { return nil }

// pruneInterval is how often senders of comets that are gone are removed.
const pruneInterval = 10 * time.Second

func (j *Job) pruneLoop(ctx context.Context) {
	for wait.Sleep(ctx, pruneInterval) == nil {
		j.mu.Lock()
		for name, s := range j.senders {
			if j.d.Comets.Comet(name) == nil {
				s.close()
				delete(j.senders, name)
			}
		}
		j.mu.Unlock()
	}
}

// enqueue queues a batch for a comet. If direct is set and the comet is idle, the
// caller gets the comet's push slot instead: ok is true, and the caller must push with it.
func (j *Job) enqueue(comet string, b *batch, direct bool) (slot pushSlot, ok bool) {
	if j.d.Comets.Comet(comet) == nil {
		j.skipped("gone", len(b.items))
		return pushSlot{}, false
	}
	j.mu.Lock()
	ctx, s := j.sendCtx, j.senders[comet]
	if s == nil {
		s = newSender(j, comet)
		j.senders[comet] = s
		j.sending.Go(func() { s.run(ctx) })
	}
	// Under mu, so that pruneLoop cannot close s in between.
	if direct && s.acquireSlot(b) {
		j.sending.Add(1)
		j.mu.Unlock()
		return pushSlot{s, ctx, b}, true
	}
	queued := s.enqueue(b)
	j.mu.Unlock()
	if !queued {
		j.skipped("slow", len(b.items))
	}
	return pushSlot{}, false
}

// skipped counts deliveries that were not carried.
func (j *Job) skipped(reason string, n int) {
	j.metrics.skipped.WithLabelValues(reason).Add(float64(n))
}

// unread counts records that were not read.
func (j *Job) unread(reason string, n int) {
	j.metrics.unread.WithLabelValues(reason).Add(float64(n))
}

// cancelWhen calls cancel once changed reports true. It checks once an interval until ctx
// is done, and starts no goroutine before the first check.
func cancelWhen(ctx context.Context, interval time.Duration, changed func() bool, cancel func()) *time.Timer {
	return time.AfterFunc(interval, func() {
		switch {
		case ctx.Err() != nil:
		case changed():
			cancel()
		default:
			cancelWhen(ctx, interval, changed, cancel)
		}
	})
}
