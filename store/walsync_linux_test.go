package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"imgo/store"
)

// dirty is how many pages of Badger's write-ahead logs the disk does not have
// yet.
func dirty(t *testing.T, dir string) (pages uint64, bytes int) {
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
		// cachestat(2): a range (0, 0: all of the file), and what is in the cache.
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
		bytes += int(stat[0]) * os.Getpagesize()
	}
	return pages, bytes
}

// What was appended is on the disk, not only in the kernel's memory, also when
// Badger goes on in another write-ahead log.
func TestAppendedIsOnTheDisk(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, openDB(t, store.Options{Dir: dir}), store.LogOptions{Partitions: 1})
	run(t, l)
	ctx := t.Context()
	value := make([]byte, 100<<10)
	seen := map[string]bool{}
	for i := range 600 { // 60 MB: several logs of 16 MiB
		if _, err := l.Append(ctx, 0, value); err != nil {
			t.Fatal(err)
		}
		if pages, _ := dirty(t, dir); pages != 0 {
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

// The test above can fail: without a sync there are such pages.
func TestDirtyPagesAreSeen(t *testing.T) {
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
	if pages, _ := dirty(t, filepath.Dir(name)); pages != 0 {
		t.Skip("this file system does not let go of pages")
	}
	copy(mapped, "changed through a mapping")
	if pages, _ := dirty(t, filepath.Dir(name)); pages == 0 {
		t.Error("a page that was changed through a mapping does not count")
	}
	if err := unix.Fdatasync(int(f.Fd())); err != nil {
		t.Fatal(err)
	}
	if pages, _ := dirty(t, filepath.Dir(name)); pages != 0 {
		t.Errorf("%d pages count after fdatasync", pages)
	}
}
