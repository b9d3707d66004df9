package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// The layout of an entry of the kept log. The key is 'L', partition (uint32 BE) and offset
// (uint64 BE). The value is format, time of the append (Unix milliseconds, int64 BE),
// record, and CRC32C (uint32 BE). The checksum includes the key, so that an entry in the
// place of another one is recognised.
const (
	prefixLog      = 'L'
	logKeySize     = 1 + 4 + 8
	logEntryFormat = 1
	logEntryHeader = 1 + 8
	logEntryExtra  = logEntryHeader + crc32.Size
	maxRecordBytes = maxValueBytes - logEntryExtra // the largest record
)

// appendLogKey appends the key of an entry to dst.
func appendLogKey(dst []byte, partition int32, offset int64) []byte {
	dst = append(dst, prefixLog)
	dst = binary.BigEndian.AppendUint32(dst, uint32(partition))
	return binary.BigEndian.AppendUint64(dst, uint64(offset))
}

// logPrefix returns the prefix of the keys of a partition.
func logPrefix(partition int32) []byte {
	return binary.BigEndian.AppendUint32([]byte{prefixLog}, uint32(partition))
}

// logOffset returns the offset in the key of an entry.
func logOffset(key []byte) (int64, error) {
	if len(key) != logKeySize || key[0] != prefixLog {
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
