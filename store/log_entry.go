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
const (
	logKeySize     = 1 + 4 + 8
	logEntryFormat = 1
	logEntryHeader = 1 + 8
	logEntryExtra  = logEntryHeader + crc32.Size
	maxRecordBytes = maxValueBytes - logEntryExtra // the largest record
)

// logSpace is a log in the database.
type logSpace struct {
	entry         byte   // begins the keys of entries
	shape, bounds byte   // come after "P" in the keys of the shape and of bounds
	name          string // in errors
	topic         string // in metrics
}

// The logs.
var (
	spaceKept   = logSpace{'L', 'l', 'p', "kept log", "kept"}
	spaceEvents = logSpace{'E', 'e', 'q', "events log", "events"}
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

// appendLogEntry appends the stored form of a record to dst.
func appendLogEntry(dst []byte, partition int32, offset, timeMS int64, record []byte) []byte {
	at := len(dst)
	dst = append(dst, logEntryFormat)
	dst = binary.BigEndian.AppendUint64(dst, uint64(timeMS))
	dst = append(dst, record...)
	return binary.BigEndian.AppendUint32(dst, logEntrySum(dst[at:], partition, offset))
}

// decodeLogEntry checks and decodes the stored form of the record at partition and offset.
// record shares the memory of stored. The error wraps ErrCorrupt.
func decodeLogEntry(stored []byte, partition int32, offset int64) (timeMS int64, record []byte, err error) {
	if len(stored) < logEntryExtra {
		return 0, nil, fmt.Errorf("%w: partition %d offset %d: %d bytes are too few for a log entry",
			ErrCorrupt, partition, offset, len(stored))
	}
	at := len(stored) - crc32.Size
	want := binary.BigEndian.Uint32(stored[at:])
	if got := logEntrySum(stored[:at], partition, offset); got != want {
		return 0, nil, fmt.Errorf("%w: partition %d offset %d: checksum %08x, expected %08x", ErrCorrupt, partition, offset, got, want)
	}
	if stored[0] != logEntryFormat {
		return 0, nil, fmt.Errorf("partition %d offset %d: log entry has format %d, this imgo reads %d: run the imgo that wrote it",
			partition, offset, stored[0], logEntryFormat)
	}
	return int64(binary.BigEndian.Uint64(stored[1:])), stored[logEntryHeader:at:at], nil
}

// logEntrySum returns the checksum of an entry at its place.
func logEntrySum(b []byte, partition int32, offset int64) uint32 {
	var place [12]byte
	binary.BigEndian.PutUint32(place[:], uint32(partition))
	binary.BigEndian.PutUint64(place[4:], uint64(offset))
	return crc32.Update(crc32.Checksum(b, castagnoli), castagnoli, place[:]) ^ checksumMask
}
