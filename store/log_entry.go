package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// The layout of an entry of a log. The key is the log's letter, partition (uint32 BE) and offset
// (uint64 BE). The value is format, time of the append (Unix milliseconds, int64 BE),
// record, and CRC32C (uint32 BE). The checksum includes the key, so that an entry in the
// place of another one is recognised.
//
// An entry behind a gap has another format, and the end of the partition before the gap (int64 BE) between time and
// record. So a gap is told apart from entries that are missing.
const (
	logKeySize     = 1 + 4 + 8
	logEntryFormat = 1
	logGapFormat   = 2 // of an entry behind a gap
	logEntryHeader = 1 + 8
	logGapBytes    = 8
	logEntryExtra  = logEntryHeader + crc32.Size
	maxRecordBytes = maxValueBytes - logEntryExtra - logGapBytes // the largest record
)

// logEntry is an entry as it is stored.
type logEntry struct {
	offset int64
	after  int64 // the end of the partition before this entry; lower than offset behind a gap
	timeMS int64 // Unix milliseconds of the append
	record []byte
}

// logSpace is a log in the database.
type logSpace struct {
	entry byte // begins the keys of entries
	// shape, bounds and leftOut come after "P" in the keys of the shape, of bounds and of how many offsets are left out.
	shape, bounds, leftOut byte
	name                   string // in errors
	topic                  string // in metrics
}

// The logs.
var (
	spaceKept   = logSpace{'L', 'l', 'p', 'g', "kept log", "kept"}
	spaceEvents = logSpace{'E', 'e', 'q', 'h', "events log", "events"}
)

// String names the log in errors.
func (s logSpace) String() string { return s.name }

// appendKey appends the key of an entry to dst.
func (s logSpace) appendKey(dst []byte, partition int32, offset int64) []byte {
	dst = append(dst, s.entry)
	dst = binary.BigEndian.AppendUint32(dst, uint32(partition))
	return binary.BigEndian.AppendUint64(dst, uint64(offset))
}

// prefix returns the prefix of the keys of a partition.
func (s logSpace) prefix(partition int32) []byte {
	return binary.BigEndian.AppendUint32([]byte{s.entry}, uint32(partition))
}

// offset returns the offset in the key of an entry.
func (s logSpace) offset(key []byte) (int64, error) {
	if len(key) != logKeySize || key[0] != s.entry {
		return 0, fmt.Errorf("%w: %x is no key of a log entry", ErrCorrupt, key)
	}
	return int64(binary.BigEndian.Uint64(key[5:])), nil
}

// appendLogEntry appends the stored form of an entry to dst.
func appendLogEntry(dst []byte, partition int32, e logEntry) []byte {
	at := len(dst)
	if e.after == e.offset {
		dst = append(dst, logEntryFormat)
		dst = binary.BigEndian.AppendUint64(dst, uint64(e.timeMS))
	} else {
		dst = append(dst, logGapFormat)
		dst = binary.BigEndian.AppendUint64(dst, uint64(e.timeMS))
		dst = binary.BigEndian.AppendUint64(dst, uint64(e.after))
	}
	dst = append(dst, e.record...)
	return binary.BigEndian.AppendUint32(dst, logEntrySum(dst[at:], partition, e.offset))
}

// decodeLogEntry checks and decodes the stored form of the entry at partition and offset.
// Its record shares the memory of stored. The error wraps ErrCorrupt.
func decodeLogEntry(stored []byte, partition int32, offset int64) (e logEntry, err error) {
	if len(stored) < logEntryExtra {
		return e, fmt.Errorf("%w: partition %d offset %d: %d bytes are too few for a log entry",
			ErrCorrupt, partition, offset, len(stored))
	}
	at := len(stored) - crc32.Size
	want := binary.BigEndian.Uint32(stored[at:])
	if got := logEntrySum(stored[:at], partition, offset); got != want {
		return e, fmt.Errorf("%w: partition %d offset %d: checksum %08x, expected %08x", ErrCorrupt, partition, offset, got, want)
	}
	e = logEntry{offset: offset, after: offset, timeMS: int64(binary.BigEndian.Uint64(stored[1:])), record: stored[logEntryHeader:at:at]}
	switch stored[0] {
	case logEntryFormat:
		return e, nil
	case logGapFormat:
		if len(e.record) >= logGapBytes {
			e.after, e.record = int64(binary.BigEndian.Uint64(e.record)), e.record[logGapBytes:]
		}
		if e.after < 0 || e.after >= offset {
			return e, fmt.Errorf("%w: partition %d offset %d: the gap before the entry has no beginning", ErrCorrupt, partition, offset)
		}
		return e, nil
	default:
		return e, fmt.Errorf("partition %d offset %d: log entry has format %d, this imgo reads %d and %d: run the imgo that wrote it",
			partition, offset, stored[0], logEntryFormat, logGapFormat)
	}
}

// logEntrySum returns the checksum of an entry at its place.
func logEntrySum(b []byte, partition int32, offset int64) uint32 {
	var place [12]byte
	binary.BigEndian.PutUint32(place[:], uint32(partition))
	binary.BigEndian.PutUint64(place[4:], uint64(offset))
	return crc32.Update(crc32.Checksum(b, castagnoli), castagnoli, place[:]) ^ checksumMask
}
