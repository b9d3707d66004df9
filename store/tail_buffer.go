package store

import (
	"context"
	"sync"

	"imgo/envelope"
)

// entryOverhead is what an entry in memory costs beside its value, in bytes.
const entryOverhead = 64

// tailBuffer holds the newest entries of one partition in memory. Readers at the end of
// the partition wait in it for more; appending never waits for a reader. It is safe for
// concurrent use.
type tailBuffer struct {
	mu        sync.Mutex
	logBounds       // begin is the oldest offset that still exists, here or on the disk; end is the next to be assigned
	read      int64 // the first offset that no reader has got yet

	// gap and gapEnd are the offsets from the end of the log when it was opened up to the first one that was assigned
	// since then. They are the same if no offset is left out.
	gap, gapEnd int64

	// values[head:] are the values of the entries before end. When the slice is full and half
	// of it is dropped entries, the others are moved to its start instead of growing it.
	values [][]byte
	head   int
	bytes  int
	limit  int // bytes; the newest entry stays even if it alone is larger

	wake   chan struct{} // closed by the next append; nil: no reader waits
	closed error         // why reading ends; nil: it does not
}

// oldestLocked returns the offset of the oldest entry in memory.
func (t *tailBuffer) oldestLocked() int64 { return t.end - int64(len(t.values)-t.head) }

// appendLocked adds the entry at end, with this value, and drops the oldest ones over the
// limit. It returns how many it dropped. The caller must call notifyLocked soon.
func (t *tailBuffer) appendLocked(value []byte) (dropped int) {
	if len(t.values) == cap(t.values) && t.head > len(t.values)/2 {
		n := copy(t.values, t.values[t.head:])
		clear(t.values[n:])
		t.values, t.head = t.values[:n], 0
	}
	t.values = append(t.values, value)
	t.end++
	t.bytes += len(value) + entryOverhead
	for t.bytes > t.limit && len(t.values)-t.head > 1 {
		t.dropOldestLocked()
		dropped++
	}
	return dropped
}

// leaveOutLocked moves the end of a partition that has no entries in memory. No entry has the offsets before it.
func (t *tailBuffer) leaveOutLocked(end int64) {
	t.leftOut += end - t.end
	t.gap, t.gapEnd, t.end = t.end, end, end
}

// afterGapLocked returns the offset behind the gap if an offset is in it.
func (t *tailBuffer) afterGapLocked(from int64) int64 {
	if from >= t.gap && from < t.gapEnd {
		return t.gapEnd
	}
	return from
}

// dropOldestLocked removes the oldest entry from memory.
func (t *tailBuffer) dropOldestLocked() {
	t.bytes -= len(t.values[t.head]) + entryOverhead
	t.values[t.head] = nil // garbage from now on
	t.head++
	if t.head == len(t.values) {
		t.values, t.head = t.values[:0], 0
	}
}

// dropBeforeLocked removes the entries before an offset from memory.
func (t *tailBuffer) dropBeforeLocked(offset int64) {
	for t.head < len(t.values) && t.oldestLocked() < offset {
		t.dropOldestLocked()
	}
}

// notifyLocked wakes all waiting readers. One channel serves any number of them, and
// there is none while no reader waits.
func (t *tailBuffer) notifyLocked() {
	if t.wake != nil {
		close(t.wake)
		t.wake = nil
	}
}

// notify wakes all waiting readers.
func (t *tailBuffer) notify() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.notifyLocked()
}

// close ends all waits and refuses further reads with an error. Only the first call
// counts.
func (t *tailBuffer) close(why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed == nil {
		t.closed = why
		t.notifyLocked()
	}
}

// bounds returns the oldest offset that still exists and the next one to be assigned.
func (t *tailBuffer) bounds() (begin, end int64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.begin, t.end, t.closed
}

// await waits until there is an entry at or after from, and returns those in memory. If
// it returns neither entries nor an error, from is older than the memory, and the
// entries before until are on the disk.
func (t *tailBuffer) await(ctx context.Context, partition int32, from int64, maxBytes int) (
	entries []envelope.Entry, until int64, err error) {
	for {
		t.mu.Lock()
		from = t.afterGapLocked(from)
		switch {
		case t.closed != nil:
			err = t.closed
		case from < t.begin || from > t.end:
			err = outOfRange(partition, from, t.begin, t.end)
		case from < t.oldestLocked():
			until = t.oldestLocked()
			t.read = max(t.read, until)
		case from < t.end:
			entries = t.copyLocked(partition, from, maxBytes)
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

// recent returns the entries at and after from; none if from is not in memory.
func (t *tailBuffer) recent(partition int32, from int64, maxBytes int) []envelope.Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	from = t.afterGapLocked(from)
	if t.closed != nil || from < max(t.begin, t.oldestLocked()) || from >= t.end {
		return nil
	}
	return t.copyLocked(partition, from, maxBytes)
}

// copyLocked returns entries of the partition from an offset that is in memory.
func (t *tailBuffer) copyLocked(partition int32, from int64, maxBytes int) []envelope.Entry {
	values := t.values[t.head+int(from-t.oldestLocked()):]
	n, bytes := 0, 0
	for _, value := range values {
		bytes += len(value)
		if n > 0 && bytes > maxBytes {
			break
		}
		n++
	}
	t.read = max(t.read, from+int64(n))
	entries := make([]envelope.Entry, n)
	for i, value := range values[:n] {
		entries[i] = envelope.Entry{Partition: partition, Offset: from + int64(i), Value: value}
	}
	return entries
}

// tailStats are the numbers of a tailBuffer for metrics.
type tailStats struct {
	logBounds
	entries, bytes int // in memory
}

func (t *tailBuffer) stats() tailStats {
	t.mu.Lock()
	defer t.mu.Unlock()
	return tailStats{logBounds: t.logBounds, entries: len(t.values) - t.head, bytes: t.bytes}
}

func outOfRange(partition int32, from, begin, end int64) error {
	return envelope.Errorf(envelope.CodeOutOfRange,
		"read partition %d at offset %d: it has %d up to %d", partition, from, begin, end)
}

// tails are the partitions of a log.
type tails []tailBuffer

// Partitions returns the number of partitions.
func (t tails) Partitions() int32 { return int32(len(t)) }

// Bounds returns the oldest offset that still exists and the next one to be assigned.
func (t tails) Bounds(_ context.Context, partition int32) (begin, end int64, err error) {
	if err := t.check(partition); err != nil {
		return 0, 0, err
	}
	return t[partition].bounds()
}

// check returns an error if there is no such partition.
func (t tails) check(partition int32) error {
	if partition < 0 || int(partition) >= len(t) {
		return envelope.Errorf(envelope.CodeInvalid, "partition %d: there are %d", partition, len(t))
	}
	return nil
}

// close closes all partitions; see tailBuffer.close.
func (t tails) close(why error) {
	for i := range t {
		t[i].close(why)
	}
}
