package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"imgo/store"
)

// TestSpaceComesBack appends records, lets their retention end, and closes the store. When it is
// opened again and nobody writes, the tables must lose what was deleted.
func TestSpaceComesBack(t *testing.T) {
	dir := t.TempDir()
	tableBytes := func() (n int64) {
		names, err := filepath.Glob(filepath.Join(dir, "*.sst"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if info, err := os.Stat(name); err == nil {
				n += info.Size()
			}
		}
		return n
	}
	now := time.Now()
	faults := store.Faults{MemTableBytes: 1 << 20}
	db := openDB(t, store.Options{Dir: dir, Faults: faults})
	l := openLog(t, db, store.LogOptions{Partitions: 1, Retention: time.Hour, Now: func() time.Time { return now }})
	stop := run(t, l)
	value := make([]byte, 10<<10)
	for range 300 {
		if _, err := l.Append(t.Context(), 0, value); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(2 * time.Hour)
	if err := errors.Join(l.Trim(t.Context()), stop(), l.Close(), db.Close()); err != nil {
		t.Fatal(err)
	}
	before := tableBytes()
	if before < 2<<20 {
		t.Fatalf("the tables have %d bytes only", before)
	}
	faults.GCInterval = 20 * time.Millisecond
	db = openDB(t, store.Options{Dir: dir, Faults: faults})
	run(t, db)
	eventually(t, "the space of deleted records is free", func() bool { return tableBytes() < before/10 })
}
