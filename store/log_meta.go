package store

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// What is stored of the log beside its entries, sealed: under P l its format,
// partitions (uint32 BE) and generation (uint16 BE); under P p and a partition
// (uint32 BE) the begin and, as of the same moment, the end (int64 BE each),
// so that offsets go on growing when all entries were trimmed.
var keyLog = []byte{'P', 'l'}

const logFormat = 1

func keyBounds(partition int32) []byte {
	return binary.BigEndian.AppendUint32([]byte{'P', 'p'}, uint32(partition))
}

func sealBounds(begin, end int64) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(begin))
	return seal(nil, binary.BigEndian.AppendUint64(b, uint64(end)))
}

// load reads what describes the log, or writes it for a new one, and finds the
// bounds of each partition.
func (l *Log) load() error {
	partitions, err := l.loadShape()
	if err != nil {
		return err
	}
	l.parts = make([]tail, partitions)
	l.deleted = make([]int64, partitions)
	err = l.db.view(func(txn *badger.Txn) error {
		for p := range l.parts {
			begin, end, err := loadBounds(txn, int32(p))
			if err != nil {
				return fmt.Errorf("partition %d: %w", p, err)
			}
			t := &l.parts[p]
			t.begin, t.end, t.limit = begin, end, l.opt.TailBytes
			l.deleted[p] = begin
		}
		return nil
	})
	if errors.Is(err, ErrCorrupt) {
		return fmt.Errorf("%w%s", err, restoreHint)
	}
	return err
}

// loadShape settles how many partitions there are, and the generation.
func (l *Log) loadShape() (partitions int32, err error) {
	var shape []byte
	orphans := false
	err = l.db.view(func(txn *badger.Txn) error {
		if shape, err = getSealed(txn, keyLog); err != nil || shape != nil {
			return err
		}
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{prefixLog}})
		defer it.Close()
		it.Rewind()
		orphans = it.Valid()
		return nil
	})
	switch {
	case err != nil:
		return 0, fmt.Errorf("read its partitions: %w", err)
	case orphans:
		return 0, fmt.Errorf("%w: there are entries, but the number of partitions is missing%s", ErrCorrupt, restoreHint)
	case shape == nil:
		return l.create()
	case len(shape) != 7 || shape[0] != logFormat:
		return 0, fmt.Errorf("it has a format that this imgo does not read (%x): run the imgo that wrote it", shape)
	}
	partitions = int32(binary.BigEndian.Uint32(shape[1:]))
	l.generation = binary.BigEndian.Uint16(shape[5:])
	if want := l.opt.Partitions; want != 0 && want != partitions {
		return 0, fmt.Errorf("it was made with %d partitions and %d are configured: a log cannot be divided anew yet; set partitions to %d, or take an empty data directory", partitions, want, partitions)
	}
	if want := l.opt.Generation; want != 0 && want != l.generation {
		return 0, fmt.Errorf("it has generation %d and %d is configured: set the generation to %d, or take an empty data directory", l.generation, want, l.generation)
	}
	return partitions, nil
}

// create makes a new log's description durable before anything is appended.
func (l *Log) create() (partitions int32, err error) {
	partitions, l.generation = l.opt.Partitions, l.opt.Generation
	if partitions == 0 {
		partitions = DefaultLogPartitions
	}
	if l.generation == 0 {
		l.generation = 1 // so that no id is 0
	}
	shape := binary.BigEndian.AppendUint32([]byte{logFormat}, uint32(partitions))
	shape = binary.BigEndian.AppendUint16(shape, l.generation)
	err = l.db.update(func(txn *badger.Txn) error { return txn.Set(keyLog, seal(nil, shape)) })
	if err != nil {
		return 0, fmt.Errorf("make it: %w", err)
	}
	return partitions, nil
}

// loadBounds finds a partition's begin and end. The first and the last entry
// must be there and whole.
func loadBounds(txn *badger.Txn, partition int32) (begin, end int64, err error) {
	bounds, err := getSealed(txn, keyBounds(partition))
	if err != nil {
		return 0, 0, fmt.Errorf("read its bounds: %w", err)
	}
	if bounds != nil {
		if len(bounds) != 16 {
			return 0, 0, fmt.Errorf("%w: its bounds have %d bytes", ErrCorrupt, len(bounds))
		}
		begin, end = int64(binary.BigEndian.Uint64(bounds)), int64(binary.BigEndian.Uint64(bounds[8:]))
	}
	prefix := logPrefix(partition)
	it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix, Reverse: true})
	defer it.Close()
	// In reverse a seek finds the last key that is not after it.
	if it.Seek(append(prefix[:len(prefix):len(prefix)], 0xff)); it.Valid() {
		last, err := logOffset(it.Item().Key())
		if err != nil {
			return 0, 0, err
		}
		if err := it.Item().Value(func(v []byte) error {
			_, _, err := decodeLogEntry(v, partition, last)
			return err
		}); err != nil {
			return 0, 0, fmt.Errorf("read its last entry: %w", err)
		}
		end = max(end, last+1)
	}
	if begin < 0 || begin > end {
		return 0, 0, fmt.Errorf("%w: it begins at %d and ends at %d", ErrCorrupt, begin, end)
	}
	if begin == end {
		return begin, end, nil
	}
	item, err := txn.Get(appendLogKey(nil, partition, begin))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return 0, 0, fmt.Errorf("%w: its first entry, offset %d of %d, is missing", ErrCorrupt, begin, end)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("read its first entry: %w", err)
	}
	return begin, end, item.Value(func(v []byte) error {
		_, _, err := decodeLogEntry(v, partition, begin)
		return err
	})
}
