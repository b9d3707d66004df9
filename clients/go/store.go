package imgoclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
	path     string
	remember int

	mu    sync.Mutex
	known bool     // ids and size are those of the file
	ids   []uint64 // oldest first
	size  int64    // bytes
}

// NewFileStore returns a FileStore that remembers the newest ids, at least remember of them. 0 means 8192,
// which is the default of Config.Remember too. The folder of the file must exist.
func NewFileStore(path string, remember int) *FileStore {
	if remember <= 0 {
		remember = defaultRemember
	}
	return &FileStore{path: path, remember: remember}
}

// Load reads the file. A missing file has no ids. A last line that is incomplete after a crash is cut off.
func (s *FileStore) Load(context.Context) ([]uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = false
	if err := s.readLocked(); err != nil {
		return nil, err
	}
	return slices.Clone(s.ids), nil
}

// readLocked reads the file, if that is necessary, and cuts an incomplete last line off.
func (s *FileStore) readLocked() error {
	if s.known {
		return nil
	}
	data, err := os.ReadFile(s.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	whole := bytes.LastIndexByte(data, '\n') + 1
	var ids []uint64
	for number, line := range bytes.Split(data[:whole], []byte{'\n'}) {
		if len(line) == 0 {
			continue
		}
		id, err := strconv.ParseUint(string(line), 10, 64)
		if err != nil {
			return fmt.Errorf("%s:%d is not an id: remove the file, and messages may come twice once", s.path, number+1)
		}
		ids = append(ids, id)
	}
	if whole < len(data) {
		if err := os.Truncate(s.path, int64(whole)); err != nil {
			return fmt.Errorf("cut off an incomplete line: %w", err)
		}
	}
	s.ids, s.size, s.known = ids, int64(whole), true
	return nil
}

// Add appends ids to the file.
func (s *FileStore) Add(_ context.Context, ids []uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.readLocked(); err != nil {
		return err
	}
	if len(s.ids)+len(ids) > 2*s.remember {
		return s.rewriteLocked(ids)
	}
	lines := appendLines(nil, ids)
	if err := s.appendLocked(lines); err != nil {
		s.known = false // the next call looks at what is there
		return err
	}
	s.ids, s.size = append(s.ids, ids...), s.size+int64(len(lines))
	return nil
}

func appendLines(dst []byte, ids []uint64) []byte {
	for _, id := range ids {
		dst = append(strconv.AppendUint(dst, id, 10), '\n')
	}
	return dst
}

// appendLocked appends lines and synchronises the file. After an error the file has the lines that it had
// before, or a part of the new ones that the next readLocked copes with.
func (s *FileStore) appendLocked(lines []byte) (err error) {
	file, err := os.OpenFile(s.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := file.Write(lines); err != nil {
		return errors.Join(err, file.Truncate(s.size))
	}
	if err := file.Sync(); err != nil {
		return err
	}
	if s.size > 0 {
		return nil
	}
	return syncDir(filepath.Dir(s.path)) // the file may be new
}

// rewriteLocked replaces the file by one with the newest ids.
func (s *FileStore) rewriteLocked(ids []uint64) error {
	kept := append(slices.Clone(s.ids), ids...)
	kept = kept[max(len(kept)-s.remember, 0):]
	lines := appendLines(nil, kept)
	next := s.path + ".new"
	if err := writeSynced(next, lines); err != nil {
		return err
	}
	if err := os.Rename(next, s.path); err != nil {
		return err
	}
	s.ids, s.size = kept, int64(len(lines))
	return syncDir(filepath.Dir(s.path))
}

func writeSynced(path string, data []byte) (err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := file.Write(data); err != nil {
		return err
	}
	return file.Sync()
}

// syncDir makes the names in a folder durable. Some systems cannot do that, and need not.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	err = dir.Sync()
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrInvalid) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}
