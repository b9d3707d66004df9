package store

import (
	"errors"

	"github.com/dgraph-io/badger/v4"

	"imgo/envelope"
)

// batch is what goes into one transaction. Its memory is used again for the
// next one: Badger has copied everything when a commit returns.
type batch struct {
	maxBytes, maxEntries int64

	slots []slot
	bytes int64 // as Badger counts a transaction's size
	buf   []byte

	// next is the offset that each partition assigns next; fresh are the
	// batch's entries by partition, touched which of them are not empty.
	next    []int64
	fresh   [][]envelope.Entry
	touched []int32
}

// slot is one entry of a request.
type slot struct {
	r *request
	i int
}

// entryCost is what an entry counts beside its record in a transaction: key,
// header, checksum, and Badger's own bookkeeping with some to spare.
const entryCost = logKeySize + logEntryExtra + 64

// newBatch is an empty batch that goes on where the partitions end.
func newBatch(db *DB, parts []tail) *batch {
	b := &batch{
		// Badger has a little of its own in each transaction.
		maxBytes:   db.bdg.MaxBatchSize() * 9 / 10,
		maxEntries: db.bdg.MaxBatchCount() * 9 / 10,
		next:       make([]int64, len(parts)),
		fresh:      make([][]envelope.Entry, len(parts)),
	}
	for p := range parts {
		b.next[p] = parts[p].end
	}
	return b
}

// fits says whether an entry has room in the transaction.
func (b *batch) fits(e *envelope.Entry) bool {
	return len(b.slots) == 0 ||
		b.bytes+int64(len(e.Value))+entryCost <= b.maxBytes && int64(len(b.slots)) < b.maxEntries
}

// add assigns an entry its offset and puts it in.
func (b *batch) add(r *request, i int) {
	e := &r.entries[i]
	e.Offset = b.next[e.Partition]
	b.next[e.Partition]++
	b.slots = append(b.slots, slot{r, i})
	b.bytes += int64(len(e.Value)) + entryCost
	if len(b.fresh[e.Partition]) == 0 {
		b.touched = append(b.touched, e.Partition)
	}
	b.fresh[e.Partition] = append(b.fresh[e.Partition], *e)
}

// reset empties the batch; undo gives back the offsets that it assigned.
func (b *batch) reset(undo bool) {
	for _, p := range b.touched {
		if undo {
			b.next[p] -= int64(len(b.fresh[p]))
		}
		clear(b.fresh[p])
		b.fresh[p] = b.fresh[p][:0]
	}
	clear(b.slots)
	b.slots, b.touched, b.bytes = b.slots[:0], b.touched[:0], 0
	if cap(b.buf) > 2*memTableBytes/10 {
		b.buf = nil // one giant group must not cost memory for ever
	}
}

// commitAll commits requests in order, in as few transactions as hold them,
// and answers them. A transaction that fails before anything was written fails
// its requests alone; the error is one after which nothing may go on.
func (l *Log) commitAll(reqs []*request) error {
	b := l.batch
	var fatal error
	for _, r := range reqs {
		for i := range r.entries {
			if !b.fits(&r.entries[i]) && fatal == nil {
				fatal = l.flush()
			}
			if fatal != nil && r.err == nil {
				r.err = fatal
			}
			if r.err != nil {
				// What its first part met, or all: the rest is not tried.
				if r.left--; r.left == 0 {
					l.finish(r)
				}
				continue
			}
			b.add(r, i)
		}
	}
	if fatal == nil && len(b.slots) > 0 {
		fatal = l.flush()
	}
	return fatal
}

// flush commits the batch, shows its entries to readers and answers the
// requests that are complete with it. Of a lone record the follower is told
// before anybody is woken: it has delivered what there is to deliver by the time
// that a reader would have its processor. Readers are woken last: whoever is
// woken last goes on first, on this processor, and the delivery is what is waited
// for; the answers are another processor's to take, if there is one that rests.
func (l *Log) flush() error {
	b := l.batch
	err := l.commit(b)
	if err == nil {
		l.commits.Add(1)
		l.watch.commitRecords.Observe(float64(len(b.slots)))
		for _, p := range b.touched {
			t := &l.parts[p]
			t.mu.Lock()
			for _, e := range b.fresh[p] {
				t.push(e)
			}
			t.mu.Unlock()
		}
	}
	if err == nil && len(b.slots) == 1 {
		l.tell(b.touched[0])
	}
	for _, s := range b.slots {
		if err != nil && s.r.err == nil {
			s.r.err = err
		}
		if s.r.left--; s.r.left == 0 {
			l.finish(s.r)
		}
	}
	if err == nil {
		for _, p := range b.touched {
			t := &l.parts[p]
			t.mu.Lock()
			t.signal()
			t.mu.Unlock()
		}
	}
	b.reset(err != nil)
	if errors.Is(err, errBroken) {
		return err
	}
	return nil
}

// tell tells the follower of a record that was committed by itself, unless the
// next ones wait already.
func (l *Log) tell(partition int32) {
	follow := l.follower.Load()
	if follow == nil {
		return
	}
	l.mu.Lock()
	more := len(l.queue) > 0
	l.mu.Unlock()
	if !more {
		(*follow)(partition)
	}
}

// Follow has fn called with the partition of each record that was committed by
// itself, with nothing queued behind it, on the goroutine that commits, once Recent
// gives the record and before readers are woken and the call to append returns. fn
// delays both, and the next commit, so it must not wait for anything; nor may it
// append. Other records are not told: who follows has to read as well. There is
// one follower: a later call takes the place of an earlier. stop ends it, but fn
// may still be running when it returns.
func (l *Log) Follow(fn func(partition int32)) (stop func()) {
	l.follower.Store(&fn)
	return func() { l.follower.CompareAndSwap(&fn, nil) }
}

// finish answers a request. It may be used again by its caller from then on.
func (l *Log) finish(r *request) {
	l.room.Release(r.cost)
	r.done <- struct{}{}
}

// write commits a batch as one synced transaction.
func (l *Log) write(b *batch) error {
	now := l.opt.Now().UnixMilli()
	// Keys and values lie in one piece of memory that must not move while the
	// transaction points into it.
	if need := int(b.bytes); cap(b.buf) < need {
		b.buf = make([]byte, 0, need)
	}
	buf := b.buf[:0]
	return l.db.update(func(txn *badger.Txn) error {
		for _, p := range b.touched {
			for _, e := range b.fresh[p] {
				at := len(buf)
				buf = appendLogKey(buf, p, e.Offset)
				mid := len(buf)
				buf = appendLogEntry(buf, p, e.Offset, now, e.Value)
				if err := txn.Set(buf[at:mid:mid], buf[mid:len(buf):len(buf)]); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
