package store_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"imgo/envelope"
	"imgo/store"
)

// writtenLog is a write-ahead log of several transactions, without the zeros
// behind them, and the places where transactions end.
func writtenLog(t *testing.T) (data []byte, ends []int) {
	t.Helper()
	dir := t.TempDir()
	db := openDB(t, store.Options{Dir: dir})
	l := openLog(t, db, store.LogOptions{Partitions: 1})
	run(t, l)
	for i := range 8 {
		// The last one spans several sectors.
		entries := []envelope.Entry{{Value: bytes.Repeat([]byte{'a' + byte(i)}, 100+i*300)}, {Value: []byte("second")}}
		if err := l.AppendMany(t.Context(), entries); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err != nil || len(files) != 1 {
		t.Fatalf("write-ahead logs: %v, %v", files, err)
	}
	data, err = os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	data = bytes.TrimRight(data, "\x00")
	marker := []byte("!badger!txn")
	for at := 0; ; {
		i := bytes.Index(data[at:], marker)
		if i < 0 {
			break
		}
		at += i + len(marker)
		end := at + 8
		for data[end] >= '0' && data[end] <= '9' {
			end++
		}
		ends = append(ends, end+4)
	}
	if len(ends) < 8 || ends[len(ends)-1] != len(data) {
		t.Fatalf("transactions end at %v of %d", ends, len(data))
	}
	return data, ends
}

func withZeros(data []byte) []byte { return append(bytes.Clone(data), make([]byte, 8<<10)...) }

// TestTornLogIsNoDamage cuts a log at every byte, as a crash in the middle of
// its last transaction would: that must never be refused.
func TestTornLogIsNoDamage(t *testing.T) {
	data, ends := writtenLog(t)
	if err := store.WALDamage(withZeros(data)); err != nil {
		t.Fatalf("a whole log: %v", err)
	}
	last := ends[len(ends)-2]
	for start := last; start < len(data); {
		end := start + store.WALEntrySize(data[start:])
		// An entry's last bytes, its checksum, reach the file in one store.
		for cut := start; cut <= end-4; cut++ {
			if err := store.WALDamage(withZeros(data[:cut])); err != nil {
				t.Fatalf("cut at byte %d of %d: %v", cut, len(data), err)
			}
		}
		start = end
	}
	// A power loss may lose any sector of it and keep the others.
	for at := (last/512 + 1) * 512; at+512 < len(data); at += 512 {
		holed := withZeros(data)
		clear(holed[at : at+512])
		if err := store.WALDamage(holed); err != nil {
			t.Fatalf("without the sector at byte %d: %v", at, err)
		}
	}
}

// TestDamagedLogIsFound flips every bit from the first entry on.
func TestDamagedLogIsFound(t *testing.T) {
	data, _ := writtenLog(t)
	whole := withZeros(data)
	missed := 0
	for at := 20; at < len(data); at++ {
		bit := byte(1) << (at % 8)
		whole[at] ^= bit
		if err := store.WALDamage(whole); err == nil {
			missed++
			t.Logf("byte %d of %d, bit %02x was not found", at, len(data), bit)
		} else if !errors.Is(err, store.ErrCorrupt) {
			t.Fatalf("byte %d: %v", at, err)
		}
		whole[at] ^= bit
	}
	if missed > 0 {
		t.Fatalf("%d of %d flipped bits were not found", missed, len(data)-20)
	}
	for _, n := range []int{1, 19} {
		if err := store.WALDamage(data[:n]); !errors.Is(err, store.ErrCorrupt) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}
