package store_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"imgo/internal/wait/waittest"
	"imgo/store"
)

// childDir is the environment variable that makes the test binary append to the log in a
// directory until it is killed.
const childDir = "IMGO_STORE_TEST_CHILD_DIR"

// childFrom is the environment variable with the child's LogOptions.AppendFrom.
const childFrom = "IMGO_STORE_TEST_CHILD_FROM"

func TestMain(m *testing.M) {
	if dir := os.Getenv(fullDiskDir); dir != "" {
		if err := fillDisk(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if dir := os.Getenv(childDir); dir != "" {
		if err := appendForEver(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// appendForEver appends from many goroutines. It prints partition, offset and value of each
// acknowledged record.
func appendForEver(dir string) error {
	db, err := store.Open(store.Options{Dir: dir, Log: zerolog.Nop()})
	if err != nil {
		return err
	}
	from, err := strconv.ParseInt(os.Getenv(childFrom), 10, 64)
	if err != nil {
		return err
	}
	l, err := store.OpenLog(db, store.LogOptions{Partitions: 3, AppendFrom: from})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var group sync.WaitGroup
	var runErr error
	group.Go(func() { runErr = l.Run(ctx) })
	for g := range 16 {
		group.Go(func() {
			defer cancel()
			for i := 0; ; i++ {
				p := int32((g + i) % 3)
				value := fmt.Sprintf("%d.%d.%d-%0*d", os.Getpid(), g, i, i%300, 0)
				offset, err := l.Append(ctx, p, []byte(value))
				if err != nil {
					return
				}
				if _, err := fmt.Printf("%d %d %s\n", p, offset, value); err != nil {
					return // the parent has ended
				}
			}
		})
	}
	group.Wait()
	return runErr
}

// openDB opens a store that is closed when the test ends.
func openDB(t testing.TB, opt store.Options) *store.DB {
	t.Helper()
	opt.Log = zerolog.Nop()
	db, err := store.Open(opt)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return db
}

// openLog opens a log without running it.
func openLog(t testing.TB, db *store.DB, opt store.LogOptions) *store.Log {
	t.Helper()
	l, err := store.OpenLog(db, opt)
	if err != nil {
		t.Fatalf("OpenLog: %v", err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close the log: %v", err)
		}
	})
	return l
}

// runner is a DB or a log.
type runner interface {
	Run(ctx context.Context) error
}

// run runs r until the returned function is called, or the test ends.
func run(t testing.TB, r runner) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() { _ = stop() })
	return stop
}

var eventually = waittest.Eventually

// copyDir copies the files of a directory as they are now, as a kill -9 would leave them. To
// save time it cuts trailing zeros to one page.
func copyDir(t testing.TB, from string) (to string) {
	t.Helper()
	to = t.TempDir()
	files, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.Name() == "LOCK" {
			continue
		}
		b, err := os.ReadFile(filepath.Join(from, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		end := len(b)
		for end > 0 && b[end-1] == 0 {
			end--
		}
		if ext := filepath.Ext(f.Name()); ext == ".mem" || ext == ".vlog" {
			b = b[:min(len(b), max(end, 20)+4096)]
		}
		if err := os.WriteFile(filepath.Join(to, f.Name()), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return to
}
