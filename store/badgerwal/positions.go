package badgerwal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/dgraph-io/ristretto/v2/z"
)

// SyncedFile is the name of the file that says how far the write-ahead logs are durable.
//
// The file has two slots. Each one has a sequence number, the positions of the newest
// logs, and a checksum. A position is written into the slots in turn, after the log was
// synced up to it. So every position that can be read is true, also an old one, and the
// file needs no sync with each commit. A killed process leaves the exact positions. A
// power cut leaves those of the last Flush or newer ones.
const SyncedFile = "SYNCED"

// The layout of a slot: magic, sequence number, number of positions, positions, and a
// CRC32C at its end. All numbers are big-endian.
const (
	slotBytes     = sector
	slotStride    = 4096 // bytes between the slots: one torn page must not take both
	slotMagic     = "imgosync"
	slotHeader    = len(slotMagic) + 8 + 1
	positionBytes = 4 + logIDBytes + 4 + 8
	maxPositions  = (slotBytes - slotHeader - crc32.Size) / positionBytes
)

// logIDBytes is the length of the random bytes in the header of a log. No two logs have
// the same.
const logIDBytes = logHeader - headerKeyID

// position says how much of a log is durable.
type position struct {
	number uint32
	id     [logIDBytes]byte
	end    uint32 // bytes
	// live is the version of the last entry that neither is a deletion nor expires.
	// Once the log was written to a table, some table has this version or a later one.
	live uint64
}

func (p position) name() string { return fmt.Sprintf("%05d.mem", p.number) }

// positions is the open file.
type positions struct {
	file *os.File
	seq  uint64
	logs []position // oldest first
	// dirty is set when a slot was written since the last sync.
	dirty bool
}

// readPositions reads the file of a directory. The error is fs.ErrNotExist if there is
// none, and wraps ErrCorrupt if no slot is readable.
func readPositions(dir string) (seq uint64, logs []position, err error) {
	b, err := os.ReadFile(filepath.Join(dir, SyncedFile))
	if err != nil {
		return 0, nil, err
	}
	found := false
	for at := 0; at <= slotStride && at+slotBytes <= len(b); at += slotStride {
		s, l, ok := decodeSlot(b[at : at+slotBytes])
		if ok && (!found || s > seq) {
			seq, logs, found = s, l, true
		}
	}
	if !found {
		return 0, nil, fmt.Errorf("%w: it is unreadable, so it is not known how much was written", ErrCorrupt)
	}
	return seq, logs, nil
}

func decodeSlot(b []byte) (seq uint64, logs []position, ok bool) {
	at := slotBytes - crc32.Size
	if string(b[:len(slotMagic)]) != slotMagic || binary.BigEndian.Uint32(b[at:]) != crc32.Checksum(b[:at], castagnoli) {
		return 0, nil, false
	}
	b = b[len(slotMagic):]
	seq, n := binary.BigEndian.Uint64(b), int(b[8])
	if n > maxPositions {
		return 0, nil, false
	}
	for b = b[9:]; n > 0; n-- {
		p := position{number: binary.BigEndian.Uint32(b), id: [logIDBytes]byte(b[4:])}
		p.end, p.live = binary.BigEndian.Uint32(b[4+logIDBytes:]), binary.BigEndian.Uint64(b[8+logIDBytes:])
		logs, b = append(logs, p), b[positionBytes:]
	}
	return seq, logs, true
}

func encodeSlot(seq uint64, logs []position) []byte {
	b := append(make([]byte, 0, slotBytes), slotMagic...)
	b = append(binary.BigEndian.AppendUint64(b, seq), byte(len(logs)))
	for _, p := range logs {
		b = append(binary.BigEndian.AppendUint32(b, p.number), p.id[:]...)
		b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(b, p.end), p.live)
	}
	b = b[:slotBytes-crc32.Size]
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// openPositions opens the file of a directory, or makes it. The positions are those of
// logs, and durable when openPositions returns.
func openPositions(dir string, logs []position) (*positions, error) {
	seq, _, err := readPositions(dir)
	fresh := errors.Is(err, fs.ErrNotExist)
	if err != nil && !fresh && !errors.Is(err, ErrCorrupt) {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, SyncedFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	p := &positions{file: f, seq: seq}
	err = p.set(logs)
	if err == nil {
		err = p.flush()
	}
	if err == nil && fresh {
		err = z.SyncDir(dir)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return p, nil
}

// set writes positions into the next slot. They must be durable.
func (p *positions) set(logs []position) error {
	if extra := len(logs) - maxPositions; extra > 0 {
		logs = logs[extra:]
	}
	p.seq++
	p.logs = slices.Clone(logs)
	p.dirty = true
	_, err := p.file.WriteAt(encodeSlot(p.seq, p.logs), int64(p.seq%2)*slotStride)
	return err
}

// flush makes the slots durable.
func (p *positions) flush() error {
	if !p.dirty {
		return nil
	}
	p.dirty = false
	return p.file.Sync()
}

// ForgetPositions makes the file of a directory say that nothing need be there, for a
// database whose logs are empty, or whose commits no Syncer makes durable.
func ForgetPositions(dir string) error {
	p, err := openPositions(dir, nil)
	if err != nil {
		return inFile(SyncedFile, err)
	}
	return p.file.Close()
}
