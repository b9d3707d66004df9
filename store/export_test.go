package store

import (
	"context"

	"github.com/dgraph-io/badger/v4"
)

// Commits counts the transactions that the log has committed.
func (l *Log) Commits() uint64 { return l.committer.commits.Load() }

// Dropped counts the entries that were dropped before any reader got them.
func (l *LiveLog) Dropped() uint64 { return l.droppedUnread.Load() }

// Defaults and bounds.
const (
	MaxRecordBytes = maxRecordBytes
	MinFree        = minFree
)

// Trim deletes the entries that are older than the retention.
func (l *Log) Trim(ctx context.Context) error { return l.trimmer.trim(ctx) }

// FailCommits makes the next n commits fail with err before anything is written. It must
// be called before Run.
func (l *Log) FailCommits(n int, err error) {
	l.committer.write = func(b *batch) error {
		if n--; n >= 0 {
			return err
		}
		return l.committer.writeBatch(b)
	}
}

// ErrBroken is the error after which nothing more is written.
var ErrBroken = errBroken

// BreakDisk makes the DB behave as after a commit that is half written.
func (db *DB) BreakDisk(err error) error { return db.committed(err) }

// Overwrite changes the stored form of a log entry without the log; nil deletes it.
func (db *DB) Overwrite(partition int32, offset int64, change func(stored []byte) []byte) error {
	key := spaceKept.appendKey(nil, partition, offset)
	return db.update(func(txn *badger.Txn) error {
		item, err := txn.Get(key)
		if err != nil {
			return err
		}
		stored, err := item.ValueCopy(nil)
		if err != nil {
			return err
		}
		if stored = change(stored); stored == nil {
			return txn.Delete(key)
		}
		return txn.Set(key, stored)
	})
}

// LoseFormat deletes the database's first record.
func (db *DB) LoseFormat() error {
	return db.update(func(txn *badger.Txn) error { return txn.Delete(keyFormat) })
}

// MarkFormat1 makes the directory look like one of the first format.
func (db *DB) MarkFormat1() error {
	return db.update(func(txn *badger.Txn) error { return txn.Set(keyFormat, appendChecksummed(nil, []byte{1})) })
}

// Encoders and decoders, for fuzzing.
var (
	AppendChecksummed = appendChecksummed
	VerifyChecksum    = verifyChecksum
)

// AppendLogEntry appends the stored form of an entry of a log to dst.
func AppendLogEntry(dst []byte, partition int32, offset, after, timeMS int64, record []byte) []byte {
	return appendLogEntry(dst, partition, logEntry{offset, after, timeMS, record})
}

// LogEntry is an entry of a log as it is stored.
type LogEntry struct {
	After, TimeMS int64
	Record        []byte
}

// DecodeLogEntry decodes what AppendLogEntry has appended.
func DecodeLogEntry(stored []byte, partition int32, offset int64) (LogEntry, error) {
	e, err := decodeLogEntry(stored, partition, offset)
	return LogEntry{e.after, e.timeMS, e.record}, err
}

// Entries returns the number of entries of a partition, as the metric has it.
func (l *Log) Entries(partition int32) int64 { return l.tails[partition].stats().count() }
