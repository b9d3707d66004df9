// Package job is the role that CARRIES: it reads envelopes off the log, groups
// them by comet and tells each comet, in the order of the partition.
//
// It owns its position in each partition and a bounded queue for each comet. A
// comet that is down or slow is skipped and counted, and never holds up
// another: what was kept is found again by its owner's watch, so nothing here
// is tried for ever or remembered. It stores no message and decides nothing:
// who gets a kept record is asked of the record's owner.
package job

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"imgo/envelope"
)

// Log is a topic as job reads it.
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

// Owners finds the owner of a partition of the kept topic.
type Owners interface {
	Owner(partition int32) (Router, error)
}

// Comet is a comet, as job tells it.
type Comet interface {
	Push(ctx context.Context, req *envelope.PushRequest) error
}

// Comets finds the comets that are alive.
type Comets interface {
	// Comet is the comet of a name; nil: it is not alive.
	Comet(name string) Comet
	// Names are the comets that are alive; room tells which room an envelope
	// is for ("" for everyone), so that comets that surely have no member of
	// it may be left out.
	Names(room string) []string
}

// Positions remembers how far job has come, for the next job.
type Positions interface {
	Load(topic Topic, partition int32) (next int64, ok bool)
	Store(topic Topic, partition int32, next int64)
}

// Topic is one of the log's two.
type Topic string

// The topics.
const (
	Kept Topic = "kept"
	Live Topic = "live"
)

// Config are job's settings.
type Config struct {
	// ReadBytes is about how much is read and carried at a time.
	ReadBytes int
	// ResolveTimeout bounds one question to an owner; job asks again until it
	// is answered, for that partition alone.
	ResolveTimeout time.Duration
	// PushTimeout bounds one call to a comet.
	PushTimeout time.Duration
	// QueueBytes bounds what waits for one comet; past it deliveries to that
	// comet are skipped and counted.
	QueueBytes int
}

// DefaultConfig are the defaults.
func DefaultConfig() Config {
	return Config{ReadBytes: 256 << 10, ResolveTimeout: 5 * time.Second, PushTimeout: 2 * time.Second, QueueBytes: 32 << 20}
}

// Deps are what a job works with.
type Deps struct {
	Kept, Live Log
	Owners     Owners
	Comets     Comets
	// Positions may be nil: job then starts at the end of both topics, which
	// is right where every session is newer than job (one process).
	Positions Positions
	Log       zerolog.Logger
	Metrics   prometheus.Registerer
}

// Job is the role.
type Job struct {
	cfg     Config
	d       Deps
	log     zerolog.Logger
	often   zerolog.Logger // for what may happen for every batch
	metrics *metrics
	readers []*reader

	mu      sync.Mutex
	senders map[string]*sender
	senderG *errgroup.Group
	sendCtx context.Context
}

// New makes the role and fixes where it begins to read.
func New(ctx context.Context, cfg Config, d Deps) (*Job, error) {
	j := &Job{cfg: cfg, d: d, log: d.Log.With().Str("role", "job").Logger(), metrics: newMetrics(d.Metrics), senders: make(map[string]*sender)}
	// A comet that is away fails every batch: a line a second says it, the
	// metrics count it.
	j.often = j.log.Sample(&zerolog.BurstSampler{Burst: 1, Period: time.Second})
	add := func(topic Topic, log Log, carry func(context.Context, *reader, []envelope.Entry) error) error {
		for p := range log.Partitions() {
			r := &reader{j: j, topic: topic, log: log, partition: p, carry: carry}
			if d.Positions != nil {
				if next, ok := d.Positions.Load(topic, p); ok {
					r.next = next
					j.readers = append(j.readers, r)
					continue
				}
			}
			_, end, err := log.Bounds(ctx, p)
			if err != nil {
				return fmt.Errorf("job: find the end of %s partition %d: %w", topic, p, err)
			}
			r.next = end
			j.readers = append(j.readers, r)
		}
		return nil
	}
	if err := add(Kept, d.Kept, j.carryKept); err != nil {
		return nil, err
	}
	if err := add(Live, d.Live, j.carryLive); err != nil {
		return nil, err
	}
	return j, nil
}

// Run carries until ctx is done.
func (j *Job) Run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	var sendGroup errgroup.Group
	j.mu.Lock()
	j.senderG, j.sendCtx = &sendGroup, gctx
	j.mu.Unlock()
	for _, r := range j.readers {
		g.Go(func() error { return r.run(gctx) })
	}
	g.Go(func() error { return j.prune(gctx) })
	err := g.Wait()
	return errors.Join(err, sendGroup.Wait())
}

// Ready is always nil: a job that waits for an owner says so in its metrics,
// and the owner says why.
func (j *Job) Ready() error { return nil }

// prune ends the senders of comets that are gone.
func (j *Job) prune(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
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

// deliver queues deliveries for a comet.
func (j *Job) deliver(comet string, size int, ds ...*envelope.Delivery) {
	c := j.d.Comets.Comet(comet)
	if c == nil {
		j.metrics.skipped.WithLabelValues("gone").Add(float64(len(ds)))
		return
	}
	j.mu.Lock()
	s := j.senders[comet]
	if s == nil {
		s = newSender(j, comet)
		j.senders[comet] = s
		ctx := j.sendCtx
		j.senderG.Go(func() error { s.run(ctx); return nil })
	}
	j.mu.Unlock()
	if !s.put(size, ds) {
		j.metrics.skipped.WithLabelValues("slow").Add(float64(len(ds)))
	}
}

// reader follows one partition of one topic.
type reader struct {
	j         *Job
	topic     Topic
	log       Log
	partition int32
	next      int64
	carry     func(context.Context, *reader, []envelope.Entry) error
}

func (r *reader) run(ctx context.Context) error {
	const firstPause, lastPause = 5 * time.Millisecond, time.Second
	pause := firstPause
	for ctx.Err() == nil {
		entries, err := r.log.Read(ctx, r.partition, r.next, r.j.cfg.ReadBytes)
		if err == nil && len(entries) > 0 {
			err = r.carry(ctx, r, entries)
			if err == nil {
				r.next = entries[len(entries)-1].Offset + 1
				if r.j.d.Positions != nil {
					r.j.d.Positions.Store(r.topic, r.partition, r.next)
				}
			}
		}
		switch {
		case err == nil:
			pause = firstPause
			continue
		case ctx.Err() != nil || errors.Is(err, envelope.ErrClosed):
			return nil
		case errors.Is(err, envelope.ErrOutOfRange):
			if begin, _, berr := r.log.Bounds(ctx, r.partition); berr == nil && begin > r.next {
				// Trimmed before it was carried: kept messages are found by
				// the watch, live ones were bounded on purpose.
				r.j.metrics.skipped.WithLabelValues("trimmed").Add(float64(begin - r.next))
				r.next = begin
				continue
			}
		}
		r.j.metrics.retries.Inc()
		r.j.often.Warn().Err(err).Str("topic", string(r.topic)).Int32("partition", r.partition).Msg("not carried yet; trying again")
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, lastPause)
	}
	return nil
}

// carryKept asks the owner who is to get each push of a batch and tells the
// comets.
func (j *Job) carryKept(ctx context.Context, r *reader, entries []envelope.Entry) error {
	type pushed struct {
		id     uint64
		timeMS int64
		push   *envelope.Push
	}
	var pushes []pushed
	req := &envelope.ResolveRequest{Partition: uint32(r.partition)}
	for _, e := range entries {
		var rec envelope.Record
		if err := rec.UnmarshalVT(e.Value); err != nil {
			j.metrics.skipped.WithLabelValues("unreadable").Inc()
			j.log.Error().Err(err).Int32("partition", r.partition).Int64("offset", e.Offset).Msg("record cannot be read: not carried")
			continue
		}
		if rec.Push == nil {
			continue
		}
		id := envelope.ID(r.log.Generation(), e.Offset)
		pushes = append(pushes, pushed{id, rec.TimeMs, rec.Push})
		req.Items = append(req.Items, &envelope.ResolveItem{Id: id, Users: rec.Push.Users})
	}
	if len(pushes) == 0 {
		return nil
	}
	owner, err := j.d.Owners.Owner(r.partition)
	if err != nil {
		return fmt.Errorf("find the owner of partition %d: %w", r.partition, err)
	}
	rctx, cancel := context.WithTimeout(ctx, j.cfg.ResolveTimeout)
	reply, err := owner.Resolve(rctx, req)
	cancel()
	if err != nil {
		return fmt.Errorf("resolve %d records: %w", len(req.Items), err)
	}
	if len(reply.Items) != len(pushes) {
		return envelope.Errorf(envelope.CodeInternal, "owner resolved %d records of %d", len(reply.Items), len(pushes))
	}
	out := newGroups()
	for i, p := range pushes {
		for _, t := range reply.Items[i].To {
			d := out.delivery(t.Comet, p.id, func() *envelope.Delivery {
				return &envelope.Delivery{Id: p.id, Op: p.push.Op, Body: p.push.Body, TimeMs: p.timeMS}
			})
			d.To = append(d.To, &envelope.Target{Session: t.Session, Prev: t.Prev})
		}
	}
	j.metrics.carried.WithLabelValues(string(Kept)).Add(float64(len(pushes)))
	out.send(j)
	return nil
}

// carryLive tells comets what is on the live topic.
func (j *Job) carryLive(_ context.Context, r *reader, entries []envelope.Entry) error {
	out := newGroups()
	for i, e := range entries {
		var env envelope.Envelope
		if err := env.UnmarshalVT(e.Value); err != nil {
			j.metrics.skipped.WithLabelValues("unreadable").Inc()
			j.log.Error().Err(err).Int32("partition", r.partition).Int64("offset", e.Offset).Msg("envelope cannot be read: not carried")
			continue
		}
		key := uint64(i + 1) // what belongs to one envelope is one delivery a comet
		switch {
		case env.Message != nil:
			j.spread(out, key, &env)
		case env.Backlog.GetTo() != nil:
			out.delivery(env.Backlog.To.Comet, key, func() *envelope.Delivery { return &envelope.Delivery{Backlog: env.Backlog} })
		case env.Kick != nil:
			for _, a := range env.Kick.To {
				d := out.delivery(a.Comet, key, func() *envelope.Delivery {
					return &envelope.Delivery{Kick: &envelope.Kick{Code: env.Kick.Code, Reason: env.Kick.Reason}}
				})
				d.Kick.To = append(d.Kick.To, a)
			}
		case env.Nudge != nil:
			for _, t := range env.Nudge.To {
				if t.GetTo() == nil {
					continue
				}
				d := out.delivery(t.To.Comet, key, func() *envelope.Delivery { return &envelope.Delivery{Nudge: &envelope.Nudge{}} })
				d.Nudge.To = append(d.Nudge.To, t)
			}
		}
	}
	j.metrics.carried.WithLabelValues(string(Live)).Add(float64(len(entries)))
	out.send(j)
	return nil
}

func (j *Job) spread(out *groups, key uint64, env *envelope.Envelope) {
	m := env.Message
	make := func() *envelope.Delivery {
		return &envelope.Delivery{Op: m.Op, Body: m.Body, TimeMs: env.TimeMs, Room: m.Room, All: m.All}
	}
	if m.All || m.Room != "" {
		for _, comet := range j.d.Comets.Names(m.Room) {
			out.delivery(comet, key, make)
		}
		return
	}
	for _, a := range m.To {
		d := out.delivery(a.Comet, key, make)
		d.To = append(d.To, &envelope.Target{Session: a.Session})
	}
}
