package job

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"imgo/envelope"
)

// reader follows one partition of one topic, for one assignment.
type reader struct {
	j         *Job
	topic     Topic
	log       Log
	partition int32
	stored    int64 // as assigned; -1: none
	progress  progress
	denials   denials
	started   chan<- struct{}
	carry     func(context.Context, *reader, *span, []envelope.Entry) error

	// mu is held by whoever carries: run, or who committed a record
	// (prompt.go). It guards next, the offset of the first record that was not
	// carried, and ended.
	mu    sync.Mutex
	next  int64
	ended bool
}

func (j *Job) newReader(part Part, started chan<- struct{}) (*reader, error) {
	r := &reader{j: j, topic: part.Topic, partition: part.Partition, stored: part.Next, next: part.Next, started: started,
		denials: denials{budget: j.rooms, comets: make(map[string]*denial)}}
	switch part.Topic {
	case Kept:
		r.log, r.carry = j.d.Kept, j.carryKept
	case Live:
		r.log, r.carry = j.d.Live, j.carryLive
	}
	if r.log == nil || part.Partition < 0 || part.Partition >= r.log.Partitions() {
		return nil, fmt.Errorf("there is no partition %d of topic %q", part.Partition, part.Topic)
	}
	r.progress.start(part.Next)
	return r, nil
}

// run reads and carries until ctx is done. What it has begun may go on for a
// moment; see progress.
func (r *reader) run(ctx context.Context) {
	var pause pause
	for ctx.Err() == nil && r.from() < 0 {
		if err := r.begin(ctx); err != nil {
			r.failed(ctx, err, &pause)
		}
	}
	for ctx.Err() == nil {
		entries, err := r.log.Read(ctx, r.partition, r.from(), r.j.cfg.ReadBytes)
		switch {
		case err == nil && len(entries) > 0:
			pause = 0
			r.carryOn(ctx, entries)
		case err == nil:
			pause = 0
		case errors.Is(err, envelope.ErrClosed):
			return
		case errors.Is(err, envelope.ErrOutOfRange) && r.skip(ctx):
			pause = 0
		default:
			r.failed(ctx, err, &pause)
		}
	}
}

// from is where to read on.
func (r *reader) from() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.next
}

// end is for when nothing of the partition is carried any more.
func (r *reader) end() {
	r.denials.forget()
	r.j.metrics.lag.DeleteLabelValues(string(r.topic), fmt.Sprint(r.partition))
}

// begin finds where a partition starts that no job has carried yet: at its
// end. What was kept before is found by its owner's watch, and what was not is
// worthless. The position is stored at once, so that no job after this one
// finds a later end.
func (r *reader) begin(ctx context.Context) error {
	_, end, err := r.log.Bounds(ctx, r.partition)
	if err != nil {
		return fmt.Errorf("find the end of the partition: %w", err)
	}
	r.mu.Lock()
	r.next = end
	r.mu.Unlock()
	r.progress.start(end)
	select {
	case r.started <- struct{}{}:
	default:
	}
	return nil
}

// carryOn carries a batch, and tries again until it has or ctx is done.
func (r *reader) carryOn(ctx context.Context, entries []envelope.Entry) {
	var pause pause
	for ctx.Err() == nil {
		err := r.carryOnce(ctx, entries)
		if err == nil {
			return
		}
		r.failed(ctx, err, &pause)
	}
}

// carryOnce carries what of a batch was not carried meanwhile by who committed it.
func (r *reader) carryOnce(ctx context.Context, entries []envelope.Entry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(entries) > 0 && entries[0].Offset < r.next {
		entries = entries[1:]
	}
	if len(entries) == 0 {
		return nil
	}
	return r.advance(entries, func(s *span) error { return r.carry(ctx, r, s, entries) })
}

// advance goes on behind entries if they can be carried. The caller holds mu.
func (r *reader) advance(entries []envelope.Entry, carry func(*span) error) error {
	next := entries[len(entries)-1].Offset + 1
	s := r.progress.begin(next)
	if err := carry(s); err != nil {
		r.progress.cancel()
		return err
	}
	r.next = next
	s.done()
	return nil
}

// skip goes to where the log begins, or ends, when the position is outside of
// it; false: it is not, or that cannot be found out now.
func (r *reader) skip(ctx context.Context) bool {
	r.mu.Lock() // until the end is known: it must not be passed meanwhile
	defer r.mu.Unlock()
	begin, end, err := r.log.Bounds(ctx, r.partition)
	switch {
	case err != nil:
		return false
	case r.next < begin:
		// Trimmed before it was carried: kept messages are found by the watch,
		// live ones were bounded on purpose.
		r.j.metrics.skipped.WithLabelValues("trimmed").Add(float64(begin - r.next))
		r.next = begin
	case r.next > end:
		r.j.log.Error().Str("topic", string(r.topic)).Int32("partition", r.partition).Int64("position", r.next).Int64("end", end).
			Msg("the log ends before the stored position: it was replaced, or has lost records; going on at its end")
		r.next = end
	default:
		return false
	}
	r.denials.forget() // a room may have opened in what was skipped
	r.progress.begin(r.next).done()
	return true
}

// failed counts a failure and waits before the next try.
func (r *reader) failed(ctx context.Context, err error, p *pause) {
	if ctx.Err() != nil {
		return
	}
	r.j.metrics.retries.Inc()
	r.j.often.Warn().Err(err).Str("topic", string(r.topic)).Int32("partition", r.partition).Msg("not carried yet; trying again")
	t := time.NewTimer(p.longer())
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// pause is how long to wait before a try, longer each time. It stays short: a
// partition whose owner is gone has to find the next one soon.
type pause time.Duration

func (p *pause) longer() time.Duration {
	const first, last = 5 * time.Millisecond, 200 * time.Millisecond
	*p = min(max(2*(*p), pause(first)), pause(last))
	return time.Duration(*p)
}

// measure sets the partition's lag, where the log can say it.
func (r *reader) measure() {
	ender, ok := r.log.(interface{ End(partition int32) int64 })
	if !ok {
		return
	}
	if end := ender.End(r.partition); end >= 0 {
		if next := r.progress.carried(); next >= 0 {
			r.j.metrics.lag.WithLabelValues(string(r.topic), fmt.Sprint(r.partition)).Set(float64(max(end-next, 0)))
		}
	}
}

// pushes are those of a batch of kept records.
type pushes struct {
	all []pushed
	req envelope.ResolveRequest
}

type pushed struct {
	id     uint64
	timeMS int64
	push   *envelope.Push
}

// pushesOf decodes a batch of a partition of the kept topic.
func (r *reader) pushesOf(entries []envelope.Entry) *pushes {
	p := &pushes{req: envelope.ResolveRequest{Partition: uint32(r.partition)}}
	for _, e := range entries {
		var rec envelope.Record
		if err := rec.UnmarshalVT(e.Value); err != nil {
			r.j.metrics.skipped.WithLabelValues("unreadable").Inc()
			r.j.log.Error().Err(err).Int32("partition", r.partition).Int64("offset", e.Offset).Msg("record cannot be read: not carried")
			continue
		}
		if rec.Push == nil {
			continue
		}
		id := envelope.ID(r.log.Generation(), e.Offset)
		p.all = append(p.all, pushed{id, rec.TimeMs, rec.Push})
		p.req.Items = append(p.req.Items, &envelope.ResolveItem{Id: id, Users: rec.Push.Users})
	}
	return p
}

// carryKept asks the owner who is to get each push of a batch and tells the
// comets.
func (j *Job) carryKept(ctx context.Context, r *reader, s *span, entries []envelope.Entry) error {
	p := r.pushesOf(entries)
	if len(p.all) == 0 {
		return nil
	}
	reply, err := j.resolve(ctx, r.partition, &p.req)
	if err != nil {
		return fmt.Errorf("resolve %d records: %w", len(p.all), err)
	}
	out, err := p.grouped(reply)
	if err != nil {
		return err
	}
	j.metrics.carried.WithLabelValues(string(Kept)).Add(float64(len(p.all)))
	out.send(j, r, s, false)
	return nil
}

// grouped are the deliveries that the owner's answer makes of the pushes.
func (p *pushes) grouped(reply *envelope.ResolveReply) (*groups, error) {
	if len(reply.Items) != len(p.all) {
		return nil, envelope.Errorf(envelope.CodeInternal, "owner resolved %d records of %d", len(reply.Items), len(p.all))
	}
	out := newGroups()
	for i, of := range p.all {
		for _, t := range reply.Items[i].To {
			d := out.delivery(t.GetTo().GetComet(), of.id, func() *envelope.Delivery {
				return &envelope.Delivery{Id: of.id, Op: of.push.Op, Body: of.push.Body, TimeMs: of.timeMS}
			})
			d.To = append(d.To, &envelope.Target{Session: t.GetTo().GetSession(), Prev: t.Prev})
		}
	}
	return out, nil
}

// ownerCheck is how often a question that has no answer yet looks whether it
// still asks the right one.
const ownerCheck = 100 * time.Millisecond

// resolve asks the owner of the moment; should that become another one before
// it has answered, it is no longer waited for.
func (j *Job) resolve(ctx context.Context, partition int32, req *envelope.ResolveRequest) (*envelope.ResolveReply, error) {
	owner, err := j.d.Owners.Owner(partition)
	if err != nil {
		return nil, fmt.Errorf("find the owner of partition %d: %w", partition, err)
	}
	ctx, cancel := context.WithTimeout(ctx, j.cfg.ResolveTimeout)
	defer cancel()
	// Most answers come before the first look: no goroutine until then.
	var mu sync.Mutex
	var timer *time.Timer
	answered := false
	mu.Lock()
	timer = time.AfterFunc(ownerCheck, func() {
		mu.Lock()
		defer mu.Unlock()
		if answered {
			return
		}
		if now, err := j.d.Owners.Owner(partition); err != nil || now != owner {
			cancel()
			return
		}
		timer.Reset(ownerCheck)
	})
	mu.Unlock()
	defer func() {
		mu.Lock() // waits for a look that is under way
		defer mu.Unlock()
		answered = true
		timer.Stop()
	}()
	return owner.Resolve(ctx, req)
}

// carryLive tells comets what is on the live topic.
func (j *Job) carryLive(_ context.Context, r *reader, s *span, entries []envelope.Entry) error {
	out := newGroups()
	for i, e := range entries {
		var env envelope.Envelope
		if err := env.UnmarshalVT(e.Value); err != nil {
			j.metrics.skipped.WithLabelValues("unreadable").Inc()
			j.log.Error().Err(err).Int32("partition", r.partition).Int64("offset", e.Offset).Msg("envelope cannot be read: not carried")
			r.denials.forget() // perhaps it opened a room
			continue
		}
		key := uint64(i + 1) // what belongs to one envelope is one delivery a comet
		switch {
		case env.Message != nil:
			j.spread(out, r, key, &env)
		case env.Opened != nil:
			r.denials.open(env.Opened)
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
	out.send(j, r, s, false)
	return nil
}

func (j *Job) spread(out *groups, r *reader, key uint64, env *envelope.Envelope) {
	m := env.Message
	make := func() *envelope.Delivery {
		return &envelope.Delivery{Op: m.Op, Body: m.Body, TimeMs: env.TimeMs, Room: m.Room, All: m.All, LiveId: m.Id}
	}
	switch {
	case m.All:
		for _, comet := range j.d.Comets.Names() {
			out.delivery(comet, key, make)
		}
	case m.Room != "":
		names := j.d.Comets.Names()
		for _, name := range names {
			comet := j.d.Comets.Comet(name)
			if comet == nil {
				continue // it went this moment
			}
			e := r.denials.of(name, comet)
			if e.has(m.Room) {
				j.metrics.spared.Inc()
				continue
			}
			out.delivery(name, key, make)
			out.answers(name, e)
		}
		r.denials.prune(j.d.Comets, len(names))
	default:
		for _, a := range m.To {
			d := out.delivery(a.Comet, key, make)
			d.To = append(d.To, &envelope.Target{Session: a.Session})
		}
	}
}
