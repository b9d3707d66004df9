package router

import (
	"context"
	"errors"
	"slices"
	"time"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/internal/wait"
)

// EventsLog is the events topic of the kept log's generation.
type EventsLog interface {
	envelope.Log
	AppendMany(ctx context.Context, entries []envelope.Entry) error
}

const (
	// maxUnsent bounds the events of a partition that the topic has not taken yet. Records are
	// not applied beyond it.
	maxUnsent = 1 << 14
	// maxUnsentBytes bounds them too: the events of messages from clients have bodies.
	maxUnsentBytes = 16 << 20
	// A batch is appended in one call, and has to fit into one transaction of the log: a part
	// of it must never be there without what is before.
	maxBatchEvents = 512
	maxBatchBytes  = 256 << 10
	// emitTimeout bounds one append.
	emitTimeout = 15 * time.Second
	// A flush waits for so long until the topic has taken the events of what it writes: a
	// routine one tries again later, the others have to be done.
	flushEventsWait, flushEventsWaitLast = 100 * time.Millisecond, 2 * time.Second
	// tailTimeout bounds the reading of the topic's end.
	tailTimeout = 15 * time.Second
)

func errEventsBehind(index int32) error {
	return envelope.Errorf(envelope.CodeUnavailable, "partition %d waits until the events topic takes the events that it has", index)
}

// emitter appends the events of a partition to the topic, one batch after another. It repeats a
// batch that failed until it is there, so that the topic never has an event without those before
// it. The partition's mu guards its fields, but for tail and nextPause.
type emitter struct {
	p    *partition
	log  EventsLog // nil: events are not wanted
	wake wait.Signal
	// queue has the events that are not under way yet, and sending counts those that are.
	queue   []events.Event
	sending int
	// queued is about the size of the queue, in bytes.
	queued int
	// added counts the events that came into the queue, and done those of them that are in the topic.
	added, done uint64
	// sent is closed and replaced when a batch is in the topic.
	sent chan struct{}
	// paused, unless nil, keeps records from being applied until it is closed.
	paused chan struct{}
	// nextPause is when a routine flush may pause records again. Records are applied at least as long as they were paused.
	nextPause time.Time
	// tail is the highest id in the topic, as far as tailKnown. Events with lower ids are there as well.
	tail      events.ID
	tailKnown bool
}

func newEmitter(p *partition, log EventsLog) *emitter {
	return &emitter{p: p, log: log, wake: wait.NewSignal(), sent: make(chan struct{})}
}

// addLocked queues events of a record with the time timeMS. first is the id of the first one.
func (em *emitter) addLocked(list []events.Event, first events.ID, timeMS int64) {
	if em.log == nil {
		return
	}
	for i := range list {
		e := &list[i]
		e.ID, e.Partition, e.TimeMS = events.ID{Record: first.Record, N: first.N + uint32(i)}, em.p.index, timeMS
		em.queued += eventSize(e)
	}
	em.queue = append(em.queue, list...)
	em.added += uint64(len(list))
	em.wake.Set()
}

// unsentLocked reports whether the topic may lack events of what was applied, or of the record that is
// being applied.
func (em *emitter) unsentLocked() bool {
	return em.log != nil && (len(em.queue) > 0 || em.sending > 0 || len(em.p.applier.derived) > 0)
}

// fullLocked reports whether no further record may be applied.
func (em *emitter) fullLocked() bool {
	return len(em.queue) >= maxUnsent || em.queued >= maxUnsentBytes
}

// waitSent waits until the topic has the events of all that was applied so far. It returns an error if that takes
// too long, or the partition was lost.
func (em *emitter) waitSent(ctx context.Context) error {
	p := em.p
	timer := time.NewTimer(flushEventsWaitLast)
	defer timer.Stop()
	p.mu.Lock()
	target := em.added
	for em.done < target {
		sent := em.sent
		p.mu.Unlock()
		select {
		case <-sent:
		case <-timer.C:
			return errEventsBehind(p.index)
		case <-p.left:
			return notOwned(p.index)
		case <-ctx.Done():
			return ctx.Err()
		}
		p.mu.Lock()
	}
	p.mu.Unlock()
	return nil
}

// run appends what is queued, until ctx is done.
func (em *emitter) run(ctx context.Context) {
	if em.log == nil {
		return
	}
	for {
		select {
		case <-em.wake:
		case <-ctx.Done():
			return
		}
		for ctx.Err() == nil {
			batch := em.next()
			if len(batch) == 0 {
				break
			}
			em.send(ctx, batch)
		}
	}
}

// next takes a batch from the queue. The batch before it is in the topic.
func (em *emitter) next() []events.Event {
	p := em.p
	p.mu.Lock()
	defer p.mu.Unlock()
	n, size := 0, 0
	for n < len(em.queue) && n < maxBatchEvents && size < maxBatchBytes {
		size += eventSize(&em.queue[n])
		n++
	}
	em.queued -= size
	batch := em.queue[:n:n]
	em.queue = em.queue[n:]
	if len(em.queue) == 0 {
		em.queue = nil
	}
	em.sending = n
	return batch
}

// eventSize is about the size of an event in the topic, in bytes.
func eventSize(e *events.Event) int {
	size := 320 + 2*len(e.User) + len(e.Ref) + len(e.Device) + 24*len(e.IDs) + len(e.Session) + len(e.Body)
	for _, d := range e.Devices {
		size += len(d) + 3
	}
	for _, d := range e.Without {
		size += len(d) + 3
	}
	return size
}

// send appends a batch, again and again until it is in the topic or ctx is done.
func (em *emitter) send(ctx context.Context, batch []events.Event) {
	p := em.p
	for pauses := retryPauses(); ctx.Err() == nil; {
		err := em.readTail(ctx)
		if err == nil {
			err = em.append(ctx, batch)
		}
		if err == nil {
			p.mu.Lock()
			em.done += uint64(em.sending)
			em.sending = 0
			close(em.sent)
			em.sent = make(chan struct{})
			p.mu.Unlock()
			return
		}
		if ctx.Err() == nil {
			p.metrics.eventErrors.Inc()
			p.log.Warn().Err(err).Int32("partition", p.index).Msg("events were not appended; trying again")
		}
		_ = pauses.Sleep(ctx) // the loop looks at ctx
		if p.cfg.Faults.EventsOverlap {
			em.putBack(batch)
			return
		}
	}
}

// putBack has a failed batch tried after the next one, as a router with the fault EventsOverlap does.
func (em *emitter) putBack(batch []events.Event) {
	em.p.mu.Lock()
	defer em.p.mu.Unlock()
	em.sending = 0
	for i := range batch {
		em.queued += eventSize(&batch[i])
	}
	em.queue = slices.Insert(em.queue, min(len(em.queue), 1), batch...)
	em.wake.Set()
}

// readTail reads the highest id in the topic, once. A router that begins has derived much of what
// is there again.
func (em *emitter) readTail(ctx context.Context) error {
	if em.tailKnown || em.p.cfg.Faults.NoEventsTail {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, tailTimeout)
	defer cancel()
	tail, err := events.Highest(ctx, em.log, em.p.index)
	if err != nil {
		return err
	}
	em.tail, em.tailKnown = tail, true
	return nil
}

// append appends the events of a batch that the topic does not have. An event that is too large for a record
// of the topic is left out: those behind it must not wait for it for ever.
func (em *emitter) append(ctx context.Context, batch []events.Event) error {
	p := em.p
	entries := make([]envelope.Entry, 0, len(batch))
	for i := range batch {
		if e := &batch[i]; e.ID.After(em.tail) {
			value := e.AppendJSON(make([]byte, 0, eventSize(e)), p.cfg.EventsSource)
			entries = append(entries, envelope.Entry{Partition: p.index, Value: value})
		}
	}
	if len(entries) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, emitTimeout)
	defer cancel()
	switch err := em.log.AppendMany(ctx, entries); {
	case errors.Is(err, envelope.ErrTooLarge) && len(entries) > 1:
		half := len(batch) / 2
		if err := em.append(ctx, batch[:half]); err != nil {
			return err
		}
		return em.append(ctx, batch[half:])
	case errors.Is(err, envelope.ErrTooLarge):
		p.metrics.eventErrors.Inc()
		p.log.Error().Err(err).Int32("partition", p.index).Str("event", events.TextID(p.index, batch[len(batch)-1].ID)).
			Msg("an event is left out: the events topic takes none of its size")
	case err != nil:
		return err
	default:
		p.metrics.emitted.Add(float64(len(entries)))
	}
	em.tail = batch[len(batch)-1].ID
	return nil
}

// pauseWhenSent keeps records from being applied, and waits until the topic has the events of all that
// was applied. Applying a record over what is stored derives nothing, so an event that the topic does not
// have before a flush would be lost. Records go on when release is called. If the topic does not take the
// events in time, nothing is paused and release is nil: the flush has to come later. That is an error
// only if the flush has to be done. One goroutine at a time may pause: it also guards nextPause.
func (em *emitter) pauseWhenSent(must bool) (release func(), err error) {
	p, limit := em.p, flushEventsWait
	if must {
		limit = flushEventsWaitLast
	} else if time.Now().Before(em.nextPause) {
		return nil, nil
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	paused := make(chan struct{})
	release = func() {
		p.mu.Lock()
		em.paused = nil
		p.mu.Unlock()
		close(paused)
	}
	for {
		p.mu.Lock()
		em.paused = paused
		unsent, sent := em.unsentLocked(), em.sent
		p.mu.Unlock()
		if !unsent {
			return release, nil
		}
		select {
		case <-sent:
		case <-timer.C:
			release()
			em.nextPause = time.Now().Add(limit)
			if must {
				err = errEventsBehind(p.index)
			}
			return nil, err
		}
	}
}
