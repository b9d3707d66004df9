package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// walSync makes what Badger has written to its write-ahead logs durable.
// Badger can do so itself (SyncWrites), but then syncs its value log, too,
// which is empty here, before each of them: two flushes of the disk for every
// commit. It maps its files, and fdatasync writes what was changed through a
// mapping as well.
//
// Each memtable has a log of its own, and Badger goes on in the next one, whose
// number is higher, when one is full: never back. So what a commit has written
// is in the newest log or in one before it, and a log that was synced after the
// next one was there is complete. Which is the newest inotify says: the kernel
// has queued the making of a file by the time that anything can be in it. A
// log that is gone is in a table, which Badger has synced.
//
// Safe for concurrent use.
type walSync struct {
	dir string

	mu     sync.Mutex
	events *os.File // inotify's
	file   *os.File // the newest log; nil: none is known
	buf    [4096]byte
}

// newWALSync must be called before Badger opens the directory. What a process
// that was killed has left there unsynced it syncs: what comes later must not
// be durable without it. nil without an error: the system has no inotify left
// for this process.
func newWALSync(dir string) (*walSync, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, nil
	}
	w := &walSync{dir: dir, events: os.NewFile(uintptr(fd), "inotify")}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE); err != nil {
		_ = w.events.Close()
		return nil, nil
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err == nil {
		slices.Sort(names) // which have leading zeros
		for _, name := range names {
			if err = w.advance(filepath.Base(name)); err != nil {
				break
			}
		}
	}
	if err == nil && w.file != nil {
		err = fdatasync(w.file)
	}
	if err != nil {
		w.close()
		return nil, fmt.Errorf("sync the write-ahead logs in %s: %w", dir, err)
	}
	return w, nil
}

// sync returns when everything that was committed before it was called is
// durable.
func (w *walSync) sync() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	made, err := w.made()
	for _, name := range made {
		if err == nil {
			err = w.advance(name)
		}
	}
	if err == nil && w.file == nil {
		err = errors.New("there is none")
	}
	if err == nil {
		err = fdatasync(w.file)
	}
	if err != nil {
		return fmt.Errorf("sync the write-ahead log in %s: %w", w.dir, err)
	}
	return nil
}

// made are the logs that were made since it was last asked, oldest first.
func (w *walSync) made() (names []string, err error) {
	for {
		// Not through os.File, which would wait for an event.
		n, err := unix.Read(int(w.events.Fd()), w.buf[:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return names, nil
		case err != nil:
			return nil, fmt.Errorf("read inotify's events: %w", err)
		}
		for b := w.buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			mask, length := binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint32(b[12:])
			name, _, _ := strings.Cut(string(b[unix.SizeofInotifyEvent:][:length]), "\x00")
			b = b[unix.SizeofInotifyEvent+int(length):]
			if mask&unix.IN_Q_OVERFLOW != 0 {
				return nil, errors.New("too many files were made at once")
			}
			if strings.HasSuffix(name, ".mem") {
				names = append(names, name)
			}
		}
	}
}

// advance completes the log that was the newest and goes on with the next.
func (w *walSync) advance(name string) error {
	if w.file != nil {
		if err := fdatasync(w.file); err != nil {
			return err
		}
		_ = w.file.Close() // it was only read
		w.file = nil
	}
	file, err := os.Open(filepath.Join(w.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it is in a table by now, and there is a newer one
	}
	if err != nil {
		return err
	}
	w.file = file
	// The name is as important as what is in the file.
	dir, err := os.Open(w.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

func (w *walSync) close() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file != nil {
		_ = w.file.Close()
		w.file = nil
	}
	_ = w.events.Close()
}

func fdatasync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
