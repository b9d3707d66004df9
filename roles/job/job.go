// Package job is the role that CARRIES: it reads envelopes off the log, groups
// them by comet and tells each comet, in the order of the partition.
//
// It carries the partitions that its group assigns to it, from the positions
// that are stored, and has a bounded queue for each comet. A comet that is down
// or slow is skipped and counted, and never holds up another: what was kept is
// found again by its owner's watch, so nothing here is tried for ever. A
// position is stored once everything before it was told to the comets or
// skipped: a job that dies costs that some of it is told again.
//
// It stores no message and decides nothing: who gets a kept record is asked of
// the record's owner, and which comets are left out for a room is what they
// said themselves (rooms.go).
package job

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/envelope"
)

// Log is a topic as job reads it. One that also has End(partition int32) int64,
// the offset after the last record as far as is known without asking (-1: not
// known), has its lag measured.
type Log interface {
	Partitions() int32
	Generation() uint16
	Read(ctx context.Context, partition int32, from int64, maxBytes int) ([]envelope.Entry, error)
	Bounds(ctx context.Context, partition int32) (begin, end int64, err error)
}

// Router is the owner of a partition, as job asks it.
type Router interface {
	Resolve(ctx context.Context, req *envelope.ResolveRequest) (*envelope.ResolveReply, error)
}

// Owners finds the owner of a partition of the kept topic. The same owner is the
// same (comparable) Router every time.
type Owners interface {
	Owner(partition int32) (Router, error)
}

// Comet is a comet, as job tells it.
type Comet interface {
	// Push gives deliveries to the comet's sessions, in order. The reply says
	// which rooms nobody there is in.
	Push(ctx context.Context, req *envelope.PushRequest) (*envelope.PushReply, error)
}

// Comets finds the comets that are alive. Safe for concurrent use, and quick.
type Comets interface {
	// Comet is the comet of a name; nil: it is not alive. The same comet is
	// the same (comparable) Comet every time, and another one another.
	Comet(name string) Comet
	// Names are all comets that are alive.
	Names() []string
}

// Config are job's settings.
type Config struct {
	// ReadBytes is about how much is read and carried at a time.
	ReadBytes int
	// ResolveTimeout bounds one question to an owner; job asks again until it
	// is answered, for that partition alone.
	ResolveTimeout time.Duration
	// PushTimeout bounds one call to a comet, which answers when it has written:
	// what goes to a million clients takes seconds, and is no sign that it hangs.
	PushTimeout time.Duration
	// QueueBytes bounds what waits for one comet; past it deliveries to that
	// comet are skipped and counted.
	QueueBytes int
	// PushBytes is about how much one call to a comet carries at most.
	PushBytes int
	// DeniedRooms bounds the pairs of a comet and a room that nobody there is
	// in that are remembered; past it comets are told of more than they need.
	DeniedRooms int
}

// DefaultConfig are the defaults.
func DefaultConfig() Config {
	return Config{ReadBytes: 256 << 10, ResolveTimeout: 5 * time.Second, PushTimeout: 10 * time.Second, QueueBytes: 32 << 20,
		PushBytes: 1 << 20, DeniedRooms: 1_000_000}
}

// Deps are what a job works with.
type Deps struct {
	Kept, Live Log
	Owners     Owners
	Comets     Comets
	// Here says that all owners and comets are in this process: to call them is
	// to call a method, which waits for nobody who is far. Lone records of a Kept
	// that can be followed are then carried by who commits them (prompt.go).
	Here bool
	// Group may be nil: job then carries every partition, from the end of both
	// topics as New finds it, which is right where every session is newer than
	// job (one process).
	Group   Group
	Log     zerolog.Logger
	Metrics prometheus.Registerer
}

// Job is the role.
type Job struct {
	cfg     Config
	d       Deps
	log     zerolog.Logger
	often   zerolog.Logger // for what may happen for every batch
	metrics *metrics
	rooms   *budget

	// over is a context that is done: a call with it does not wait.
	over context.Context

	mu      sync.Mutex
	kept    map[int32]*reader // of the kept topic, of the assignment that is carried
	senders map[string]*sender
	sending *sync.WaitGroup
	sendCtx context.Context
}

// New makes the role. A job without a group begins to read where the log ends
// now; ctx bounds finding that out.
func New(ctx context.Context, cfg Config, d Deps) (*Job, error) {
	if d.Group == nil {
		var err error
		if d.Group, err = newAlone(ctx, &d); err != nil {
			return nil, err
		}
	}
	j := &Job{cfg: cfg, d: d, log: d.Log.With().Str("role", "job").Logger(), metrics: newMetrics(d.Metrics),
		rooms: &budget{max: int64(cfg.DeniedRooms)}, senders: make(map[string]*sender)}
	var end context.CancelFunc
	j.over, end = context.WithCancel(context.Background())
	end()
	// A comet that is away fails every batch: a line a second says it, the
	// metrics count it.
	j.often = j.log.Sample(&zerolog.BurstSampler{Burst: 1, Period: time.Second})
	return j, nil
}

// Run carries until ctx is done. What was read by then is still told to the
// comets, but not for long, and its position stored.
func (j *Job) Run(ctx context.Context) error {
	sending, stopSending := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSending()
	var senders, pruning sync.WaitGroup
	j.mu.Lock()
	j.sending, j.sendCtx = &senders, sending
	j.mu.Unlock()
	pruning.Go(func() { j.prune(ctx) })
	defer j.follow()()
	var pause pause
	for ctx.Err() == nil {
		a, err := j.d.Group.Next(ctx)
		if err == nil {
			pause = 0
			j.serve(ctx, a)
			continue
		}
		if ctx.Err() == nil {
			j.often.Warn().Err(err).Msg("no partitions were assigned yet; asking again")
		}
		t := time.NewTimer(pause.longer())
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
	pruning.Wait()
	stopSending()
	senders.Wait()
	return nil
}

// Ready is always nil: a job that waits for an owner says so in its metrics,
// and the owner says why.
func (j *Job) Ready() error { return nil }

// prune ends the senders of comets that are gone.
func (j *Job) prune(ctx context.Context) {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		j.mu.Lock()
		for name, s := range j.senders {
			if j.d.Comets.Comet(name) == nil {
				s.end()
				delete(j.senders, name)
			}
		}
		j.mu.Unlock()
	}
}

// deliver queues deliveries for a comet, as part of a span; with now, where
// nothing is in the way, they are the caller's to tell.
func (j *Job) deliver(name string, b *batch, now bool) (mine claimed, ok bool) {
	if j.d.Comets.Comet(name) == nil {
		j.metrics.skipped.WithLabelValues("gone").Add(float64(len(b.items)))
		return mine, false
	}
	j.mu.Lock()
	ctx, s := j.sendCtx, j.senders[name]
	if s == nil {
		s = newSender(j, name)
		j.senders[name] = s
		j.sending.Go(func() { s.run(ctx) })
	}
	// Under mu, so that prune cannot end s in between.
	if now && s.claim(b) {
		j.sending.Add(1)
		j.mu.Unlock()
		return claimed{s, ctx, b}, true
	}
	queued := s.put(b)
	j.mu.Unlock()
	if !queued {
		j.metrics.skipped.WithLabelValues("slow").Add(float64(len(b.items)))
	}
	return mine, false
}
