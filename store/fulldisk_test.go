package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/store"
)

// fullDiskDir is the environment variable that makes the test binary fill the disk under a
// directory while it has a store open.
const fullDiskDir = "IMGO_STORE_TEST_FULL_DISK_DIR"

// fillDisk appends some records, fills the disk completely, tries to append more, and closes the
// store. The store must neither end the process nor lose a record.
func fillDisk(dir string) error {
	db, err := store.Open(store.Options{Dir: filepath.Join(dir, "data"), Log: zerolog.Nop()})
	if err != nil {
		return err
	}
	l, err := store.OpenLog(db, store.LogOptions{Partitions: 1})
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- l.Run(context.Background()) }()
	ctx := context.Background()
	n := 0
	for ; n < 100; n++ {
		if _, err := l.Append(ctx, 0, numberedValue(n)); err != nil {
			return err
		}
	}
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		return err
	}
	for size := 1 << 20; size > 0; size /= 2 {
		for block := make([]byte, size); err == nil; {
			_, err = f.Write(block)
		}
		err = nil
	}
	for db.DiskOK() == nil { // the free space is asked for every 50 ms
	}
	if _, err := l.Append(ctx, 0, numberedValue(n)); !errors.Is(err, envelope.ErrDiskFull) {
		return fmt.Errorf("append on a full disk: %w", err)
	}
	return errors.Join(f.Close(), l.Close(), <-done, db.Close())
}

// TestFullDisk fills a small disk under an open store. It needs a user who may mount one.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("a disk cannot be mounted here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fullDiskDir+"="+dir)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("the process ended with %v:\n%s", err, out.String()[:min(out.Len(), 2000)])
	}
	data := filepath.Join(dir, "data")
	if err := openAgain(t, data); !errors.Is(err, envelope.ErrDiskFull) || !strings.Contains(err.Error(), "free") {
		t.Errorf("opened on a full disk: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
		t.Fatal(err)
	}
	db := openDB(t, store.Options{Dir: data})
	l := openLog(t, db, store.LogOptions{Partitions: 1})
	if entries := readAll(t, l, 0); len(entries) != 100 {
		t.Errorf("%d of 100 records are left", len(entries))
	}
	if err := errors.Join(l.Close(), db.Close()); err != nil { // before the disk goes
		t.Error(err)
	}
}
