package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// An entry of the kept log on the disk: key 'L', partition (uint32 BE), offset
// (uint64 BE); value: format, time of the append (Unix milliseconds, int64
// BE), the record, CRC32C (uint32 BE). The checksum goes over the key as well,
// so that an entry that turns up in another's place is found out.
const (
	prefixLog      = 'L'
	logKeySize     = 1 + 4 + 8
	logEntryFormat = 1
	logEntryHeader = 1 + 8
	logEntryExtra  = logEntryHeader + crc32.Size
	maxLogRecord   = MaxValueBytes - logEntryExtra
)

// appendLogKey appends the key of an entry to dst.
func appendLogKey(dst []byte, partition int32, offset int64) []byte {
	dst = append(dst, prefixLog)
	dst = binary.BigEndian.AppendUint32(dst, uint32(partition))
	return binary.BigEndian.AppendUint64(dst, uint64(offset))
}

// logPrefix is what the keys of a partition begin with.
func logPrefix(partition int32) []byte {
	return binary.BigEndian.AppendUint32([]byte{prefixLog}, uint32(partition))
}

// logOffset is the offset in a key of an entry.
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

// decodeLogEntry checks the stored form of the record at partition and offset and
// takes it apart. record shares stored's memory. The error wraps ErrCorrupt.
func decodeLogEntry(stored []byte, partition int32, offset int64) (timeMS int64, record []byte, err error) {
	if len(stored) < logEntryExtra {
		return 0, nil, fmt.Errorf("%w: partition %d offset %d: %d bytes are too few for a log entry", ErrCorrupt, partition, offset, len(stored))
	}
	at := len(stored) - crc32.Size
	want := binary.BigEndian.Uint32(stored[at:])
	if got := logEntrySum(stored[:at], partition, offset); got != want {
		return 0, nil, fmt.Errorf("%w: partition %d offset %d: checksum %08x, expected %08x", ErrCorrupt, partition, offset, got, want)
	}
	if stored[0] != logEntryFormat {
		return 0, nil, fmt.Errorf("partition %d offset %d: log entry has format %d, this imgo reads %d: run the imgo that wrote it", partition, offset, stored[0], logEntryFormat)
	}
	return int64(binary.BigEndian.Uint64(stored[1:])), stored[logEntryHeader:at:at], nil
}

func logEntrySum(b []byte, partition int32, offset int64) uint32 {
	var place [12]byte
	binary.BigEndian.PutUint32(place[:], uint32(partition))
	binary.BigEndian.PutUint64(place[4:], uint64(offset))
	return crc32.Update(crc32.Checksum(b, castagnoli), castagnoli, place[:]) ^ sealMask
}
