package badgerwal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/dgraph-io/badger/v4"
)

// openBadger opens a database of small files in which every value lies beside its
// key, as in the store.
func openBadger(t *testing.T, dir string) *badger.DB {
	t.Helper()
	db, err := badger.Open(badger.DefaultOptions(dir).WithLogger(nil).WithSyncWrites(false).
		WithMemTableSize(1 << 20).WithValueThreshold(64 << 10).WithValueLogFileSize(1 << 20).WithDetectConflicts(false))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// commit writes the values in one transaction.
func commit(t *testing.T, db *badger.DB, key byte, values ...[]byte) {
	t.Helper()
	err := db.Update(func(txn *badger.Txn) error {
		for i, value := range values {
			if err := txn.Set([]byte{'L', key, byte(i)}, value); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// writeLog returns a write-ahead log of several transactions, without the zeros
// after them, and the offsets at which the transactions end.
func writeLog(t *testing.T) (data []byte, ends []int) {
	t.Helper()
	dir := t.TempDir()
	db := openBadger(t, dir)
	for i := range 8 {
		// The last one spans several sectors.
		commit(t, db, byte(i), bytes.Repeat([]byte{'a' + byte(i)}, 100+i*300), []byte("second"))
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

// TestTornLogIsNoDamage cuts a log at every byte of its last transaction, as a
// crash would. Such a log must never be refused.
func TestTornLogIsNoDamage(t *testing.T) {
	data, ends := writeLog(t)
	if err := logDamage(withZeros(data)); err != nil {
		t.Fatalf("a whole log: %v", err)
	}
	last := ends[len(ends)-2]
	for start := last; start < len(data); {
		e, _, _ := decodeEntry(data[start:])
		end := start + e.size
		// The last bytes of an entry, its checksum, reach the file in one store.
		for cut := start; cut <= end-4; cut++ {
			if err := logDamage(withZeros(data[:cut])); err != nil {
				t.Fatalf("cut at byte %d of %d: %v", cut, len(data), err)
			}
		}
		start = end
	}
	// A power loss may lose any sector of it and keep the others.
	for at := (last/512 + 1) * 512; at+512 < len(data); at += 512 {
		holed := withZeros(data)
		clear(holed[at : at+512])
		if err := logDamage(holed); err != nil {
			t.Fatalf("without the sector at byte %d: %v", at, err)
		}
	}
}

// TestDamagedLogIsFound flips one bit in every byte from the first entry on.
func TestDamagedLogIsFound(t *testing.T) {
	data, _ := writeLog(t)
	whole := withZeros(data)
	missed := 0
	for at := 20; at < len(data); at++ {
		bit := byte(1) << (at % 8)
		whole[at] ^= bit
		if err := logDamage(whole); err == nil {
			missed++
			t.Logf("byte %d of %d, bit %02x was not found", at, len(data), bit)
		} else if !errors.Is(err, ErrCorrupt) {
			t.Fatalf("byte %d: %v", at, err)
		}
		whole[at] ^= bit
	}
	if missed > 0 {
		t.Fatalf("%d of %d flipped bits were not found", missed, len(data)-20)
	}
	for _, n := range []int{1, 19} {
		if err := logDamage(data[:n]); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}
