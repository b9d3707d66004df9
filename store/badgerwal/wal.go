package badgerwal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"strconv"
)

// The layout of Badger's write-ahead logs (one for each memtable) and value logs:
// a header, then entries, then zeros up to the size that the file was made with.
//
// An entry is meta, user meta, three varints (length of the key, length of the
// value, expiry), key, value, and a CRC32C over all of them. A transaction is a
// run of entries with the bit metaTxn and then a marker: an entry with the bit
// metaTxnEnd, whose value is the version of the transaction in decimal.
const (
	logHeader   = 20
	headerKeyID = 8 // first bytes of the header: the id of the encryption key. 0 means no encryption
	metaDelete  = 1 << 0
	metaTxn     = 1 << 6
	metaTxnEnd  = 1 << 7
	maxKey      = 1 << 16
	maxHeader   = 22  // bytes of an entry before its key; Badger writes zeros behind the last entry
	keyVersion  = 8   // bytes of the version at the end of a key
	sector      = 512 // bytes that a disk writes at once
)

// entry is one decoded entry. Its slices share the file's memory.
type entry struct {
	meta       byte
	expires    uint64 // Unix seconds. 0 means never
	key, value []byte
	size       int // of the whole entry, in bytes
}

// live reports whether the entry stays until a later one replaces it.
func (e entry) live() bool { return e.meta&metaDelete == 0 && e.expires == 0 }

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
	e.meta, e.expires = b[0], field[2]
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

// extent is what a log has, as Badger will read it.
type extent struct {
	id [logIDBytes]byte
	// end is the end of the last whole transaction, in bytes.
	end int
	// first and last are the versions of the first and the last transaction. 0 means none.
	first, last uint64
	// live is the version of the last entry that neither is a deletion nor expires.
	live uint64
	// torn is how many bytes from end on may have been written.
	torn int
}

// readLog reads a log. A file of no bytes has an empty extent. The file is not mapped: where the
// disk is full, a page that was never written may have no room on some file systems.
func readLog(path string) (x extent, err error) {
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		return x, err
	}
	return scanLog(b)
}

// scanLog reads the bytes of a log.
func scanLog(data []byte) (x extent, err error) {
	if len(data) < logHeader {
		return x, fmt.Errorf("%w: the file has %d bytes, less than its header", ErrCorrupt, len(data))
	}
	if !allZero(data[:headerKeyID]) {
		return x, fmt.Errorf("%w: the header names a key of encryption, and there are none", ErrCorrupt)
	}
	x.id, x.end = [logIDBytes]byte(data[headerKeyID:]), logHeader
	n, _ := x.extend(data[x.end:])
	x.end += n
	x.torn = len(bytes.TrimRight(data[x.end:], "\x00"))
	return x, nil
}

// extend reads whole transactions from the beginning of b, as Badger does, and adds their
// versions. It returns how many bytes they have. It stops where a transaction is not
// complete, and never fails: a log ends with whatever was written last. cut reports
// whether it stopped because b ends within an entry or a transaction.
func (x *extent) extend(b []byte) (n int, cut bool) {
	var version, live uint64 // of the transaction that begins at n; version 0: none
	for at := 0; ; {
		e, fits, intact := decodeEntry(b[at:])
		if !intact || len(e.key) == 0 {
			return n, !fits && (at+maxHeader > len(b) || !allZero(b[at:at+maxHeader]))
		}
		at += e.size
		switch {
		case e.meta&metaTxn != 0:
			if version == 0 {
				version = e.version()
			}
			if version != e.version() {
				return n, false
			}
			if e.live() {
				live = version
			}
			continue
		case e.meta&metaTxnEnd != 0:
			if v, err := strconv.ParseUint(string(e.value), 10, 64); err != nil || v != version {
				return n, false
			}
		case version != 0:
			return n, false
		default: // an entry that Badger moved by itself
			version = e.version()
			if e.live() {
				live = version
			}
		}
		if x.first == 0 {
			x.first = version
		}
		x.last, x.live = max(x.last, version), max(x.live, live)
		version, live, n = 0, 0, at
	}
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
