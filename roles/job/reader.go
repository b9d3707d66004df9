package job

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"imgo/envelope"
	"imgo/internal/wait"
)

// reader follows one partition of one topic, for one assignment.
type reader struct {
	j         *Job
	topic     Topic
	log       envelope.Log
	partition int32
	assigned  int64 // the position of the assignment. -1 means none
	progress  progress
	denials   denials
	found     wait.Signal // set when the reader has found its first position
	deliver   func(context.Context, *reader, *span, []envelope.Entry) error

	// mu is held while records are delivered: by run, or on the fast path. It guards
	// next, the offset of the first record that was not delivered, and ended.
	mu    sync.Mutex
	next  int64
	ended bool
}

func (j *Job) newReader(part Part, found wait.Signal) (*reader, error) {
	r := &reader{
		j: j, topic: part.Topic, partition: part.Partition, assigned: part.Next, next: part.Next, found: found,
		denials: denials{budget: j.rooms, comets: make(map[string]*cometDenials)},
	}
	switch part.Topic {
	case Kept:
		r.log, r.deliver = j.d.Kept, j.deliverKept
	case Live:
		r.log, r.deliver = j.d.Live, j.deliverLive
	}
	if r.log == nil || part.Partition < 0 || part.Partition >= r.log.Partitions() {
		return nil, fmt.Errorf("there is no partition %d of topic %q", part.Partition, part.Topic)
	}
	r.progress.start(part.Next)
	return r, nil
}

// run reads and delivers until ctx is done. Pushes that it has begun may still be under
// way then; see progress.
func (r *reader) run(ctx context.Context) {
	backoff := newBackoff()
	for ctx.Err() == nil && r.from() < 0 {
		if err := r.findEnd(ctx); err != nil {
			r.failed(ctx, err, &backoff)
		}
	}
	for ctx.Err() == nil {
		entries, err := r.log.Read(ctx, r.partition, r.from(), r.j.cfg.ReadBytes)
		switch {
		case err == nil:
			backoff.Reset()
			if len(entries) > 0 {
				r.deliverUntilDone(ctx, entries)
			}
		case errors.Is(err, envelope.ErrClosed):
			return
		case errors.Is(err, envelope.ErrOutOfRange) && r.skipGap(ctx):
			backoff.Reset()
		default:
			r.failed(ctx, err, &backoff)
		}
	}
}

// from returns the offset at which to read on.
func (r *reader) from() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.next
}

// close releases what the reader holds, after its last delivery.
func (r *reader) close() {
	r.denials.clear()
	r.j.metrics.lag.DeleteLabelValues(string(r.topic), fmt.Sprint(r.partition))
}

// findEnd starts a partition that no job has carried yet: at its end. The owner's watch
// finds older kept messages, and older live ones are worthless. The position is stored
// at once, so that no later job begins at a later end.
func (r *reader) findEnd(ctx context.Context) error {
	_, end, err := r.log.Bounds(ctx, r.partition)
	if err != nil {
		return fmt.Errorf("find the end of the partition: %w", err)
	}
	r.mu.Lock()
	r.next = end
	r.mu.Unlock()
	r.progress.start(end)
	r.found.Set()
	return nil
}

// deliverUntilDone delivers a batch, and tries again until that works or ctx is done.
func (r *reader) deliverUntilDone(ctx context.Context, entries []envelope.Entry) {
	backoff := newBackoff()
	for ctx.Err() == nil {
		err := r.deliverOnce(ctx, entries)
		if err == nil {
			return
		}
		r.failed(ctx, err, &backoff)
	}
}

// deliverOnce delivers the records of a batch that the fast path has not delivered.
func (r *reader) deliverOnce(ctx context.Context, entries []envelope.Entry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(entries) > 0 && entries[0].Offset < r.next {
		entries = entries[1:]
	}
	if len(entries) == 0 {
		return nil
	}
	return r.advanceLocked(entries, func(s *span) error { return r.deliver(ctx, r, s, entries) })
}

// advanceLocked moves the reader behind entries if deliver succeeds.
func (r *reader) advanceLocked(entries []envelope.Entry, deliver func(*span) error) error {
	next := entries[len(entries)-1].Offset + 1
	s := r.progress.begin(next)
	if err := deliver(s); err != nil {
		r.progress.cancelNewest()
		return err
	}
	r.next = next
	s.done()
	return nil
}

// skipGap moves a position that is outside the log to its begin or end. It reports
// whether it has moved the position.
func (r *reader) skipGap(ctx context.Context) bool {
	r.mu.Lock() // until the end is known: the fast path must not pass it meanwhile
	defer r.mu.Unlock()
	begin, end, err := r.log.Bounds(ctx, r.partition)
	switch {
	case err != nil:
		return false
	case r.next < begin:
		// The records were trimmed before they were carried. The owner's watch finds kept
		// messages, and the live topic is bounded on purpose.
		r.j.unread("trimmed", int(begin-r.next))
		r.next = begin
	case r.next > end:
		r.j.log.Error().Str("topic", string(r.topic)).Int32("partition", r.partition).Int64("position", r.next).Int64("end", end).
			Msg("the log ends before the stored position: it was replaced, or has lost records; going on at its end")
		r.next = end
	default:
		return false
	}
	r.denials.clear() // one of the skipped records may have opened a room
	r.progress.begin(r.next).done()
	return true
}

// failed counts a failure and waits before the next try.
func (r *reader) failed(ctx context.Context, err error, backoff *wait.Backoff) {
	if ctx.Err() != nil {
		return
	}
	r.j.metrics.retries.Inc()
	r.j.sampled.Warn().Err(err).Str("topic", string(r.topic)).Int32("partition", r.partition).Msg("not carried yet; trying again")
	_ = backoff.Sleep(ctx)
}

// measureLag sets the metric of the partition's lag, if the log knows its end.
func (r *reader) measureLag() {
	ender, ok := r.log.(interface{ End(partition int32) int64 })
	if !ok {
		return
	}
	if end := ender.End(r.partition); end >= 0 {
		if next := r.progress.position(); next >= 0 {
			r.j.metrics.lag.WithLabelValues(string(r.topic), fmt.Sprint(r.partition)).Set(float64(max(end-next, 0)))
		}
	}
}
