package badgerwal_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"imgo/store"
)

// dirtyPages returns how many pages of Badger's write-ahead logs are not on the
// disk yet.
func dirtyPages(t *testing.T, dir string) (pages uint64) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no write-ahead logs: %v", err)
	}
	for _, name := range names {
		f, err := os.Open(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		// cachestat(2) takes a range (0, 0: the whole file) and fills in counts.
		var all [2]uint64
		var stat [5]uint64 // cached, dirty, in writeback, evicted, recently evicted
		_, _, errno := unix.Syscall6(unix.SYS_CACHESTAT, f.Fd(), uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&stat)), 0, 0, 0)
		_ = f.Close()
		if errno == unix.ENOSYS || errno == unix.EOPNOTSUPP || errno == unix.EPERM {
			t.Skipf("this kernel has no cachestat: %v", errno)
		}
		if errno != 0 {
			t.Fatalf("cachestat: %v", errno)
		}
		pages += stat[1] + stat[2]
	}
	return pages
}

// openLog opens a data directory and runs its kept log until the test ends.
func openLog(t *testing.T, dir string) *store.Log {
	t.Helper()
	db, err := store.Open(store.Options{Dir: dir, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	l, err := store.OpenLog(db, store.LogOptions{Partitions: 1})
	if err != nil {
		t.Fatal(errors.Join(err, db.Close()))
	}
	done := make(chan error, 1)
	go func() { done <- l.Run(context.Background()) }()
	t.Cleanup(func() {
		if err := errors.Join(l.Close(), <-done, db.Close()); err != nil {
			t.Error(err)
		}
	})
	return l
}

// TestAppendedIsOnTheDisk shows that an appended record is on the disk, and not
// only in the kernel's memory, also after Badger has begun another log.
func TestAppendedIsOnTheDisk(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir)
	ctx := t.Context()
	value := make([]byte, 100<<10)
	seen := map[string]bool{}
	for i := range 600 { // 60 MB: several logs of 16 MiB
		if _, err := l.Append(ctx, 0, value); err != nil {
			t.Fatal(err)
		}
		if pages := dirtyPages(t, dir); pages != 0 {
			t.Fatalf("after append %d, %d pages are not on the disk", i, pages)
		}
		names, _ := filepath.Glob(filepath.Join(dir, "*.mem"))
		for _, name := range names {
			seen[name] = true
		}
	}
	if len(seen) < 3 {
		t.Fatalf("Badger went through %d write-ahead logs only", len(seen))
	}
}

// TestDirtyPagesAreCounted shows that the test above can fail: without a sync
// there are dirty pages.
func TestDirtyPagesAreCounted(t *testing.T) {
	name := filepath.Join(t.TempDir(), "00001.mem")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	mapped, err := unix.Mmap(int(f.Fd()), 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mapped)
	if pages := dirtyPages(t, filepath.Dir(name)); pages != 0 {
		t.Skip("pages of this file system are always dirty")
	}
	copy(mapped, "changed through a mapping")
	if pages := dirtyPages(t, filepath.Dir(name)); pages == 0 {
		t.Error("a page that was changed through a mapping does not count")
	}
	if err := unix.Fdatasync(int(f.Fd())); err != nil {
		t.Fatal(err)
	}
	if pages := dirtyPages(t, filepath.Dir(name)); pages != 0 {
		t.Errorf("%d pages count after fdatasync", pages)
	}
}
