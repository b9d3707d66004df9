package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
	"golang.org/x/sync/semaphore"

	"imgo/envelope"
	"imgo/internal/wait"
)

const (
	// entryOverhead is counted for each record beside its key and value, in bytes.
	entryOverhead = 64
	// maxBatchRecords bounds a batch beside maxBatchBytes.
	maxBatchRecords = 10_000
)

// newBackoff returns the pauses between tries while Kafka is away.
func newBackoff() wait.Backoff {
	return wait.Backoff{Min: 50 * time.Millisecond, Max: 250 * time.Millisecond}
}

// producer appends to the topic of a log. Each partition has one batch under way at a
// time, which keeps the order. Records that come meanwhile share the next batch.
type producer struct {
	log     *Log
	topic   string
	brokers string
	client  *kafka.Client
	codec   kafka.Compression
	timeout time.Duration // of one append
	meters  *meters

	queueBytes     int64 // size of all queues together
	partitionBytes int64 // size of the queue of one partition
	free           *semaphore.Weighted
	queues         []partitionQueue

	mu      sync.Mutex
	closed  error
	sending sync.WaitGroup // one goroutine for each partition that has a batch under way
	ctx     context.Context
	stop    context.CancelFunc
}

// partitionQueue has the records that wait for a partition.
type partitionQueue struct {
	free *semaphore.Weighted // of partitionBytes

	mu      sync.Mutex
	records []queuedRecord
	busy    bool // a goroutine sends, and will see what is added
}

// queuedRecord is one record of a call.
type queuedRecord struct {
	call       *appendCall
	index      int32 // in call.offsets
	partition  int32
	key, value []byte
}

// cost returns the bytes that count for a batch and for the queue.
func (r *queuedRecord) cost() int { return len(r.key) + len(r.value) + entryOverhead }

// appendCall is one call of append. Its offsets belong to the producer until done is
// closed.
type appendCall struct {
	offsets   []int64
	deadline  time.Time
	abandoned atomic.Bool // the caller has gone

	mu     sync.Mutex
	left   int           // records without a result
	failed error         // of the first record that failed for good
	err    error         // the newest error; once done is closed: failed
	done   chan struct{} // closed when all records have a result
}

// newProducer makes the producer of a log. Each try may take a third of the write
// timeout, so that there is time for another broker if one hangs.
func newProducer(l *Log, queueBytes int64) *producer {
	b := l.bus
	tryTimeout := min(max(b.o.WriteTimeout/3, time.Second), 10*time.Second)
	p := &producer{
		log: l, topic: l.topic, brokers: strings.Join(b.o.Brokers, ", "), client: b.client(tryTimeout, l.transport),
		codec: b.compression, timeout: b.o.WriteTimeout, meters: l.meters,
		queueBytes: queueBytes, free: semaphore.NewWeighted(queueBytes), queues: make([]partitionQueue, l.Partitions()),
	}
	// A partition that takes no records fills its part of the queue only. The part has
	// space for a batch under way and the next one.
	part := max(queueBytes/8, queueBytes/int64(len(p.queues)), MaxRecordBytes+entryOverhead)
	p.partitionBytes = min(part, queueBytes)
	for i := range p.queues {
		p.queues[i].free = semaphore.NewWeighted(p.partitionBytes)
	}
	p.ctx, p.stop = context.WithCancel(b.appends)
	return p
}

// record is a record to append.
type record struct {
	partition  int32
	key, value []byte
}

// append blocks until all records are durable, and then sets offsets.
func (p *producer) append(ctx context.Context, offsets []int64, records func(i int) record) error {
	started := time.Now()
	c := &appendCall{
		offsets: make([]int64, len(offsets)), deadline: started.Add(p.timeout), left: len(offsets), done: make(chan struct{}),
	}
	for i := range offsets {
		r := records(i)
		if r.partition < 0 || int(r.partition) >= len(p.queues) {
			return errNoPartition(r.partition, len(p.queues))
		}
		size := len(r.key) + len(r.value)
		if size > MaxRecordBytes {
			return envelope.Errorf(envelope.CodeTooLarge, "a record of %d bytes: the log takes at most %d", size, MaxRecordBytes)
		}
	}
	if err := p.closedErr(); err != nil || len(offsets) == 0 {
		return errors.Join(err, ctx.Err())
	}
	if err := p.enqueueAll(ctx, c, records); err != nil {
		return err
	}
	timer := time.NewTimer(time.Until(c.deadline))
	defer timer.Stop()
	select {
	case <-c.done:
		if c.err != nil {
			return c.err
		}
		copy(offsets, c.offsets)
		p.meters.appendSeconds.Observe(time.Since(started).Seconds())
		return nil
	case <-ctx.Done():
		c.abandoned.Store(true)
		return fmt.Errorf("append to %s (it may still happen): %w", p.topic, ctx.Err())
	case <-timer.C:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return p.errTimeout(c.err)
}

// errTimeout returns the error of an append that Kafka did not take in time. last is
// the newest error of its tries, or nil.
func (p *producer) errTimeout(last error) error {
	switch {
	case last == nil:
		return envelope.Errorf(envelope.CodeUnavailable, "append to %s: Kafka (%s) did not answer within %v; it may still happen",
			p.topic, p.brokers, p.timeout)
	case errors.Is(last, envelope.ErrUnavailable):
		return last
	}
	return envelope.Errorf(envelope.CodeUnavailable, "append to %s: Kafka (%s) did not take it within %v; it may still happen: %v",
		p.topic, p.brokers, p.timeout, explain(last))
}

// errAborted returns the error of an append that Kafka has not taken before Abort.
func (p *producer) errAborted() error {
	return envelope.Errorf(envelope.CodeUnavailable, "append to %s: this process stops before Kafka (%s) took it; it may still happen",
		p.topic, p.brokers)
}

// enqueueAll puts all records of a call into the queues. While there is no space for
// the next record, the call holds only the space of those that it has put.
func (p *producer) enqueueAll(ctx context.Context, c *appendCall, records func(i int) record) error {
	for from, n := 0, len(c.offsets); from < n; {
		to, err := p.acquire(ctx, c, records, from)
		if err == nil {
			err = p.enqueue(c, records, from, to)
		}
		if err != nil {
			c.abandoned.Store(true)
			p.meters.appendErrors.Add(float64(n - from))
			return err
		}
		from = to
	}
	return nil
}

// share returns the bytes that a record holds of the common queue and of the queue of
// its partition. A record that is larger than the queue gets the whole queue.
func (p *producer) share(r record) int64 {
	return min(int64(len(r.key)+len(r.value)+entryOverhead), p.partitionBytes)
}

// acquire gets the space for as many records of a call as is free, from one on, and
// waits for the first of them. It returns the index after the last one.
func (p *producer) acquire(ctx context.Context, c *appendCall, records func(i int) record, from int) (to int, err error) {
	for to = from; to < len(c.offsets) && p.tryAcquire(records(to)); to++ {
	}
	if to == from {
		return from + 1, p.awaitSpace(ctx, c, records(from))
	}
	return to, nil
}

// tryAcquire gets the space for a record if it is free. It reports whether it was.
func (p *producer) tryAcquire(r record) bool {
	part, share := p.queues[r.partition].free, p.share(r)
	if !part.TryAcquire(share) {
		return false
	}
	if !p.free.TryAcquire(share) {
		part.Release(share)
		return false
	}
	return true
}

// awaitSpace waits until there is space for a record. The queue of the partition comes
// first, so that a full one takes nothing of the common queue.
func (p *producer) awaitSpace(ctx context.Context, c *appendCall, r record) error {
	waiting, cancel := context.WithDeadline(ctx, c.deadline)
	defer cancel()
	part, share := p.queues[r.partition].free, p.share(r)
	size, err := p.partitionBytes, part.Acquire(waiting, share)
	if err == nil {
		if size, err = p.queueBytes, p.free.Acquire(waiting, share); err == nil {
			return nil
		}
		part.Release(share)
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("append to %s: wait for room in the queue: %w", p.topic, ctx.Err())
	case p.closedErr() != nil:
		return p.closedErr()
	}
	return envelope.Errorf(envelope.CodeUnavailable, "append to %s partition %d: the queue of %d bytes to Kafka (%s) was full for %v",
		p.topic, r.partition, size, p.brokers, p.timeout)
}

// release gives back the space of a record.
func (p *producer) release(r record) {
	share := p.share(r)
	p.free.Release(share)
	p.queues[r.partition].free.Release(share)
}

// closedErr returns the error of calls after close; nil before.
func (p *producer) closedErr() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// enqueue puts records for which there is space into the queues before the first of
// them is sent, so that they share batches. It gives the space back if p is closed.
func (p *producer) enqueue(c *appendCall, records func(i int) record, from, to int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed != nil {
		for i := from; i < to; i++ {
			p.release(records(i))
		}
		return p.closed
	}
	for i := from; i < to; i++ {
		r := records(i)
		q := &p.queues[r.partition]
		q.mu.Lock()
		q.records = append(q.records, queuedRecord{call: c, index: int32(i), partition: r.partition, key: r.key, value: r.value})
		q.mu.Unlock()
	}
	for i := from; i < to; i++ {
		partition := records(i).partition
		q := &p.queues[partition]
		q.mu.Lock()
		if !q.busy && len(q.records) > 0 {
			q.busy = true
			p.sending.Go(func() { p.sendAll(partition) })
		}
		q.mu.Unlock()
	}
	return nil
}

// sendAll sends a partition's queue until it is empty.
func (p *producer) sendAll(partition int32) {
	q := &p.queues[partition]
	for {
		batch := q.nextBatch()
		if batch == nil {
			return
		}
		p.send(partition, batch)
	}
}

// nextBatch takes the next batch out of the queue. It returns nil, and the queue is no
// longer busy, if there is none.
func (q *partitionQueue) nextBatch() []queuedRecord {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, bytes := 0, 0
	for n < len(q.records) && n < maxBatchRecords {
		if bytes += q.records[n].cost(); n > 0 && bytes > maxBatchBytes {
			break
		}
		n++
	}
	batch := q.records[:n:n]
	if n == 0 {
		q.busy, q.records = false, nil
		return nil
	}
	if n == len(q.records) {
		q.records = nil
	} else {
		q.records = q.records[n:]
	}
	return batch
}

// send appends a batch. It tries again until the batch is in the log, was refused, or
// no caller waits for it any more.
func (p *producer) send(partition int32, batch []queuedRecord) {
	backoff := newBackoff()
	var last error
	from := p.log.End(partition) // no copy of the batch is before this offset
	for {
		if batch = p.failExpired(batch, last); len(batch) == 0 {
			return
		}
		base, err := p.try(partition, batch)
		switch {
		case err == nil && last != nil:
			p.findCopies(partition, from, base, batch)
			return
		case err == nil:
			p.appended(partition, base, batch, nil)
			return
		case tooLarge(err) && len(batch) > 1:
			p.send(partition, batch[:len(batch)/2])
			batch = batch[len(batch)/2:]
			continue
		case tooLarge(err):
			p.fail(batch, envelope.Errorf(envelope.CodeTooLarge,
				"append to %s: a record of %d bytes: Kafka finds it too large: raise the topic's max.message.bytes", p.topic, len(batch[0].value)))
			return
		case refused(err):
			p.fail(batch, envelope.Errorf(envelope.CodeUnavailable,
				"append to %s: Kafka (%s) refuses it: %v", p.topic, p.brokers, explain(err)))
			return
		}
		last = err
		p.dropExpired(partition, last)
		for i := range batch {
			batch[i].call.setErr(err) // for a caller whose time ends first
		}
		p.meters.appendRetries.Inc()
		if backoff.Sleep(p.ctx) != nil {
			p.fail(batch, p.errAborted())
			return
		}
	}
}

// appended finishes the records of a batch that is in the log from offset base on.
// earlier has the offsets of earlier copies, by the record's value: readers use only
// the first copy.
func (p *producer) appended(partition int32, base int64, batch []queuedRecord, earlier map[string]int64) {
	p.log.sawEnd(partition, base+int64(len(batch)))
	p.meters.appendBatches.Inc()
	bytes := 0
	for i := range batch {
		r := &batch[i]
		bytes += len(r.key) + len(r.value)
		offset, ok := earlier[string(r.value)]
		if !ok {
			offset = base + int64(i)
		}
		r.call.offsets[r.index] = offset
		p.finish(r, nil)
	}
	p.meters.appendBytes.Add(float64(bytes))
}

// maxLookBack bounds how many records are searched for earlier copies, if the
// partition's end before the first try is not known.
const maxLookBack = 100_000

// findCopies looks for copies of a batch that earlier tries appended, whose answers
// were lost. Then it finishes the batch. It gives up once no caller waits any more.
func (p *producer) findCopies(partition int32, from, base int64, batch []queuedRecord) {
	ours := make(map[string]bool, len(batch))
	until := time.Time{}
	for i := range batch {
		ours[string(batch[i].value)] = true
		if d := batch[i].call.deadline; d.After(until) {
			until = d
		}
	}
	from = max(from, base-maxLookBack)
	for backoff := newBackoff(); ; {
		earlier := make(map[string]int64)
		err := p.log.scan(p.ctx, partition, from, base, func(offset int64, value []byte) {
			if _, again := earlier[string(value)]; ours[string(value)] && !again {
				earlier[string(value)] = offset
			}
		})
		if err == nil {
			p.appended(partition, base, batch, earlier)
			return
		}
		err = fmt.Errorf("it was appended, but where first cannot be seen: %w", err)
		for i := range batch {
			batch[i].call.setErr(err)
		}
		switch {
		case backoff.Sleep(p.ctx) != nil:
			p.fail(batch, p.errAborted())
			return
		case time.Now().After(until):
			p.fail(batch, p.errTimeout(err))
			return
		}
	}
}

// try sends a batch once. The batch may have been appended even if there is an error.
func (p *producer) try(partition int32, batch []queuedRecord) (base int64, err error) {
	records := make([]kafka.Record, len(batch))
	for i := range batch {
		records[i] = kafka.Record{Key: kafka.NewBytes(batch[i].key), Value: kafka.NewBytes(batch[i].value)}
	}
	res, err := p.client.Produce(p.ctx, &kafka.ProduceRequest{
		Topic: p.topic, Partition: int(partition), RequiredAcks: kafka.RequireAll,
		Records: kafka.NewRecordReader(records...), Compression: p.codec,
	})
	if err != nil {
		return 0, err
	}
	return res.BaseOffset, res.Error
}

// failExpired fails the records whose callers wait no longer, and returns the others.
func (p *producer) failExpired(batch []queuedRecord, last error) []queuedRecord {
	now := time.Now()
	kept := batch[:0]
	for _, r := range batch {
		if r.call.waits(now) {
			kept = append(kept, r)
		} else {
			p.fail([]queuedRecord{r}, p.errTimeout(last))
		}
	}
	clear(batch[len(kept):])
	return kept
}

// dropExpired fails the queued records of a partition whose callers wait no longer, so
// that they do not keep others out of the queue.
func (p *producer) dropExpired(partition int32, last error) {
	q := &p.queues[partition]
	q.mu.Lock()
	defer q.mu.Unlock()
	q.records = p.failExpired(q.records, last)
}

// waits reports whether the caller still waits for its records.
func (c *appendCall) waits(now time.Time) bool { return c.deadline.After(now) && !c.abandoned.Load() }

// fail finishes all records of a batch with an error.
func (p *producer) fail(batch []queuedRecord, err error) {
	p.meters.appendErrors.Add(float64(len(batch)))
	for i := range batch {
		p.finish(&batch[i], err)
	}
}

// setErr sets the newest error of a call that is tried again.
func (c *appendCall) setErr(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

// finish counts a record of a call as finished, and ends the call with its last
// record. The call's error is the first one of its records.
func (p *producer) finish(r *queuedRecord, err error) {
	p.release(record{partition: r.partition, key: r.key, value: r.value})
	c := r.call
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && c.failed == nil {
		c.failed = err
	}
	if c.left--; c.left > 0 {
		return
	}
	c.err = c.failed
	close(c.done)
}

// refuse makes later appends fail with why.
func (p *producer) refuse(why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed == nil {
		p.closed = why
	}
}

// close refuses later appends. It waits until the queued records were appended, their
// time is up, or Bus.Abort is called.
func (p *producer) close(why error) {
	p.refuse(why)
	p.sending.Wait()
	p.stop()
}

func errNoPartition(partition int32, n int) error {
	return envelope.Errorf(envelope.CodeInvalid, "partition %d: there are %d", partition, n)
}
