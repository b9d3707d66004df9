package store

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

// The layout of Badger's write-ahead logs (one a memtable) and value logs: a
// header, then entries, then zeros up to the size that the file was made with.
// An entry is meta, user meta, three varints (length of the key, of the value,
// expiry), key, value and a CRC32C over all of them. A transaction is entries
// that have walTxn and a marker that has walTxnEnd, whose value is the
// transaction's version in decimal.
const (
	walHeader    = 20
	walKeyID     = 8 // bytes at its beginning: which key encrypts the file; 0: none
	walTxn       = 1 << 6
	walTxnEnd    = 1 << 7
	walMaxKey    = 1 << 16
	walMarkerKey = "!badger!txn"
	walMarkerPre = 5   // bytes of a marker before its key
	walSector    = 512 // what a disk writes at once
)

// walEntry is one decoded entry; its slices share the file's memory.
type walEntry struct {
	meta       byte
	key, value []byte
	size       int // of the whole entry, in bytes
}

// readWALEntry decodes the entry at the beginning of b. fits says that the
// lengths make sense, ok that the checksum is right too.
func readWALEntry(b []byte) (e walEntry, fits, ok bool) {
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
	klen, vlen := field[0], field[1]
	if klen > walMaxKey || vlen > uint64(len(b)) {
		return e, false, false
	}
	end := uint64(at) + klen + vlen
	if end+crc32.Size > uint64(len(b)) {
		return e, false, false
	}
	e.meta = b[0]
	e.key, e.value = b[at:uint64(at)+klen], b[uint64(at)+klen:end]
	e.size = int(end) + crc32.Size
	sum := binary.BigEndian.Uint32(b[end:])
	return e, true, crc32.Checksum(b[:end], castagnoli) == sum
}

// version is the version in the last 8 bytes of a key, which Badger stores
// inverted.
func (e walEntry) version() uint64 {
	if len(e.key) < 8 {
		return 0
	}
	return ^binary.BigEndian.Uint64(e.key[len(e.key)-8:])
}

// checkWAL says whether Badger, which cuts such a file after the last
// transaction that it can read, would cut away one that was acknowledged.
//
// Transactions are synced one after another, so a crash leaves at most the
// last one unfinished, and that one nobody was told of. Whatever was finished
// after the first unreadable place, and an unreadable place that a crash
// cannot have made, is damage.
func checkWAL(path string, log zerolog.Logger) (err error) {
	defer recovered(&err)
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		log.Warn().Str("file", path).Msg("deleting a file of no bytes that a crash left")
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
	return walDamage(f.Data)
}

// walDamage is checkWAL over the file's bytes.
func walDamage(data []byte) error {
	if len(data) < walHeader {
		return fmt.Errorf("%w: the file has %d bytes, less than its header", ErrCorrupt, len(data))
	}
	if !allZero(data[:walKeyID]) {
		return fmt.Errorf("%w: the header names a key of encryption, and there are none", ErrCorrupt)
	}
	kept, bad, version := walEnd(data)
	damaged := fmt.Errorf("%w: the entry at byte %d is unreadable, and what was written after it is not", ErrCorrupt, bad)

	// A write that a crash cut short lacks its end, and that is the checksum.
	e, fits, _ := readWALEntry(data[bad:])
	if fits && len(e.key) > 0 && !allZero(data[bad+e.size-crc32.Size:bad+e.size]) && !hasHole(data, bad, bad+e.size) {
		return damaged
	}

	// A whole marker after the bad place: of the transaction that the bad
	// entry is in, or of a later one.
	markers, first, firstVersion := 0, 0, uint64(0)
	for at := bad; ; {
		i := bytes.Index(data[at:], []byte(walMarkerKey))
		if i < 0 {
			break
		}
		start := at + i - walMarkerPre
		at += i + len(walMarkerKey)
		if start < kept {
			continue
		}
		e, _, ok := readWALEntry(data[start:])
		switch {
		case ok && e.meta&walTxnEnd != 0:
			if markers++; markers == 1 {
				first, firstVersion = start, e.version()
			}
		case !ok && markerWritten(data[start:]):
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

// walEnd finds, as Badger does, how far a file can be read: kept is the end of
// the last whole transaction, bad the first entry that cannot be read and
// version that of the transaction that it is in (0: not known).
func walEnd(data []byte) (kept, bad int, version uint64) {
	kept = walHeader
	for at := walHeader; ; {
		e, _, ok := readWALEntry(data[at:])
		if !ok || len(e.key) == 0 {
			return kept, at, version
		}
		switch {
		case e.meta&walTxn != 0:
			if version == 0 {
				version = e.version()
			}
			if version != e.version() {
				return kept, at, version
			}
		case e.meta&walTxnEnd != 0:
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

// markerWritten says whether b begins with a marker that was written to its
// end: if it was, its wrong checksum is damage. A message's body may hold the
// same text by chance, so most of the bytes before it must be right as well.
func markerWritten(b []byte) bool {
	const version = 8 // bytes at the end of the key
	like := 0
	for i, c := range [...]byte{walTxnEnd, 0, byte(len(walMarkerKey) + version)} {
		if len(b) > i && b[i] == c {
			like++
		}
	}
	at := walMarkerPre + len(walMarkerKey) + version
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

// hasHole says whether a sector between from and to was never written: a power
// loss may keep a later sector and lose an earlier one of the same, never
// acknowledged, transaction.
func hasHole(data []byte, from, to int) bool {
	for at := from; at < to; {
		next := min(to, (at/walSector+1)*walSector)
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
