package imgoclient

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// lineFile is a file of lines. No file is open between the calls. The lock of its user guards it.
type lineFile struct {
	path  string
	size  int64 // bytes
	known bool  // what the user has read, and size, are those of the file
}

// read gives the lines of the file to each, one by one, and cuts an incomplete last line off. A missing file has no lines.
func (f *lineFile) read(each func(line []byte) error) error {
	data, err := os.ReadFile(f.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	whole := bytes.LastIndexByte(data, '\n') + 1
	number := 0
	for line := range bytes.Lines(data[:whole]) {
		number++
		if err := each(bytes.TrimSuffix(line, []byte{'\n'})); err != nil {
			return fmt.Errorf("%s:%d %w", f.path, number, err)
		}
	}
	if whole < len(data) {
		if err := os.Truncate(f.path, int64(whole)); err != nil {
			return fmt.Errorf("cut off an incomplete line: %w", err)
		}
	}
	f.size, f.known = int64(whole), true
	return nil
}

// write appends lines, or replaces the file by them, and makes that durable. After an error the file is not known: the
// user must read it again.
func (f *lineFile) write(lines []byte, replace bool) error {
	f.known = false
	put, size := f.append, f.size
	if replace {
		put, size = f.replace, 0
	}
	if err := put(lines); err != nil {
		return err
	}
	f.size, f.known = size+int64(len(lines)), true
	return nil
}

// append appends lines and synchronises the file. After an error the file has what it had before, or a part of the
// lines, or the lines.
func (f *lineFile) append(lines []byte) (err error) {
	file, err := os.OpenFile(f.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := writeSynced(file, lines); err != nil {
		return errors.Join(err, file.Truncate(f.size))
	}
	if f.size > 0 {
		return nil
	}
	return syncDir(filepath.Dir(f.path)) // the file may be new
}

// replace replaces the file by one with the lines.
func (f *lineFile) replace(lines []byte) error {
	next, err := os.OpenFile(f.path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(writeSynced(next, lines), next.Close()); err != nil {
		return err
	}
	if err := os.Rename(next.Name(), f.path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(f.path))
}

func writeSynced(file *os.File, data []byte) error {
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
