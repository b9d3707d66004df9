package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/store"
)

func TestOpenMakesTheDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	db := openDB(t, store.Options{Dir: dir})
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("directory: %v, %v; want mode 0700", info, err)
	}
	if db.Dir() != dir {
		t.Fatalf("Dir = %q, want %q", db.Dir(), dir)
	}
	if err := errors.Join(db.Close(), db.Close()); err != nil {
		t.Fatalf("Close twice: %v", err)
	}
	if _, err := store.OpenLog(db, store.LogOptions{}); !errors.Is(err, envelope.ErrClosed) {
		t.Fatalf("OpenLog after Close: %v, want closed", err)
	}
	if err := db.Run(t.Context()); err != nil {
		t.Fatalf("Run after Close: %v", err)
	}
}

// TestOpenTightensTheDirectory opens directories that were made by others.
func TestOpenTightensTheDirectory(t *testing.T) {
	for was, want := range map[os.FileMode]os.FileMode{0o755: 0o750, 0o777: 0o770, 0o750: 0o750, 0o700: 0o700} {
		dir := t.TempDir()
		if err := os.Chmod(dir, was); err != nil {
			t.Fatal(err)
		}
		openDB(t, store.Options{Dir: dir})
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != want {
			t.Errorf("a directory of mode %o is %v, %v; want %o", was, info.Mode(), err, want)
		}
	}
}

func TestOpenRefusals(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	used := t.TempDir()
	openDB(t, store.Options{Dir: used})
	readOnly := t.TempDir()
	if err := os.Chmod(readOnly, 0o500); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, dir string
		want      []string
	}{
		{"no name", "", []string{"data_dir"}},
		{"a file", file, []string{file, "--data-dir"}},
		{"under a file", filepath.Join(file, "x"), []string{file, "--data-dir"}},
		{"in use", used, []string{used, "in use", fmt.Sprintf("process %d", os.Getpid()), "--data-dir"}},
		{"not writable", readOnly, []string{readOnly, "not writable", "chown"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.dir == readOnly && os.Geteuid() == 0 {
				t.Skip("root may write everywhere")
			}
			db, err := store.Open(store.Options{Dir: test.dir, Log: zerolog.Nop()})
			if err == nil {
				_ = db.Close()
				t.Fatal("no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v: want it to say %q", err, want)
				}
			}
		})
	}
	if free := openAgain(t, used); free == nil {
		t.Error("a directory in use was opened")
	}
}

func openAgain(t *testing.T, dir string) error {
	t.Helper()
	db, err := store.Open(store.Options{Dir: dir, Log: zerolog.Nop()})
	if err == nil {
		_ = db.Close()
	}
	return err
}

// disk is a disk with a number of free bytes that tests set.
type disk struct{ free atomic.Int64 }

func (d *disk) bytes(string) (int64, error) { return d.free.Load(), nil }

func TestNearlyFullDisk(t *testing.T) {
	const reserve = 1 << 30
	var d disk
	d.free.Store(reserve)
	reg := prometheus.NewRegistry()
	dir := t.TempDir()
	faults := store.Faults{FreeBytes: d.bytes, DiskInterval: time.Millisecond}
	db := openDB(t, store.Options{Dir: dir, Reserve: reserve, Metrics: reg, Faults: faults})
	l := openLog(t, db, store.LogOptions{Partitions: 4})
	run(t, l)
	run(t, db)
	ctx := t.Context()
	tokens := store.NewTokens(db)
	put := []store.TokenEntry{{Change: &envelope.TokenChange{User: "u"}}}

	push := func() error { _, err := l.Append(ctx, 0, []byte("push")); return err }
	ack := func() error { _, err := l.AppendEssential(ctx, 0, []byte("ack")); return err }
	check := func(free int64, pushes, acks bool) {
		t.Helper()
		d.free.Store(free)
		eventually(t, "the free bytes are seen", func() bool {
			return gauge(t, reg, "imgo_store_disk_free_bytes") == float64(free)
		})
		for _, test := range []struct {
			what string
			err  error
			ok   bool
		}{
			{"DiskOK", db.DiskOK(), pushes},
			{"Append", push(), pushes},
			{"AppendMany", l.AppendMany(ctx, make([]envelope.Entry, 1)), pushes},
			{"Tokens.Accepts", tokens.Accepts(), pushes},
			{"AppendEssential", ack(), acks},
			{"Tokens.Apply", tokens.Apply(ctx, put, 1), acks},
		} {
			if test.ok != (test.err == nil) {
				t.Errorf("%d bytes free: %s: %v", free, test.what, test.err)
			}
			if test.err == nil {
				continue
			}
			if !errors.Is(test.err, envelope.ErrDiskFull) {
				t.Errorf("%d bytes free: %s: %v, want disk full", free, test.what, test.err)
			}
			for _, want := range []string{dir, strconv.FormatInt(free, 10), strconv.Itoa(reserve)} {
				if !strings.Contains(test.err.Error(), want) {
					t.Errorf("%v: want it to say %q", test.err, want)
				}
			}
		}
		if entries, err := l.Read(ctx, 0, 0, 1); err != nil || len(entries) != 1 {
			t.Errorf("%d bytes free: Read: %v, %v", free, entries, err)
		}
	}
	check(reserve, true, true)
	check(reserve-1, false, true)
	check(reserve/4, false, true)
	check(reserve/4-1, false, false)
	check(0, false, false)
	check(2*reserve, true, true) // pushes are accepted again without a restart
}

func TestDiskIsAskedWithoutRun(t *testing.T) {
	var d disk
	d.free.Store(math.MaxInt64)
	db := openDB(t, store.Options{Dir: t.TempDir(), Reserve: 100 << 20, Faults: store.Faults{FreeBytes: d.bytes}})
	if err := db.DiskOK(); err != nil {
		t.Fatalf("DiskOK: %v", err)
	}
	d.free.Store(99 << 20)
	eventually(t, "the disk is full", func() bool { return errors.Is(db.DiskOK(), envelope.ErrDiskFull) })
}

func TestOpenOnAFullDisk(t *testing.T) {
	var d disk
	_, err := store.Open(store.Options{Dir: t.TempDir(), Faults: store.Faults{FreeBytes: d.bytes}, Log: zerolog.Nop()})
	if !errors.Is(err, envelope.ErrDiskFull) {
		t.Fatalf("Open on a full disk: %v", err)
	}
}

// TestNoReserve opens a store without a reserve. A write that the disk may have no room for is
// refused all the same: it would end the process.
func TestNoReserve(t *testing.T) {
	var d disk
	d.free.Store(store.MinFree)
	db := openDB(t, store.Options{Dir: t.TempDir(), Faults: store.Faults{FreeBytes: d.bytes}})
	if err := db.DiskOK(); err != nil {
		t.Fatalf("DiskOK without a reserve: %v", err)
	}
	d.free.Store(store.MinFree - 1)
	eventually(t, "the disk is full", func() bool { return errors.Is(db.DiskOK(), envelope.ErrDiskFull) })
	table, err := db.Table("t")
	if err != nil {
		t.Fatal(err)
	}
	_, putErr := table.Put(t.Context(), []byte("k"), nil)
	for what, err := range map[string]error{
		"WritesOK": db.WritesOK(), "Table.Put": putErr, "SetRecordsVersion": db.SetRecordsVersion(2),
	} {
		if !errors.Is(err, envelope.ErrDiskFull) || strings.Contains(err.Error(), "lower") {
			t.Errorf("%s: %v", what, err)
		}
	}
	d.free.Store(store.MinFree)
	eventually(t, "the disk has room", func() bool { return db.DiskOK() == nil })
}

func TestRunEndsWithContextOrClose(t *testing.T) {
	db := openDB(t, store.Options{Dir: t.TempDir(), Faults: store.Faults{GCInterval: time.Millisecond}})
	stop := run(t, db)
	time.Sleep(10 * time.Millisecond) // time for a few collections; nothing depends on it
	if err := stop(); err != nil {
		t.Fatalf("Run: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- db.Run(context.Background()) }()
	if err := db.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if err := <-done; err != nil {
		t.Fatalf("Run: %v", err)
	}
}

// filled makes a directory as a kill -9 leaves it, with entries in tables and in a
// write-ahead log. It returns the number of entries.
func filled(t *testing.T) (dir string, n int) {
	t.Helper()
	work := t.TempDir()
	for range 3 {
		db := openDB(t, store.Options{Dir: work})
		l := openLog(t, db, store.LogOptions{Partitions: 1})
		stop := run(t, l)
		for range 20 {
			if _, err := l.Append(t.Context(), 0, numberedValue(n)); err != nil {
				t.Fatal(err)
			}
			n++
		}
		dir = copyDir(t, work) // before Close writes the memtable to a table
		if err := errors.Join(stop(), l.Close(), db.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return dir, n
}

func numberedValue(i int) []byte { return fmt.Appendf(nil, "%d:%s", i, strings.Repeat("z", i)) }

// lostEntries opens a directory and reads everything. It returns nil if all n entries are
// there, and the error of a refusal. A log with fewer entries fails the test.
func lostEntries(t *testing.T, dir string, n int) error {
	t.Helper()
	db, err := store.Open(store.Options{Dir: dir, Log: zerolog.Nop()})
	if err != nil {
		return err
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}()
	l, err := store.OpenLog(db, store.LogOptions{Partitions: 1})
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	_, end, err := l.Bounds(t.Context(), 0)
	if err != nil {
		return err
	}
	for i := int64(0); i < end; {
		entries, err := l.Read(t.Context(), 0, i, 1<<20)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if !bytes.Equal(e.Value, numberedValue(int(i))) {
				t.Errorf("offset %d: wrong value %.20q", i, e.Value)
			}
			i++
		}
	}
	if int(end) != n {
		t.Errorf("%d of %d entries are left, and no error says so", end, n)
	}
	return nil
}

func TestKilledDirectoryIsWhole(t *testing.T) {
	dir, n := filled(t)
	for range 2 {
		if err := lostEntries(t, dir, n); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFlippedBytes flips bits all over every file. Each time either nothing is lost, or the
// directory is refused with an error that says what to do.
func TestFlippedBytes(t *testing.T) {
	golden, n := filled(t)
	files, err := os.ReadDir(golden)
	if err != nil {
		t.Fatal(err)
	}
	samples := 8
	if testing.Short() {
		samples = 3
	}
	kinds := map[string]int{}
	for _, f := range files {
		whole, err := os.ReadFile(filepath.Join(golden, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		used := len(bytes.TrimRight(whole, "\x00"))
		for i := range samples {
			at := i * used / samples
			if i == samples-1 {
				at = used - 1
			}
			if used == 0 || i > used {
				break
			}
			dir := copyDir(t, golden)
			broken := bytes.Clone(whole)
			broken[at] ^= 1 << (i % 8)
			if err := os.WriteFile(filepath.Join(dir, f.Name()), broken, 0o600); err != nil {
				t.Fatal(err)
			}
			err := lostEntries(t, dir, n)
			if err != nil && !strings.Contains(err.Error(), "back-up") {
				t.Errorf("%s byte %d of %d: %v: it does not say what to do", f.Name(), at, used, err)
			}
			if err != nil {
				kinds[filepath.Ext(f.Name())]++
			}
			if t.Failed() {
				t.Fatalf("with bit %d of byte %d of %d in %s flipped", i%8, at, used, f.Name())
			}
		}
	}
	for _, kind := range []string{".sst", ".mem", ""} { // "": MANIFEST and FORMAT
		if kinds[kind] == 0 {
			t.Errorf("no damage in %q files was found", kind)
		}
	}
}

// zero overwrites a file with zeros.
func zero(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, make([]byte, info.Size()), 0o600)
}

func TestMissingAndCutFiles(t *testing.T) {
	golden, n := filled(t)
	files, err := os.ReadDir(golden)
	if err != nil {
		t.Fatal(err)
	}
	refused := map[string]bool{"MANIFEST": true, ".sst": true, ".mem": true, "SYNCED": true}
	for _, f := range files {
		kind := f.Name()
		if ext := filepath.Ext(kind); ext != "" {
			kind = ext
		}
		for name, cut := range map[string]func(path string) error{
			"missing": os.Remove,
			"empty":   func(path string) error { return os.Truncate(path, 0) },
			"short":   func(path string) error { return os.Truncate(path, 7) },
			"zeroed":  zero,
		} {
			dir := copyDir(t, golden)
			if err := cut(filepath.Join(dir, f.Name())); err != nil {
				t.Fatal(err)
			}
			err := lostEntries(t, dir, n)
			if refused[kind] && (err == nil || !strings.Contains(err.Error(), "back-up") || !strings.Contains(err.Error(), f.Name())) {
				t.Errorf("%s %s: %v; want it refused by name", f.Name(), name, err)
			}
			if t.Failed() {
				t.Fatalf("with %s %s", f.Name(), name)
			}
		}
	}
}

func TestRefusalChangesNothing(t *testing.T) {
	dir, _ := filled(t)
	manifest := filepath.Join(dir, "MANIFEST")
	b, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(manifest); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := openAgain(t, dir); !errors.Is(err, store.ErrCorrupt) {
			t.Fatalf("Open without its MANIFEST: %v", err)
		}
	}
	if err := os.WriteFile(manifest, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := openAgain(t, dir); err != nil {
		t.Fatalf("Open with its MANIFEST again: %v", err)
	}
}

func TestEmptiedDatabaseIsRefused(t *testing.T) {
	dir := t.TempDir()
	db := openDB(t, store.Options{Dir: dir})
	if err := errors.Join(db.LoseFormat(), db.Close()); err != nil {
		t.Fatal(err)
	}
	if err := openAgain(t, dir); !errors.Is(err, store.ErrCorrupt) {
		t.Fatalf("Open: %v, want corrupt", err)
	}
}

func TestOtherFormatIsRefused(t *testing.T) {
	dir := t.TempDir()
	db := openDB(t, store.Options{Dir: dir})
	if err := errors.Join(db.MarkFormat1(), db.Close()); err != nil {
		t.Fatal(err)
	}
	if err := openAgain(t, dir); err == nil || !strings.Contains(err.Error(), "has format 01, this imgo reads 02") {
		t.Errorf("Open: %v", err)
	}
}

func TestUnfinishedDirectoryIsFinished(t *testing.T) {
	dir := t.TempDir()
	db := openDB(t, store.Options{Dir: dir})
	if err := errors.Join(db.Close(), os.Remove(filepath.Join(dir, "FORMAT"))); err != nil {
		t.Fatal(err)
	}
	for range 2 { // first as after a kill between the record and the file, then complete
		if err := openAgain(t, dir); err != nil {
			t.Fatalf("Open: %v", err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "FORMAT")); err != nil {
		t.Fatal(err)
	}
}

func TestFilesOfNoBytes(t *testing.T) {
	dir, n := filled(t)
	for _, name := range []string{"00099.mem", "000099.vlog"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := lostEntries(t, dir, n); err != nil {
		t.Fatalf("files that a crash left empty: %v", err)
	}
}
