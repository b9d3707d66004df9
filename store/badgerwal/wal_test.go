package badgerwal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
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
	marker := []byte("!badger!txn")
	for at := 0; ; {
		i := bytes.Index(data[at:], marker)
		if i < 0 {
			break
		}
		// The marker's key ends in a version, its value is the version in decimal, and a checksum follows.
		at += i + len(marker) + 8 + len(strconv.Itoa(len(ends)+1)) + 4
		ends = append(ends, at)
	}
	if len(ends) != 8 {
		t.Fatalf("%d transactions end at %v", len(ends), ends)
	}
	return data[:ends[7]], ends
}

func withZeros(data []byte) []byte { return append(bytes.Clone(data), make([]byte, 8<<10)...) }

// TestReadLog cuts a log at every byte of its last two transactions and leaves out sectors
// of them, as a crash would. What is before the damage must be read, and nothing else.
func TestReadLog(t *testing.T) {
	data, ends := writeLog(t)
	whole, err := scanLog(withZeros(data))
	if err != nil || whole.end != len(data) || whole.torn != 0 || whole.last-whole.first != 7 || whole.live != whole.last {
		t.Fatalf("a whole log of %d bytes: %+v, %v", len(data), whole, err)
	}
	check := func(what string, damaged []byte, at int) {
		t.Helper()
		want := logHeader
		for _, end := range ends {
			if end <= at {
				want = end
			}
		}
		x, err := scanLog(damaged)
		if err != nil || x.end != want || x.torn == 0 && at-want > 4 {
			t.Fatalf("%s %d of %d: %+v, %v; want the end %d", what, at, len(data), x, err, want)
		}
	}
	start := ends[len(ends)-3]
	for cut := start; cut < len(data); cut++ {
		check("cut at byte", withZeros(data[:cut]), cut)
	}
	for at := (start/512 + 1) * 512; at+512 < len(data); at += 512 {
		holed := withZeros(data)
		clear(holed[at : at+512])
		check("without the sector at byte", holed, at)
	}
	for at := logHeader; at < len(data); at++ {
		flipped := withZeros(data)
		flipped[at] ^= 1 << (at % 8)
		check("with a flipped bit at byte", flipped, at)
	}
	for _, n := range []int{1, 19} {
		if _, err := scanLog(data[:n]); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}

// TestPositions writes the positions of more logs than fit, and damages the file.
func TestPositions(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := readPositions(dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("without a file: %v", err)
	}
	p, err := openPositions(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.file.Close() })
	var logs []position
	for i := range uint32(maxPositions + 3) {
		logs = append(logs, position{number: i, id: [logIDBytes]byte{1, byte(i)}, end: 1<<31 + i, live: 1<<63 + uint64(i)})
		if err := p.set(logs); err != nil {
			t.Fatal(err)
		}
	}
	_, got, err := readPositions(dir)
	if err != nil || !slices.Equal(got, logs[3:]) {
		t.Fatalf("read %d positions, %v; want the newest %d", len(got), err, maxPositions)
	}
	path := filepath.Join(dir, SyncedFile)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damage := func(slots ...int) error {
		b := bytes.Clone(whole)
		for _, slot := range slots {
			b[slot*slotStride+30] ^= 1
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, got, err = readPositions(dir)
		return err
	}
	newest := int(p.seq % 2)
	if err := damage(1 - newest); err != nil || !slices.Equal(got, logs[3:]) {
		t.Errorf("with the older slot damaged: %d positions, %v", len(got), err)
	}
	if err := damage(newest); err != nil || !slices.Equal(got, logs[2:len(logs)-1]) {
		t.Errorf("with the newer slot damaged: %d positions, %v", len(got), err)
	}
	if err := damage(0, 1); !errors.Is(err, ErrCorrupt) {
		t.Errorf("with both slots damaged: %v", err)
	}
}
