package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/dgraph-io/badger/v4"

	"imgo/envelope"
)

// prefixTable is before a table's name, a zero byte and a key. The value is an offset
// (uint64 BE) and what was put.
var prefixTable = []byte{'K', 't'}

// maxTableEntry bounds a key and its value together, in bytes.
const maxTableEntry = maxValueBytes - 1<<10

// Table is a small map with durable entries, for a node that runs alone. A cluster has a
// compacted topic of the same methods instead (cluster/bus). All entries are in memory as
// well. Its methods are safe for concurrent use.
type Table struct {
	db     *DB
	prefix []byte

	mu      sync.Mutex
	entries map[string]tableEntry
	next    int64         // the offset of the next entry
	changed chan struct{} // closed at each change
}

type tableEntry struct {
	offset int64
	key    []byte
	value  []byte
}

// Table reads the table of a name. A table of that name must be open only once.
func (db *DB) Table(name string) (*Table, error) {
	t := &Table{
		db: db, prefix: append(append(bytes.Clone(prefixTable), name...), 0), entries: make(map[string]tableEntry),
		changed: make(chan struct{}),
	}
	err := db.each(withValues(t.prefix), nil, math.MaxInt, func(item *badger.Item) error {
		key := item.KeyCopy(nil)[len(t.prefix):]
		err := readItem(item, func(raw []byte) error {
			if len(raw) < 8 {
				return fmt.Errorf("%w: %d bytes are too few for an entry", ErrCorrupt, len(raw))
			}
			offset := int64(binary.BigEndian.Uint64(raw))
			t.entries[string(key)] = tableEntry{offset, key, bytes.Clone(raw[8:])}
			t.next = max(t.next, offset+1)
			return nil
		})
		if err != nil {
			return fmt.Errorf("entry %q: %w", key, err)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the table %q of data directory %s: %w", name, db.dir, err)
	}
	return t, nil
}

// Put stores an entry and returns its offset once it is durable. It returns an
// envelope.ErrTooLarge for an entry over maxTableEntry. The caller must not change value
// after the call.
func (t *Table) Put(_ context.Context, key, value []byte) (offset int64, err error) {
	if n := len(key) + len(value); n > maxTableEntry {
		return 0, envelope.Errorf(envelope.CodeTooLarge, "entry %q has %d bytes, %d are allowed", key, n, maxTableEntry)
	}
	t.mu.Lock()
	defer t.mu.Unlock() // during the write: offsets grow in the order of the writes
	stored := append(binary.BigEndian.AppendUint64(nil, uint64(t.next)), value...)
	if err := t.db.update(func(txn *badger.Txn) error {
		return txn.Set(append(bytes.Clone(t.prefix), key...), appendChecksummed(nil, stored))
	}); err != nil {
		return 0, fmt.Errorf("write entry %q: %w", key, err)
	}
	offset = t.next
	t.next++
	t.entries[string(key)] = tableEntry{offset, bytes.Clone(key), value}
	close(t.changed)
	t.changed = make(chan struct{})
	return offset, nil
}

// End returns the offset that the next entry gets.
func (t *Table) End(context.Context) (int64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.next, nil
}

// Follow calls fn, in order, for the newest entries of the keys from an offset on (0: all), and for
// those that come. It returns ctx's error when ctx is done, and fn's error when fn fails.
func (t *Table) Follow(ctx context.Context, from int64, fn func(offset int64, key, value []byte) error) error {
	for {
		t.mu.Lock()
		var entries []tableEntry
		for _, e := range t.entries {
			if e.offset >= from {
				entries = append(entries, e)
			}
		}
		changed := t.changed
		t.mu.Unlock()
		slices.SortFunc(entries, func(a, b tableEntry) int { return cmp.Compare(a.offset, b.offset) })
		for _, e := range entries {
			if err := fn(e.offset, e.key, e.value); err != nil {
				return err
			}
			from = e.offset + 1
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
