package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"golang.org/x/sync/semaphore"

	"imgo/envelope"
)

const (
	// entryOverhead is what a record costs beside key and value, in a batch and
	// in the queue.
	entryOverhead = 64
	// maxBatchRecords bounds a batch beside maxBatchBytes.
	maxBatchRecords = 10_000

	minBackoff = 50 * time.Millisecond
	maxBackoff = 250 * time.Millisecond
)

// producer appends to a topic. Each partition has one batch under way at a
// time, which keeps the order; what comes meanwhile shares the next one.
type producer struct {
	topic   string
	brokers string
	client  *kafka.Client
	codec   kafka.Compression
	timeout time.Duration // until an append that Kafka does not take fails
	meters  *meters
	// moved is told how far a partition goes at least.
	moved func(partition int32, end int64)
	// copies reads a partition from one offset on to before another; nil:
	// nobody asks where records are.
	copies func(ctx context.Context, partition int32, from, before int64, fn func(offset int64, value []byte)) error
	// end is how far a partition went at least, before a batch was tried.
	end func(partition int32) int64

	room  *semaphore.Weighted // the queue's bytes
	total int64
	parts []queue

	mu      sync.Mutex
	closed  error
	sending sync.WaitGroup // a goroutine for each partition that has a batch under way
	ctx     context.Context
	stop    context.CancelFunc
}

// queue is what waits for a partition.
type queue struct {
	mu    sync.Mutex
	items []item
	busy  bool // somebody sends, and will see what is added
}

// item is one record of a request.
type item struct {
	r          *request
	at         int // in r.offsets
	key, value []byte
}

func (i *item) cost() int { return len(i.key) + len(i.value) + entryOverhead }

// request is one call. Its fields belong to the producer until done.
type request struct {
	offsets  []int64
	deadline time.Time
	cost     int64

	mu     sync.Mutex
	left   int   // records that are not dealt with yet
	failed error // why the first of them failed for good
	err    error // the newest error; once done: failed
	done   chan struct{}
}

// newProducer appends to a topic for as long as it is not closed. Calls of
// client may take a third of the timeout, so that a broker that hangs leaves
// time to try another.
func newProducer(b *Bus, topic string, t *kafka.Transport, partitions int32, queueBytes int64) *producer {
	attempt := min(max(b.o.WriteTimeout/3, time.Second), 10*time.Second)
	p := &producer{
		topic: topic, brokers: strings.Join(b.o.Brokers, ", "), client: b.client(attempt, t), codec: b.compression,
		timeout: b.o.WriteTimeout, meters: b.metrics.of(topic),
		room: semaphore.NewWeighted(queueBytes), total: queueBytes, parts: make([]queue, partitions),
	}
	p.ctx, p.stop = context.WithCancel(context.Background())
	return p
}

// record is what is appended.
type record struct {
	partition  int32
	key, value []byte
}

// append blocks until all records are durable, and sets their offsets.
func (p *producer) append(ctx context.Context, offsets []int64, records func(i int) record) error {
	started := time.Now()
	r := &request{offsets: make([]int64, len(offsets)), deadline: started.Add(p.timeout), left: len(offsets), done: make(chan struct{})}
	for i := range offsets {
		rec := records(i)
		if rec.partition < 0 || int(rec.partition) >= len(p.parts) {
			return noPartition(rec.partition, len(p.parts))
		}
		if n := len(rec.key) + len(rec.value); n > MaxRecordBytes {
			return envelope.Errorf(envelope.CodeTooLarge, "a record of %d bytes: the log takes at most %d", n, MaxRecordBytes)
		}
		r.cost += int64(len(rec.key) + len(rec.value) + entryOverhead)
	}
	if err := p.isClosed(); err != nil || len(offsets) == 0 {
		return errors.Join(err, ctx.Err())
	}
	// A call that is larger than the queue has it for itself.
	r.cost = min(r.cost, p.total)
	if err := p.acquire(ctx, r); err != nil {
		p.meters.appendErrors.Add(float64(len(offsets)))
		return err
	}
	if err := p.enqueue(r, records); err != nil {
		p.room.Release(r.cost)
		return err
	}
	timer := time.NewTimer(time.Until(r.deadline))
	defer timer.Stop()
	select {
	case <-r.done:
		if r.err != nil {
			return r.err
		}
		copy(offsets, r.offsets)
		p.meters.appendSeconds.Observe(time.Since(started).Seconds())
		return nil
	case <-ctx.Done():
		return fmt.Errorf("append to %s (it may still happen): %w", p.topic, ctx.Err())
	case <-timer.C:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return p.late(r.err)
}

// late is the error of an append that Kafka did not take in time.
func (p *producer) late(last error) error {
	switch {
	case last == nil:
		return envelope.Errorf(envelope.CodeUnavailable, "append to %s: Kafka (%s) did not answer within %v; it may still happen", p.topic, p.brokers, p.timeout)
	case errors.Is(last, envelope.ErrUnavailable):
		return last
	}
	return envelope.Errorf(envelope.CodeUnavailable, "append to %s: Kafka (%s) did not take it within %v; it may still happen: %v", p.topic, p.brokers, p.timeout, explain(last))
}

// acquire waits for room in the queue.
func (p *producer) acquire(ctx context.Context, r *request) error {
	if p.room.TryAcquire(r.cost) {
		return nil
	}
	wait, cancel := context.WithDeadline(ctx, r.deadline)
	defer cancel()
	err := p.room.Acquire(wait, r.cost)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("append to %s: wait for room in the queue: %w", p.topic, ctx.Err())
	case p.isClosed() != nil:
		return p.isClosed()
	}
	return envelope.Errorf(envelope.CodeUnavailable, "append to %s: the queue of %d bytes to Kafka (%s) was full for %v", p.topic, p.total, p.brokers, p.timeout)
}

func (p *producer) isClosed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// enqueue puts a request's records into the queues, then has them sent: so
// what belongs together shares batches.
func (p *producer) enqueue(r *request, records func(i int) record) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed != nil {
		return p.closed
	}
	for i := range r.offsets {
		rec := records(i)
		q := &p.parts[rec.partition]
		q.mu.Lock()
		q.items = append(q.items, item{r: r, at: i, key: rec.key, value: rec.value})
		q.mu.Unlock()
	}
	for i := range r.offsets {
		partition := records(i).partition
		q := &p.parts[partition]
		q.mu.Lock()
		if !q.busy && len(q.items) > 0 {
			q.busy = true
			p.sending.Go(func() { p.drain(partition) })
		}
		q.mu.Unlock()
	}
	return nil
}

// drain sends a partition's queue until it is empty.
func (p *producer) drain(partition int32) {
	q := &p.parts[partition]
	for {
		batch := q.take()
		if batch == nil {
			return
		}
		p.send(partition, batch)
	}
}

// take is the next batch; with nil nobody is busy any more.
func (q *queue) take() []item {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, bytes := 0, 0
	for n < len(q.items) && n < maxBatchRecords {
		if bytes += q.items[n].cost(); n > 0 && bytes > maxBatchBytes {
			break
		}
		n++
	}
	batch := q.items[:n:n]
	if n == 0 {
		q.busy, q.items = false, nil
		return nil
	}
	if n == len(q.items) {
		q.items = nil
	} else {
		q.items = q.items[n:]
	}
	return batch
}

// send appends a batch, again and again until it is there, was refused, or
// nobody waits for it any more.
func (p *producer) send(partition int32, batch []item) {
	backoff := minBackoff
	var last error
	var from int64
	if p.end != nil {
		from = p.end(partition)
	}
	for {
		if batch = p.expire(batch, last); len(batch) == 0 {
			return
		}
		base, err := p.try(partition, batch)
		switch {
		case err == nil && last != nil && p.copies != nil:
			p.first(partition, from, base, batch)
			return
		case err == nil:
			p.appended(partition, base, batch, nil)
			return
		case tooLarge(err) && len(batch) > 1:
			p.send(partition, batch[:len(batch)/2])
			batch = batch[len(batch)/2:]
			continue
		case tooLarge(err):
			p.fail(batch, envelope.Errorf(envelope.CodeTooLarge, "append to %s: a record of %d bytes: Kafka finds it too large: raise the topic's max.message.bytes", p.topic, len(batch[0].value)))
			return
		case refused(err):
			p.fail(batch, envelope.Errorf(envelope.CodeUnavailable, "append to %s: Kafka (%s) refuses it: %v", p.topic, p.brokers, explain(err)))
			return
		}
		last = err
		for i := range batch {
			// What to say if the caller's time is up before it is ours.
			batch[i].r.note(err)
		}
		p.meters.appendRetries.Inc()
		select {
		case <-time.After(backoff):
		case <-p.ctx.Done():
			p.fail(batch, p.late(last))
			return
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// appended notes that a batch is there from base on, but for records of which
// an earlier copy is: readers go by the first one.
func (p *producer) appended(partition int32, base int64, batch []item, earlier map[string]int64) {
	p.moved(partition, base+int64(len(batch)))
	p.meters.appendBatches.Inc()
	bytes := 0
	for i := range batch {
		it := &batch[i]
		bytes += len(it.key) + len(it.value)
		offset, ok := earlier[string(it.value)]
		if !ok {
			offset = base + int64(i)
		}
		it.r.offsets[it.at] = offset
		p.finish(it.r, nil)
	}
	p.meters.appendBytes.Add(float64(bytes))
}

// maxLookBack bounds how many records are looked at for earlier copies, where
// it is not known how far the partition went before the first try.
const maxLookBack = 100_000

// first looks for copies of a batch that tries before the last one appended,
// whose answers were lost, until nobody waits any more.
func (p *producer) first(partition int32, from, base int64, batch []item) {
	ours := make(map[string]bool, len(batch))
	until := time.Time{}
	for i := range batch {
		ours[string(batch[i].value)] = true
		if d := batch[i].r.deadline; d.After(until) {
			until = d
		}
	}
	from = max(from, base-maxLookBack)
	for backoff := minBackoff; ; backoff = min(2*backoff, maxBackoff) {
		earlier := make(map[string]int64)
		err := p.copies(p.ctx, partition, from, base, func(offset int64, value []byte) {
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
			batch[i].r.note(err)
		}
		select {
		case <-time.After(backoff):
		case <-p.ctx.Done():
			until = time.Time{}
		}
		if time.Now().After(until) {
			p.fail(batch, p.late(err))
			return
		}
	}
}

// try sends a batch once. Whatever the error, it may have been appended.
func (p *producer) try(partition int32, batch []item) (base int64, err error) {
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

// expire fails those of a batch whose time is up, and returns the others.
func (p *producer) expire(batch []item, last error) []item {
	now := time.Now()
	keep := 0
	for i := range batch {
		if batch[i].r.deadline.After(now) {
			keep++
		}
	}
	if keep == len(batch) {
		return batch
	}
	kept := make([]item, 0, keep)
	for i := range batch {
		if batch[i].r.deadline.After(now) {
			kept = append(kept, batch[i])
		} else {
			p.fail(batch[i:i+1], p.late(last))
		}
	}
	return kept
}

func (p *producer) fail(batch []item, err error) {
	p.meters.appendErrors.Add(float64(len(batch)))
	for i := range batch {
		p.finish(batch[i].r, err)
	}
}

// note remembers the newest error of a request that is tried again.
func (r *request) note(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

// finish notes that one record of a request is dealt with; the first error of
// a request that failed is the one it gets.
func (p *producer) finish(r *request, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil && r.failed == nil {
		r.failed = err
	}
	if r.left--; r.left > 0 {
		return
	}
	r.err = r.failed
	p.room.Release(r.cost)
	close(r.done)
}

// refuse takes no more appends.
func (p *producer) refuse(why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed == nil {
		p.closed = why
	}
}

// close takes no more, and waits until what is queued was appended or its time
// is up.
func (p *producer) close(why error) {
	p.refuse(why)
	p.sending.Wait()
	p.stop()
}

func noPartition(partition int32, n int) error {
	return envelope.Errorf(envelope.CodeInvalid, "partition %d: there are %d", partition, n)
}
