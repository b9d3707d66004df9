package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/dgraph-io/badger/v4"

	"imgo/store/badgerwal"
)

// ErrCorrupt is in the chain of every error that says that stored bytes are
// not what was written. Nothing is repaired or skipped: the data directory
// wants restoring.
var ErrCorrupt = badgerwal.ErrCorrupt

// sealSize is what seal adds to a value, in bytes.
const sealSize = crc32.Size

// sealMask keeps the checksum of nothing (0) from being stored as zeros: a
// zeroed page must not look like a good empty value.
const sealMask = 0x696d676f

// castagnoli has a hardware instruction on amd64 and arm64.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal appends value and its CRC32C to dst. Badger checks its own checksums
// only when it opens a table; this one is checked on each read.
func seal(dst, value []byte) []byte {
	dst = append(dst, value...)
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(value, castagnoli)^sealMask)
}

// unseal checks what seal made and returns the value, which shares sealed's
// memory. The error wraps ErrCorrupt.
func unseal(sealed []byte) ([]byte, error) {
	if len(sealed) < sealSize {
		return nil, fmt.Errorf("%w: %d bytes are too few for a checksum", ErrCorrupt, len(sealed))
	}
	at := len(sealed) - sealSize
	value := sealed[:at:at]
	want := binary.BigEndian.Uint32(sealed[at:])
	if got := crc32.Checksum(value, castagnoli) ^ sealMask; got != want {
		return nil, fmt.Errorf("%w: checksum %08x, expected %08x", ErrCorrupt, got, want)
	}
	return value, nil
}

// getSealed reads the sealed value of a key; nil: there is none.
func getSealed(txn *badger.Txn, key []byte) ([]byte, error) {
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	sealed, err := item.ValueCopy(nil)
	if err != nil {
		return nil, err
	}
	return unseal(sealed)
}
