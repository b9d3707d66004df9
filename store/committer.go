package store

import (
	"encoding/binary"
	"errors"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"

	"imgo/envelope"
)

// batch is what goes into one transaction. Its memory is used again for the next one:
// Badger has copied everything when a commit returns.
type batch struct {
	maxBytes, maxEntries int64

	entries []batchEntry
	bytes   int64 // as Badger counts the size of a transaction
	buf     []byte

	next    []int64            // the offset that each partition assigns next
	fresh   [][]envelope.Entry // the entries of the batch, by partition
	touched []int32            // the partitions with entries in the batch
}

// batchEntry is one entry of a request.
type batchEntry struct {
	r *request
	i int
}

// entryCost is what an entry costs beside its record in a transaction: key, header,
// checksum, and Badger's own bookkeeping with some to spare.
const entryCost = logKeySize + logEntryExtra + 64

// init makes an empty batch that goes on where the partitions end, or at from if they end before it.
func (b *batch) init(bdg *badger.DB, t tails, from int64) {
	// Badger adds a little of its own to each transaction.
	b.maxBytes = bdg.MaxBatchSize() * 9 / 10
	b.maxEntries = bdg.MaxBatchCount() * 9 / 10
	b.next = make([]int64, len(t))
	b.fresh = make([][]envelope.Entry, len(t))
	for p := range t {
		b.next[p] = max(t[p].end, from)
	}
}

// fits reports whether an entry has room in the transaction.
func (b *batch) fits(e *envelope.Entry) bool {
	return len(b.entries) == 0 ||
		b.bytes+int64(len(e.Value))+entryCost <= b.maxBytes && int64(len(b.entries)) < b.maxEntries
}

// add assigns an offset to an entry and adds the entry.
func (b *batch) add(r *request, i int) {
	e := &r.entries[i]
	e.Offset = b.next[e.Partition]
	b.next[e.Partition]++
	b.entries = append(b.entries, batchEntry{r, i})
	b.bytes += int64(len(e.Value)) + entryCost
	if len(b.fresh[e.Partition]) == 0 {
		b.touched = append(b.touched, e.Partition)
	}
	b.fresh[e.Partition] = append(b.fresh[e.Partition], *e)
}

// reset empties the batch. undo takes back the offsets that it assigned.
func (b *batch) reset(undo bool) {
	for _, p := range b.touched {
		if undo {
			b.next[p] -= int64(len(b.fresh[p]))
		}
		clear(b.fresh[p])
		b.fresh[p] = b.fresh[p][:0]
	}
	clear(b.entries)
	b.entries, b.touched, b.bytes = b.entries[:0], b.touched[:0], 0
	if cap(b.buf) > 2*memTableBytes/10 {
		b.buf = nil // one giant batch must not hold its memory for ever
	}
}

// committer commits queued appends. Only the goroutine of Log.Run uses it, except for the
// atomic fields.
type committer struct {
	log   *Log
	now   func() time.Time
	batch batch
	write func(*batch) error // writeBatch; tests replace it

	follower atomic.Pointer[func(partition int32)] // see Log.Follow; nil: there is none
	commits  atomic.Uint64                         // transactions that were committed
}

func (c *committer) init(l *Log, opt LogOptions) {
	c.log, c.now, c.write = l, opt.Now, c.writeBatch
	c.batch.init(l.db.bdg, l.tails, opt.AppendFrom)
}

// commitAll commits requests in order, in as few transactions as hold them, and answers
// them. If a transaction fails before anything was written, only its requests fail. An
// error means that nothing may be committed any more.
func (c *committer) commitAll(requests []*request) error {
	b := &c.batch
	var fatal error
	for _, r := range requests {
		for i := range r.entries {
			if !b.fits(&r.entries[i]) && fatal == nil {
				fatal = c.flush()
			}
			if fatal != nil && r.err == nil {
				r.err = fatal
			}
			if r.err != nil {
				// A part of the request has failed: its other entries are not tried.
				if r.left--; r.left == 0 {
					c.log.queue.finish(r)
				}
				continue
			}
			b.add(r, i)
		}
	}
	if fatal == nil && len(b.entries) > 0 {
		fatal = c.flush()
	}
	return fatal
}

// flush commits the batch, shows its entries to readers, and answers the requests that
// are complete with it.
//
// The order matters for latency. A follower gets a lone record first, and has delivered
// it by the time that a reader would have a processor. Readers are woken last: the
// goroutine that is woken last runs next on this processor, and the delivery is more
// urgent than the answers, which an idle processor may take.
func (c *committer) flush() error {
	b := &c.batch
	err := c.write(b)
	if err == nil {
		c.commits.Add(1)
		c.log.metrics.commitRecords.Observe(float64(len(b.entries)))
		for _, p := range b.touched {
			t := &c.log.tails[p]
			t.mu.Lock()
			if first := b.fresh[p][0].Offset; first > t.end {
				t.leaveOutLocked(first)
			}
			for _, e := range b.fresh[p] {
				t.appendLocked(e.Value)
			}
			t.mu.Unlock()
		}
		if len(b.entries) == 1 {
			c.notifyFollower(b.touched[0])
		}
	}
	for _, s := range b.entries {
		if err != nil && s.r.err == nil {
			s.r.err = err
		}
		if s.r.left--; s.r.left == 0 {
			c.log.queue.finish(s.r)
		}
	}
	if err == nil {
		for _, p := range b.touched {
			c.log.tails[p].notify()
		}
	}
	b.reset(err != nil)
	if errors.Is(err, errBroken) {
		return err
	}
	return nil
}

// notifyFollower reports a record that was committed by itself, unless further requests
// are queued.
func (c *committer) notifyFollower(partition int32) {
	if follow := c.follower.Load(); follow != nil && c.log.queue.length() == 0 {
		(*follow)(partition)
	}
}

// writeBatch writes a batch as one synced transaction.
func (c *committer) writeBatch(b *batch) error {
	now := c.now().UnixMilli()
	// The transaction points into this memory, so it must not move while it grows.
	if need := int(b.bytes); cap(b.buf) < need {
		b.buf = make([]byte, 0, need)
	}
	buf := b.buf[:0]
	return c.log.db.update(func(txn *badger.Txn) error {
		for _, p := range b.touched {
			t := &c.log.tails[p] // only this goroutine changes end and leftOut
			after := t.end
			if gap := b.fresh[p][0].Offset - after; gap > 0 {
				leftOut := binary.BigEndian.AppendUint64(nil, uint64(t.leftOut+gap))
				if err := txn.Set(c.log.records.space.keyLeftOut(p), appendChecksummed(nil, leftOut)); err != nil {
					return err
				}
			}
			for _, e := range b.fresh[p] {
				at := len(buf)
				buf = c.log.records.space.appendKey(buf, p, e.Offset)
				mid := len(buf)
				buf = appendLogEntry(buf, p, logEntry{offset: e.Offset, after: after, timeMS: now, record: e.Value})
				after = e.Offset + 1
				if err := txn.Set(buf[at:mid:mid], buf[mid:len(buf):len(buf)]); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
