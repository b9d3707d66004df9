package imgoclient

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
)

// Store remembers the ids of handled messages across restarts. It belongs to one Client at a time, which
// does not call its methods concurrently.
type Store interface {
	// Load returns the ids of Add, oldest first. It may leave out ids that are older than the newest
	// Config.Remember.
	Load(ctx context.Context) ([]uint64, error)
	// Add adds ids. They are durable when it returns nil.
	Add(ctx context.Context, ids []uint64) error
}

// FileStore is a Store in a file with one id on each line. Add synchronises the file with the disk. A file
// with more than twice the ids to remember is written anew. No file is open between the calls. Two clients,
// also of two processes, must not use the same file at the same time.
type FileStore struct {
	remember int

	mu   sync.Mutex
	file lineFile
	ids  []uint64 // of the file, oldest first
}

// NewFileStore returns a FileStore that remembers the newest ids, at least remember of them. 0 means 8192,
// which is the default of Config.Remember too. The folder of the file must exist.
func NewFileStore(path string, remember int) *FileStore {
	if remember <= 0 {
		remember = defaultRemember
	}
	return &FileStore{remember: remember, file: lineFile{path: path}}
}

// Load reads the file. A missing file has no ids. A last line that is incomplete after a crash is cut off.
func (s *FileStore) Load(context.Context) ([]uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.file.known = false
	if err := s.readLocked(); err != nil {
		return nil, err
	}
	return slices.Clone(s.ids), nil
}

// readLocked reads the file, if that is necessary.
func (s *FileStore) readLocked() error {
	if s.file.known {
		return nil
	}
	s.ids = nil
	return s.file.read(func(line []byte) error {
		if len(line) == 0 {
			return nil
		}
		id, err := strconv.ParseUint(string(line), 10, 64)
		if err != nil {
			return errors.New("is not an id: remove the file, and messages may come twice once")
		}
		s.ids = append(s.ids, id)
		return nil
	})
}

// Add appends ids to the file.
func (s *FileStore) Add(_ context.Context, ids []uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.readLocked(); err != nil {
		return err
	}
	all := append(s.ids, ids...)
	full := len(all) > 2*s.remember
	if full {
		all = slices.Clone(all[len(all)-s.remember:])
		ids = all
	}
	var lines []byte
	for _, id := range ids {
		lines = append(strconv.AppendUint(lines, id, 10), '\n')
	}
	if err := s.file.write(lines, full); err != nil {
		return err
	}
	s.ids = all
	return nil
}
