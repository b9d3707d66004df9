package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"imgo/store/badgerwal"
)

// ErrCorrupt is in the chain of every error that says that stored bytes are not the
// bytes that were written. Nothing is repaired or skipped: the data directory must be
// restored.
var ErrCorrupt = badgerwal.ErrCorrupt

// checksumSize is the length of the checksum after a stored value, in bytes.
const checksumSize = crc32.Size

// checksumMask makes the stored checksum of an empty value (0) differ from zeros: a
// zeroed page must not look like a good empty value.
const checksumMask = 0x696d676f

// castagnoli has a hardware instruction on amd64 and arm64.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendChecksummed appends value and its CRC32C to dst. Badger checks its own checksums
// only when it opens a table; this one is checked on each read.
func appendChecksummed(dst, value []byte) []byte {
	dst = append(dst, value...)
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(value, castagnoli)^checksumMask)
}

// verifyChecksum checks what appendChecksummed made and returns the value, which shares
// the memory of stored. The error wraps ErrCorrupt.
func verifyChecksum(stored []byte) ([]byte, error) {
	if len(stored) < checksumSize {
		return nil, fmt.Errorf("%w: %d bytes are too few for a checksum", ErrCorrupt, len(stored))
	}
	at := len(stored) - checksumSize
	value := stored[:at:at]
	want := binary.BigEndian.Uint32(stored[at:])
	if got := crc32.Checksum(value, castagnoli) ^ checksumMask; got != want {
		return nil, fmt.Errorf("%w: checksum %08x, expected %08x", ErrCorrupt, got, want)
	}
	return value, nil
}
