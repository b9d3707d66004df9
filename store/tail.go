package store

import (
	"context"
	"sync"

	"imgo/envelope"
)

// entryOverhead is what an entry in memory costs beside its value, in bytes.
const entryOverhead = 64

// tail is the newest entries of a partition, in memory, and where its readers
// wait for more. It may be used by many goroutines at once; nothing in it
// waits for a reader.
type tail struct {
	mu    sync.Mutex
	begin int64 // the oldest offset that is still there, here or on the disk
	end   int64 // the next one to be assigned
	read  int64 // the first offset that no reader was given yet

	// ring[head:] are the entries up to end; when it is full of dropped ones
	// it is moved down instead of grown.
	ring  []envelope.Entry
	head  int
	bytes int
	limit int // of bytes; the newest entry stays even if it alone is larger

	wake   chan struct{} // closed by the next push; nil: nobody waits
	closed error         // why reading ends
}

// first is the offset of the oldest entry in memory.
func (t *tail) first() int64 { return t.end - int64(len(t.ring)-t.head) }

// push adds an entry at the end and drops the oldest while there are too many.
// t.mu must be held; the caller must call signal soon.
func (t *tail) push(e envelope.Entry) (dropped int) {
	if len(t.ring) == cap(t.ring) && t.head > len(t.ring)/2 {
		n := copy(t.ring, t.ring[t.head:])
		clear(t.ring[n:])
		t.ring, t.head = t.ring[:n], 0
	}
	t.ring = append(t.ring, e)
	t.end++
	t.bytes += len(e.Value) + entryOverhead
	for t.bytes > t.limit && len(t.ring)-t.head > 1 {
		t.drop()
		dropped++
	}
	return dropped
}

// drop forgets the oldest entry in memory; t.mu must be held.
func (t *tail) drop() {
	t.bytes -= len(t.ring[t.head].Value) + entryOverhead
	t.ring[t.head] = envelope.Entry{} // the value is garbage from now on
	t.head++
	if t.head == len(t.ring) {
		t.ring, t.head = t.ring[:0], 0
	}
}

// signal wakes all who wait; t.mu must be held. One channel a wait serves any
// number of readers, and none is made while nobody waits.
func (t *tail) signal() {
	if t.wake != nil {
		close(t.wake)
		t.wake = nil
	}
}

// close ends all waits and further reads with why; the first call counts.
func (t *tail) close(why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed == nil {
		t.closed = why
		t.signal()
	}
}

// bounds are begin and end.
func (t *tail) bounds() (begin, end int64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.begin, t.end, t.closed
}

// await blocks until there is an entry at or after from and returns what is in
// memory of it. With no entries and no error, from is older than the memory
// and the entries before until are on the disk.
func (t *tail) await(ctx context.Context, partition int32, from int64, maxBytes int) (entries []envelope.Entry, until int64, err error) {
	for {
		t.mu.Lock()
		switch {
		case t.closed != nil:
			err = t.closed
		case from < t.begin || from > t.end:
			err = outOfRange(partition, from, t.begin, t.end)
		case from < t.first():
			until = t.first()
			t.read = max(t.read, until)
		case from < t.end:
			entries = t.collect(from, maxBytes)
		default:
			if t.wake == nil {
				t.wake = make(chan struct{})
			}
			wake := t.wake
			t.mu.Unlock()
			select {
			case <-wake:
				continue
			case <-ctx.Done():
				return nil, 0, ctx.Err()
			}
		}
		t.mu.Unlock()
		return entries, until, err
	}
}

// collect copies entries from an offset that is in memory; t.mu must be held.
func (t *tail) collect(from int64, maxBytes int) []envelope.Entry {
	at := t.head + int(from-t.first())
	n, bytes := 0, 0
	for _, e := range t.ring[at:] {
		bytes += len(e.Value)
		if n > 0 && bytes > maxBytes {
			break
		}
		n++
	}
	t.read = max(t.read, from+int64(n))
	return append(make([]envelope.Entry, 0, n), t.ring[at:at+n]...)
}

func outOfRange(partition int32, from, begin, end int64) error {
	return envelope.Errorf(envelope.CodeOutOfRange,
		"read partition %d at offset %d: it has %d up to %d", partition, from, begin, end)
}

// checkPartition says when there is no such partition.
func checkPartition(partition int32, n int) error {
	if partition < 0 || int(partition) >= n {
		return envelope.Errorf(envelope.CodeInvalid, "partition %d: there are %d", partition, n)
	}
	return nil
}
