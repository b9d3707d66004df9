package badgerwal

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

// Syncer makes durable what Badger has written to its write-ahead logs. Badger
// can do so itself (Options.SyncWrites), but it then also syncs its value log,
// which is empty here: two flushes of the disk for every commit. Badger maps its
// files into memory, and fdatasync writes pages that were changed through a
// mapping as well.
//
// Each memtable has a log of its own. When it is full, Badger goes on in a new
// log with a higher number and never comes back. So a commit has written to the
// newest log or to the one before it, and a log that was synced after the next
// one was created is complete. A log that is gone is in a table, which Badger has
// synced. inotify says which log is the newest: the kernel queues the event of a
// file's creation before anything can be written to the file.
//
// A Syncer is safe for concurrent use.
type Syncer struct {
	dir string

	mu     sync.Mutex
	events *os.File // inotify
	file   *os.File // the newest log; nil: none is known
	buf    [4096]byte
}

// NewSyncer must be called before Badger opens the directory. It syncs the logs
// that a killed process left there: a later commit must not be durable without
// them. It returns nil without an error if the system has no inotify instance
// left for this process; Badger must sync its commits itself then.
func NewSyncer(dir string) (*Syncer, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, nil
	}
	s := &Syncer{dir: dir, events: os.NewFile(uintptr(fd), "inotify")}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE); err != nil {
		_ = s.events.Close()
		return nil, nil
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err == nil {
		slices.Sort(names) // their numbers have leading zeros
		for _, name := range names {
			if err = s.advanceLocked(filepath.Base(name)); err != nil {
				break
			}
		}
	}
	if err == nil && s.file != nil {
		err = fdatasync(s.file)
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("sync the write-ahead logs in %s: %w", dir, err)
	}
	return s, nil
}

// Sync returns when everything that was committed before the call is durable.
func (s *Syncer) Sync() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	created, err := s.createdLocked()
	for _, name := range created {
		if err == nil {
			err = s.advanceLocked(name)
		}
	}
	if err == nil && s.file == nil {
		err = errors.New("there is none")
	}
	if err == nil {
		err = fdatasync(s.file)
	}
	if err != nil {
		return fmt.Errorf("sync the write-ahead log in %s: %w", s.dir, err)
	}
	return nil
}

// createdLocked returns the names of the logs that were created since the last
// call, oldest first.
func (s *Syncer) createdLocked() (names []string, err error) {
	for {
		// Not through os.File, which would wait for an event.
		n, err := unix.Read(int(s.events.Fd()), s.buf[:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return names, nil
		case err != nil:
			return nil, fmt.Errorf("read the events of inotify: %w", err)
		}
		for b := s.buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			mask, length := binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint32(b[12:])
			name, _, _ := strings.Cut(string(b[unix.SizeofInotifyEvent:][:length]), "\x00")
			b = b[unix.SizeofInotifyEvent+int(length):]
			if mask&unix.IN_Q_OVERFLOW != 0 {
				return nil, errors.New("too many files were created at once")
			}
			if strings.HasSuffix(name, ".mem") {
				names = append(names, name)
			}
		}
	}
}

// advanceLocked syncs the log that was the newest and makes the named one the
// newest.
func (s *Syncer) advanceLocked(name string) error {
	if s.file != nil {
		if err := fdatasync(s.file); err != nil {
			return err
		}
		_ = s.file.Close() // it was opened for reading only
		s.file = nil
	}
	file, err := os.Open(filepath.Join(s.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it is in a table by now, and there is a newer one
	}
	if err != nil {
		return err
	}
	s.file = file
	// Without its name in the directory the file would be lost with the power.
	dir, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// Close releases the Syncer's files. Closing a nil Syncer does nothing.
func (s *Syncer) Close() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
	_ = s.events.Close()
}

func fdatasync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
