package store

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"imgo/envelope"
)

// Beside the entries (log_entry.go) the database has three kinds of values for a log.
// Under "P", "l": format, partitions (uint32 BE) and generation (uint16 BE). Under "P",
// "p" and a partition (uint32 BE): the begin and the end of the partition at the same
// moment (int64 BE each), so that offsets go on growing after all entries were trimmed,
// and how many offsets before the begin had no entry. Under "P", "g" and a partition: how many offsets
// ever were left out (int64 BE), if any were. For the log of events the second letters are "e", "q" and "h".
func (s logSpace) keyShape() []byte { return []byte{'P', s.shape} }

const (
	logFormat  = 1
	shapeBytes = 1 + 4 + 2 + 8 // of a logShape behind the format
)

func (s logSpace) keyBounds(partition int32) []byte {
	return binary.BigEndian.AppendUint32([]byte{'P', s.bounds}, uint32(partition))
}

func (s logSpace) keyLeftOut(partition int32) []byte {
	return binary.BigEndian.AppendUint32([]byte{'P', s.leftOut}, uint32(partition))
}

// logBounds is where a partition begins and ends, and how many of its offsets have no entry: all that were ever left
// out, and those of them before the begin.
type logBounds struct{ begin, end, leftOut, trimmedOut int64 }

// count returns the number of entries.
func (b logBounds) count() int64 { return b.end - b.begin - (b.leftOut - b.trimmedOut) }

// stored returns the stored form of the bounds, without what is left out in all.
func (b logBounds) stored() []byte {
	out := binary.BigEndian.AppendUint64(nil, uint64(b.begin))
	out = binary.BigEndian.AppendUint64(out, uint64(b.end))
	return appendChecksummed(nil, binary.BigEndian.AppendUint64(out, uint64(b.trimmedOut)))
}

// logShape is what never changes of a log. As the options of a call, 0 is "as it is".
type logShape struct {
	partitions int32
	generation uint16
	first      int64 // offset at which every partition began; of the call that makes the log
}

// logRecords is the log as it is in the database.
type logRecords struct {
	db    *DB
	space logSpace
}

// openShape reads the shape of the log, or makes a new log. It refuses a log of another
// shape than the wanted one.
func (lr logRecords) openShape(want logShape) (shape logShape, err error) {
	stored, orphans, err := lr.readShape()
	switch {
	case err != nil:
		return shape, fmt.Errorf("read its partitions: %w", err)
	case orphans:
		return shape, fmt.Errorf("%w: there are entries, but the number of partitions is missing%s", ErrCorrupt, restoreHint)
	case stored == nil:
		return lr.create(want)
	case len(stored) != shapeBytes || stored[0] != logFormat:
		return shape, fmt.Errorf("it has a format that this imgo does not read (%x): run the imgo that wrote it", stored)
	}
	shape.partitions = int32(binary.BigEndian.Uint32(stored[1:]))
	shape.generation = binary.BigEndian.Uint16(stored[5:])
	shape.first = int64(binary.BigEndian.Uint64(stored[7:]))
	if want.partitions != 0 && want.partitions != shape.partitions {
		return shape, fmt.Errorf("it was made with %d partitions and %d are configured: a log cannot be divided anew yet; "+
			"set partitions to %d, or take an empty data directory", shape.partitions, want.partitions, shape.partitions)
	}
	if want.generation != 0 && want.generation != shape.generation {
		return shape, fmt.Errorf("it has generation %d and %d is configured: set the generation to %d, or take an empty data directory",
			shape.generation, want.generation, shape.generation)
	}
	return shape, nil
}

// readShape reads the stored shape. It returns nil if there is none. orphans reports whether there are
// entries all the same.
func (lr logRecords) readShape() (stored []byte, orphans bool, err error) {
	err = lr.db.view(func(txn *badger.Txn) error {
		if stored, err = getValue(txn, lr.space.keyShape()); err != nil || stored != nil {
			return err
		}
		orphans = hasKeys(txn, []byte{lr.space.entry})
		return nil
	})
	return stored, orphans, err
}

// create makes the shape and the bounds of a new log durable before anything is appended.
func (lr logRecords) create(shape logShape) (logShape, error) {
	if shape.partitions == 0 {
		return shape, errors.New("there is no log yet, and no number of partitions for a new one")
	}
	shape.generation = cmp.Or(shape.generation, 1) // so that no id is 0
	b := binary.BigEndian.AppendUint32([]byte{logFormat}, uint32(shape.partitions))
	b = binary.BigEndian.AppendUint16(b, shape.generation)
	b = binary.BigEndian.AppendUint64(b, uint64(shape.first))
	err := lr.db.update(func(txn *badger.Txn) error {
		for p := range shape.partitions {
			if err := txn.Set(lr.space.keyBounds(p), logBounds{begin: shape.first, end: shape.first}.stored()); err != nil {
				return err
			}
		}
		return txn.Set(lr.space.keyShape(), appendChecksummed(nil, b))
	})
	if err != nil {
		return shape, fmt.Errorf("make it: %w", err)
	}
	return shape, nil
}

// bounds finds the bounds of each partition.
func (lr logRecords) bounds(partitions int32) (all []logBounds, err error) {
	all = make([]logBounds, partitions)
	err = lr.db.view(func(txn *badger.Txn) (err error) {
		for p := range partitions {
			if all[p], err = lr.space.boundsOf(txn, p); err != nil {
				return fmt.Errorf("partition %d: %w", p, err)
			}
		}
		return nil
	})
	if errors.Is(err, ErrCorrupt) {
		err = fmt.Errorf("%w%s", err, restoreHint)
	}
	return all, err
}

// boundsOf finds the bounds of a partition. Its first and its last entry must
// exist and be intact.
func (s logSpace) boundsOf(txn *badger.Txn, partition int32) (b logBounds, err error) {
	bounds, err := getValue(txn, s.keyBounds(partition))
	if err != nil {
		return b, fmt.Errorf("read its bounds: %w", err)
	}
	if bounds != nil {
		if len(bounds) != 16 && len(bounds) != 24 { // 16 if no offset could be left out yet
			return b, fmt.Errorf("%w: its bounds have %d bytes", ErrCorrupt, len(bounds))
		}
		b.begin, b.end = int64(binary.BigEndian.Uint64(bounds)), int64(binary.BigEndian.Uint64(bounds[8:]))
		if len(bounds) == 24 {
			b.trimmedOut = int64(binary.BigEndian.Uint64(bounds[16:]))
		}
	}
	leftOut, err := getValue(txn, s.keyLeftOut(partition))
	if err != nil {
		return b, fmt.Errorf("read how many offsets are left out: %w", err)
	}
	if len(leftOut) == 8 {
		b.leftOut = int64(binary.BigEndian.Uint64(leftOut))
	}
	last, found, err := s.seek(txn, partition, -1)
	if err != nil {
		return b, fmt.Errorf("read its last entry: %w", err)
	}
	if found {
		b.end = max(b.end, last.offset+1)
	}
	if b.begin < 0 || b.begin > b.end {
		return b, fmt.Errorf("%w: it begins at %d and ends at %d", ErrCorrupt, b.begin, b.end)
	}
	if b.begin == b.end {
		return b, nil
	}
	first, found, err := s.seek(txn, partition, b.begin)
	if err != nil {
		return b, fmt.Errorf("read its first entry: %w", err)
	}
	if !found || first.after > b.begin {
		return b, fmt.Errorf("%w: its first entry, offset %d of %d, is missing", ErrCorrupt, b.begin, b.end)
	}
	return b, nil
}

// seek reads the first entry of a partition at or after an offset, or its last entry if the offset is -1. The entry
// has no record. found is false if there is none.
func (s logSpace) seek(txn *badger.Txn, partition int32, offset int64) (e logEntry, found bool, err error) {
	prefix := s.prefix(partition)
	it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix, Reverse: offset < 0})
	defer it.Close()
	if offset < 0 {
		// In reverse a seek finds the last key that is not after its argument.
		it.Seek(append(prefix, 0xff))
	} else {
		it.Seek(s.appendKey(nil, partition, offset))
	}
	if !it.Valid() {
		return e, false, nil
	}
	err = s.decode(it.Item(), partition, func(stored logEntry) error {
		e, found = stored, true
		e.record = nil
		return nil
	})
	return e, found, err
}

// decode calls fn with the entry of an item, if that is intact. The record is valid only during the call.
func (s logSpace) decode(item *badger.Item, partition int32, fn func(e logEntry) error) error {
	offset, err := s.offset(item.Key())
	if err != nil {
		return err
	}
	return item.Value(func(stored []byte) error {
		e, err := decodeLogEntry(stored, partition, offset)
		if err != nil {
			return err
		}
		return fn(e)
	})
}

// read returns entries from an offset up to, not including, until. It returns at least
// one entry or an error, or both.
func (lr logRecords) read(partition int32, from, until int64, maxBytes int) (entries []envelope.Entry, err error) {
	bytes := 0
	err = lr.scan(partition, from, until, func(e logEntry) bool {
		if bytes += len(e.record); len(entries) > 0 && bytes > maxBytes {
			return false
		}
		value := append(make([]byte, 0, len(e.record)), e.record...)
		entries = append(entries, envelope.Entry{Partition: partition, Offset: e.offset, Value: value})
		return true
	})
	return entries, err
}

// scan calls fn with each entry from an offset up to, not including, until, as long as fn
// returns true. The record is valid only during the call. A missing or broken entry is an
// error that wraps ErrCorrupt. A gap is not.
func (lr logRecords) scan(partition int32, from, until int64, fn func(e logEntry) bool) error {
	return lr.db.view(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: lr.space.prefix(partition)})
		defer it.Close()
		it.Seek(lr.space.appendKey(nil, partition, from))
		next := from
		visit := func(e logEntry) error {
			if e.after > next {
				return fmt.Errorf("%w: partition %d offset %d: the entry is missing, the next is %d", ErrCorrupt, partition, next, e.offset)
			}
			if next = e.offset + 1; e.offset >= until || !fn(e) {
				next = until
			}
			return nil
		}
		for ; next < until; it.Next() {
			if !it.Valid() {
				return fmt.Errorf("%w: partition %d offset %d: the entry is missing", ErrCorrupt, partition, next)
			}
			if err := lr.space.decode(it.Item(), partition, visit); err != nil {
				return err
			}
		}
		return nil
	})
}

// trim deletes entries, and stores the new bounds in the same transaction.
func (lr logRecords) trim(partition int32, offsets []int64, bounds logBounds) error {
	return lr.db.update(func(txn *badger.Txn) error {
		for _, offset := range offsets {
			if err := txn.Delete(lr.space.appendKey(nil, partition, offset)); err != nil {
				return err
			}
		}
		return txn.Set(lr.space.keyBounds(partition), bounds.stored())
	})
}
