package badgerwal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"strconv"

	"github.com/dgraph-io/ristretto/v2/z"
	"github.com/rs/zerolog"
)

// The layout of Badger's write-ahead logs (one for each memtable) and value logs:
// a header, then entries, then zeros up to the size that the file was made with.
//
// An entry is meta, user meta, three varints (length of the key, length of the
// value, expiry), key, value, and a CRC32C over all of them. A transaction is a
// run of entries with the bit metaTxn and then a marker: an entry with the bit
// metaTxnEnd, whose value is the version of the transaction in decimal.
const (
	logHeader       = 20
	headerKeyID     = 8 // first bytes of the header: the id of the encryption key; 0: no encryption
	metaTxn         = 1 << 6
	metaTxnEnd      = 1 << 7
	maxKey          = 1 << 16
	markerKey       = "!badger!txn"
	markerKeyOffset = 5   // bytes of a marker before its key
	keyVersion      = 8   // bytes of the version at the end of a key
	sector          = 512 // bytes that a disk writes at once
)

// entry is one decoded entry. Its slices share the file's memory.
type entry struct {
	meta       byte
	key, value []byte
	size       int // of the whole entry, in bytes
}

// decodeEntry decodes the entry at the beginning of b. fits reports whether the
// lengths make sense, intact whether the checksum is right as well.
func decodeEntry(b []byte) (e entry, fits, intact bool) {
	if len(b) < 2 {
		return e, false, false
	}
	at := 2
	var field [3]uint64
	for i := range field {
		v, n := binary.Uvarint(b[at:])
		if n <= 0 {
			return e, false, false
		}
		field[i], at = v, at+n
	}
	keyLen, valueLen := field[0], field[1]
	if keyLen > maxKey || valueLen > uint64(len(b)) {
		return e, false, false
	}
	end := uint64(at) + keyLen + valueLen
	if end+crc32.Size > uint64(len(b)) {
		return e, false, false
	}
	e.meta = b[0]
	e.key, e.value = b[at:uint64(at)+keyLen], b[uint64(at)+keyLen:end]
	e.size = int(end) + crc32.Size
	sum := binary.BigEndian.Uint32(b[end:])
	return e, true, crc32.Checksum(b[:end], castagnoli) == sum
}

// version returns the version at the end of the key, which Badger stores inverted.
func (e entry) version() uint64 {
	if len(e.key) < keyVersion {
		return 0
	}
	return ^binary.BigEndian.Uint64(e.key[len(e.key)-keyVersion:])
}

// checkLog reports damage in a write-ahead log or value log. It deletes a file of
// no bytes.
func checkLog(path string, log zerolog.Logger) (err error) {
	defer Recover(&err)
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		log.Warn().Str("file", path).Msg("deleting an empty file that a crash left behind")
		return os.Remove(path)
	}
	f, err := z.OpenMmapFile(path, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(-1); err == nil {
			err = cerr
		}
	}()
	return logDamage(f.Data)
}

// logDamage returns an error if Badger, which cuts such a file after the last
// transaction that it can read, would cut away a transaction that was acknowledged.
//
// Transactions are synced one after another, so a crash leaves at most the last
// one unfinished, and that one was not acknowledged. Two things are damage: a
// finished transaction after the first unreadable place, and an unreadable place
// that a crash cannot have made.
func logDamage(data []byte) error {
	if len(data) < logHeader {
		return fmt.Errorf("%w: the file has %d bytes, less than its header", ErrCorrupt, len(data))
	}
	if !allZero(data[:headerKeyID]) {
		return fmt.Errorf("%w: the header names a key of encryption, and there are none", ErrCorrupt)
	}
	kept, bad, version := readableEnd(data)
	damaged := fmt.Errorf("%w: the entry at byte %d is unreadable, and what was written after it is not", ErrCorrupt, bad)

	// A write that a crash cut short lacks its end, and the end is the checksum.
	e, fits, _ := decodeEntry(data[bad:])
	if fits && len(e.key) > 0 && !allZero(data[bad+e.size-crc32.Size:bad+e.size]) && !hasHole(data, bad, bad+e.size) {
		return damaged
	}

	// A whole marker after the unreadable place belongs to the transaction that
	// the unreadable entry is in, or to a later one.
	markers, first, firstVersion := 0, 0, uint64(0)
	for at := bad; ; {
		i := bytes.Index(data[at:], []byte(markerKey))
		if i < 0 {
			break
		}
		start := at + i - markerKeyOffset
		at += i + len(markerKey)
		if start < kept {
			continue
		}
		e, _, intact := decodeEntry(data[start:])
		switch {
		case intact && e.meta&metaTxnEnd != 0:
			if markers++; markers == 1 {
				first, firstVersion = start, e.version()
			}
		case !intact && markerWritten(data[start:]):
			return damaged
		}
	}
	switch {
	case markers > 1, markers == 1 && version != 0 && firstVersion != version:
		return damaged
	case markers == 1 && !hasHole(data, kept, first):
		return damaged
	}
	return nil
}

// readableEnd finds how far a file can be read, as Badger does. kept is the end
// of the last whole transaction and bad the first entry that cannot be read.
// version is that of the unfinished transaction; 0: not known.
func readableEnd(data []byte) (kept, bad int, version uint64) {
	kept = logHeader
	for at := logHeader; ; {
		e, _, intact := decodeEntry(data[at:])
		if !intact || len(e.key) == 0 {
			return kept, at, version
		}
		switch {
		case e.meta&metaTxn != 0:
			if version == 0 {
				version = e.version()
			}
			if version != e.version() {
				return kept, at, version
			}
		case e.meta&metaTxnEnd != 0:
			if v, err := strconv.ParseUint(string(e.value), 10, 64); err != nil || v != version {
				return kept, at, version
			}
			version, kept = 0, at+e.size
		case version != 0:
			return kept, at, version
		default:
			kept = at + e.size
		}
		at += e.size
	}
}

// markerWritten reports whether b begins with a marker that was written to its
// end; a wrong checksum is damage then. A message may contain the marker's text by
// chance, so most of the bytes before it must be right as well.
func markerWritten(b []byte) bool {
	like := 0
	for i, c := range [...]byte{metaTxnEnd, 0, byte(len(markerKey) + keyVersion)} {
		if len(b) > i && b[i] == c {
			like++
		}
	}
	at := markerKeyOffset + len(markerKey) + keyVersion
	if like < 2 || len(b) < at {
		return false
	}
	b = b[at:]
	digits := 0
	for digits < len(b) && digits < 20 && b[digits] >= '0' && b[digits] <= '9' {
		digits++
	}
	b = b[digits:]
	return digits > 0 && len(b) >= crc32.Size && !allZero(b[:crc32.Size])
}

// hasHole reports whether a sector between from and to was never written. A power
// loss may keep a later sector and lose an earlier one of the same transaction,
// which was not acknowledged then.
func hasHole(data []byte, from, to int) bool {
	for at := from; at < to; {
		next := min(to, (at/sector+1)*sector)
		if allZero(data[at:next]) {
			return true
		}
		at = next
	}
	return false
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
