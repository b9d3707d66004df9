package store

import (
	"context"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"imgo/envelope"
)

// Read blocks until the partition has an entry at or after from, or ctx is
// done (ctx's error), and returns entries in order, at least one and up to
// about maxBytes of values. At the end of a partition they come from memory.
//
// The error is envelope.ErrOutOfRange when from was trimmed or is past the
// end, envelope.ErrClosed after Close, and wraps ErrCorrupt, with partition
// and offset, when an entry is missing or broken: entries before it are
// returned first, and none is ever passed over.
func (l *Log) Read(ctx context.Context, partition int32, from int64, maxBytes int) ([]envelope.Entry, error) {
	if err := checkPartition(partition, len(l.parts)); err != nil {
		return nil, err
	}
	t := &l.parts[partition]
	entries, until, err := t.await(ctx, partition, from, maxBytes)
	if err != nil || len(entries) > 0 {
		return entries, err
	}
	entries, err = l.readDisk(partition, from, until, maxBytes)
	if len(entries) > 0 {
		return entries, nil // an error after them is met again by the next read
	}
	// What is missing may have been trimmed since await looked.
	if begin, end, cerr := t.bounds(); err != nil && cerr == nil && from < begin {
		return nil, outOfRange(partition, from, begin, end)
	}
	if err != nil {
		return nil, fmt.Errorf("read the kept log in %s: %w", l.db.dir, err)
	}
	return entries, nil
}

// Recent is Read of what is in memory: it never waits, and returns nothing where
// from is not among the newest entries.
func (l *Log) Recent(partition int32, from int64, maxBytes int) []envelope.Entry {
	if checkPartition(partition, len(l.parts)) != nil {
		return nil
	}
	t := &l.parts[partition]
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed != nil || from < max(t.begin, t.first()) || from >= t.end {
		return nil
	}
	return t.collect(from, maxBytes)
}

// readDisk reads entries from Badger, from an offset up to, not including,
// until. It returns at least one entry or an error, or both.
func (l *Log) readDisk(partition int32, from, until int64, maxBytes int) (entries []envelope.Entry, err error) {
	bytes := 0
	err = l.scan(partition, from, until, func(offset, _ int64, record []byte) (bool, error) {
		if bytes += len(record); len(entries) > 0 && bytes > maxBytes {
			return false, nil
		}
		value := append(make([]byte, 0, len(record)), record...)
		entries = append(entries, envelope.Entry{Partition: partition, Offset: offset, Value: value})
		return true, nil
	})
	return entries, err
}

// scan calls fn with each entry from an offset up to, not including, until,
// while fn says so. record is only good within fn. A missing entry is an error
// that wraps ErrCorrupt, as is a broken one.
func (l *Log) scan(partition int32, from, until int64, fn func(offset, timeMS int64, record []byte) (bool, error)) error {
	return l.db.view(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: logPrefix(partition)})
		defer it.Close()
		it.Seek(appendLogKey(nil, partition, from))
		for want := from; want < until; want++ {
			if !it.Valid() {
				return fmt.Errorf("%w: partition %d offset %d: the entry is missing", ErrCorrupt, partition, want)
			}
			offset, err := logOffset(it.Item().Key())
			if err != nil {
				return err
			}
			if offset != want {
				return fmt.Errorf("%w: partition %d offset %d: the entry is missing, the next is %d", ErrCorrupt, partition, want, offset)
			}
			more := false
			err = it.Item().Value(func(stored []byte) error {
				timeMS, record, err := decodeLogEntry(stored, partition, offset)
				if err != nil {
					return err
				}
				more, err = fn(offset, timeMS, record)
				return err
			})
			if err != nil || !more {
				return err
			}
			it.Next()
		}
		return nil
	})
}

// Bounds are the oldest offset that is still there and the next one to be
// assigned.
func (l *Log) Bounds(_ context.Context, partition int32) (begin, end int64, err error) {
	if err := checkPartition(partition, len(l.parts)); err != nil {
		return 0, 0, err
	}
	return l.parts[partition].bounds()
}
