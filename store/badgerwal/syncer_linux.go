package badgerwal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/dgraph-io/ristretto/v2/z"
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
// A Syncer also writes the positions up to which the logs are durable into SyncedFile,
// and notices when the newest log was deleted by somebody else.
//
// A Syncer is safe for concurrent use.
type Syncer struct {
	dir string

	mu        sync.Mutex
	events    *os.File // inotify
	newest    *openLog // nil: none is known
	positions *positions
	buf       [4096]byte
}

// openLog is a log that Badger may still write to.
type openLog struct {
	file *os.File
	extent
	number uint32
	buf    []byte
}

// NewSyncer must be called before Badger opens the directory. It syncs the logs
// that a killed process left there: a later commit must not be durable without
// them. It returns nil without an error if the system has no inotify instance
// left for this process; Badger must sync its commits itself then.
func NewSyncer(dir string) (*Syncer, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, ForgetPositions(dir)
	}
	s := &Syncer{dir: dir, events: os.NewFile(uintptr(fd), "inotify")}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE); err != nil {
		_ = s.events.Close()
		return nil, ForgetPositions(dir)
	}
	if err := s.syncLeftovers(); err != nil {
		_ = s.events.Close()
		return nil, fmt.Errorf("sync the write-ahead logs in %s: %w", dir, err)
	}
	return s, nil
}

// syncLeftovers makes the logs that exist durable, and notes their positions.
func (s *Syncer) syncLeftovers() error {
	names, err := filepath.Glob(filepath.Join(s.dir, "*.mem"))
	if err != nil {
		return err
	}
	slices.Sort(names) // their numbers have leading zeros
	var logs []position
	for _, path := range names {
		log, err := openLogFile(s.dir, filepath.Base(path))
		if err != nil {
			return err
		}
		err = errors.Join(log.scan(), fdatasync(log.file), log.file.Close())
		if err != nil {
			return err
		}
		if log.end > 0 {
			logs = append(logs, log.position())
		}
	}
	if len(names) > 0 {
		if err := z.SyncDir(s.dir); err != nil {
			return err
		}
	}
	s.positions, err = openPositions(s.dir, logs)
	return err
}

// Sync returns when everything that was committed before the call is durable.
func (s *Syncer) Sync() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.syncLocked(); err != nil {
		return fmt.Errorf("sync the write-ahead log in %s: %w", s.dir, err)
	}
	return nil
}

func (s *Syncer) syncLocked() error {
	if err := s.followLocked(); err != nil {
		return err
	}
	if s.newest == nil {
		return errors.New("there is none")
	}
	logs := s.positions.logs
	// The entries that the scan finds were written before the sync, so the sync makes it durable.
	end := s.newest.end
	if err := errors.Join(s.newest.scan(), fdatasync(s.newest.file)); err != nil {
		return err
	}
	switch last := len(logs) - 1; {
	case s.newest.end == 0:
		return nil // nothing was committed to it
	case s.newest.end == end && last >= 0 && logs[last].number == s.newest.number:
		return nil
	case last >= 0 && logs[last].number == s.newest.number:
		logs[last] = s.newest.position()
	default:
		logs = append(logs, s.newest.position())
	}
	return s.positions.set(logs)
}

// followLocked makes the newest log that was created the newest, and returns an error if
// somebody else has deleted it: Badger deletes a log only when there is a newer one.
func (s *Syncer) followLocked() error {
	for deleted := false; ; {
		created, err := s.createdLocked()
		if err != nil {
			return err
		}
		for _, name := range created {
			if err := s.advanceLocked(name); err != nil {
				return err
			}
		}
		if s.newest == nil && len(created) > 0 {
			continue // it is in a table by now: the event of the next one has come since
		}
		if s.newest == nil {
			return nil
		}
		var stat unix.Stat_t
		if err := unix.Fstat(int(s.newest.file.Fd()), &stat); err != nil {
			return err
		}
		if stat.Nlink > 0 {
			return nil
		}
		if deleted {
			return fmt.Errorf("%s was deleted while imgo was using it", position{number: s.newest.number}.name())
		}
		// Badger may have deleted it after it created the next one, since the events were read.
		deleted = true
	}
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
	if s.newest != nil {
		if err := errors.Join(s.newest.scan(), fdatasync(s.newest.file)); err != nil {
			return err
		}
		logs := s.existingLocked()
		if n := len(logs); n > 0 && logs[n-1].number == s.newest.number {
			logs[n-1] = s.newest.position()
		}
		_ = s.newest.file.Close() // it was opened for reading only
		s.newest = nil
		if err := s.positions.set(logs); err != nil {
			return err
		}
	}
	log, err := openLogFile(s.dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it is in a table by now, and there is a newer one
	}
	if err != nil {
		return err
	}
	s.newest = log
	// Without its name in the directory the file would be lost with the power.
	return z.SyncDir(s.dir)
}

// existingLocked returns the positions of the logs that are not in a table yet.
func (s *Syncer) existingLocked() []position {
	return slices.DeleteFunc(slices.Clone(s.positions.logs), func(p position) bool {
		_, err := os.Stat(filepath.Join(s.dir, p.name()))
		return errors.Is(err, fs.ErrNotExist)
	})
}

// Flush makes the positions durable. It returns an error if the newest log was deleted.
// It is called from time to time: after a power cut, the logs are compared with what was
// known at the last call, or later. Flushing a nil Syncer does nothing.
func (s *Syncer) Flush() error {
	var deleted error
	err := s.write(func() error {
		if deleted = s.followLocked(); deleted != nil {
			return nil
		}
		if logs := s.existingLocked(); len(logs) < len(s.positions.logs) {
			if err := s.positions.set(logs); err != nil {
				return err
			}
		}
		return s.positions.flush()
	})
	return errors.Join(deleted, err)
}

// Forget makes the file of positions say that no log need be there, until the next Sync. It is
// called before tables are merged. A merge may drop the versions of deleted keys, which are the only
// proof that the changes of a removed log are in a table. Forget does nothing on a nil Syncer.
func (s *Syncer) Forget() error {
	return s.write(func() error { return errors.Join(s.positions.set(nil), s.positions.flush()) })
}

// Close releases the Syncer's files. clean says that Badger has written all logs to
// tables and closed them. Closing a nil Syncer does nothing.
func (s *Syncer) Close(clean bool) error {
	return s.write(func() (err error) {
		if s.newest != nil {
			_ = s.newest.file.Close()
			s.newest = nil
		}
		_ = s.events.Close()
		if clean {
			err = s.positions.set(nil)
		}
		return errors.Join(err, s.positions.flush(), s.positions.file.Close())
	})
}

// write calls fn, which writes positions, with the lock. A nil Syncer has none to write.
func (s *Syncer) write(fn func() error) error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := fn(); err != nil {
		return fmt.Errorf("write %s in %s: %w", SyncedFile, s.dir, err)
	}
	return nil
}

// scanBytes is how much of a log is read at a time: some pages, because most commits are small.
const scanBytes = 16 << 10

func openLogFile(dir, name string) (*openLog, error) {
	number, err := strconv.ParseUint(strings.TrimSuffix(name, ".mem"), 10, 32)
	if err != nil {
		return nil, fmt.Errorf("%s is no name of a write-ahead log", name)
	}
	file, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	return &openLog{file: file, number: uint32(number)}, nil
}

func (l *openLog) position() position {
	return position{l.number, l.id, uint32(l.end), l.live}
}

// scan reads the transactions that were written since the last scan. Badger may write
// meanwhile: a transaction that is not complete yet has a wrong checksum. A log without its
// header has no transactions: Badger has just created it, or has cut it to no bytes, which
// it does before it deletes a log that is in a table. Its end stays 0.
func (l *openLog) scan() error {
	if l.end == 0 {
		var header [logHeader]byte
		_, err := l.file.ReadAt(header[:], 0)
		if errors.Is(err, io.EOF) || allZero(header[:]) && err == nil {
			return nil
		}
		if err != nil {
			return err
		}
		l.id, l.end = [logIDBytes]byte(header[headerKeyID:]), logHeader
	}
	for size := scanBytes; ; {
		if len(l.buf) < size {
			l.buf = make([]byte, size)
		}
		n, err := l.file.ReadAt(l.buf[:size], int64(l.end))
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		read, cut := l.extend(l.buf[:n])
		l.end += read
		if !cut || n < size {
			if size > scanBytes {
				l.buf = nil
			}
			return nil
		}
		if read == 0 {
			size *= 2 // the transaction is larger than the buffer
		}
	}
}

func fdatasync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
