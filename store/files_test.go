package store_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imgo/store"
)

// TestFilesDeletedWhileRunning deletes files of an open directory. Run must end with an error
// that names them, and appends must fail, without a restart. The records of a deleted
// write-ahead log are in memory, so Close still saves them.
func TestFilesDeletedWhileRunning(t *testing.T) {
	for name, test := range map[string]struct {
		file  string // a pattern; empty: the directory itself
		whole bool   // nothing is lost after Close
	}{
		"write-ahead log": {"*.mem", true},
		"table":           {"*.sst", false},
		"MANIFEST":        {"MANIFEST", false},
		"format":          {"FORMAT", true},
		"directory":       {"", true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			n := 0
			open := func() (db *store.DB, l *store.Log) {
				db = openDB(t, store.Options{Dir: dir, Faults: store.Faults{DiskInterval: 5 * time.Millisecond}})
				l = openLog(t, db, store.LogOptions{Partitions: 1})
				run(t, l)
				for range 20 {
					if _, err := l.Append(t.Context(), 0, numberedValue(n)); err != nil {
						t.Fatal(err)
					}
					n++
				}
				return db, l
			}
			db, l := open()
			if err := errors.Join(l.Close(), db.Close()); err != nil { // writes a table
				t.Fatal(err)
			}
			db, l = open()
			done := make(chan error, 1)
			go func() { done <- db.Run(context.Background()) }()

			moved := filepath.Join(t.TempDir(), "moved")
			want := "moved or replaced"
			if test.file == "" {
				if err := os.Rename(dir, moved); err != nil {
					t.Fatal(err)
				}
			} else {
				names, err := filepath.Glob(filepath.Join(dir, test.file))
				if err != nil || len(names) == 0 {
					t.Fatalf("no %s: %v", test.file, err)
				}
				want = filepath.Base(names[len(names)-1])
				if err := os.Remove(names[len(names)-1]); err != nil {
					t.Fatal(err)
				}
			}
			select {
			case err := <-done:
				if !errors.Is(err, store.ErrBroken) || !strings.Contains(err.Error(), want) {
					t.Errorf("Run: %v; want it to say %q", err, want)
				}
			case <-time.After(time.Minute):
				t.Fatal("Run did not notice")
			}
			if _, err := l.Append(t.Context(), 0, []byte("x")); !errors.Is(err, store.ErrBroken) {
				t.Errorf("Append: %v", err)
			}
			if test.file == "" {
				if err := os.Rename(moved, dir); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(l.Close(), db.Close()); err != nil {
				t.Logf("Close: %v", err)
			}
			if err := lostEntries(t, dir, n); test.whole && err != nil {
				t.Errorf("opened again: %v", err)
			} else if !test.whole && !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("opened again: %v; want a refusal", err)
			}
		})
	}
}

// TestAppendNoticesADeletedLog shows that an append is not answered once its write-ahead
// log was deleted, also before Run looks.
func TestAppendNoticesADeletedLog(t *testing.T) {
	dir := t.TempDir()
	db := openDB(t, store.Options{Dir: dir})
	l := openLog(t, db, store.LogOptions{Partitions: 1})
	run(t, l)
	if _, err := l.Append(t.Context(), 0, []byte("x")); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err != nil || len(names) != 1 {
		t.Fatalf("write-ahead logs: %v, %v", names, err)
	}
	if err := os.Remove(names[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), 0, []byte("x")); !errors.Is(err, store.ErrBroken) || !strings.Contains(err.Error(), "deleted") {
		t.Errorf("Append: %v", err)
	}
}
