package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/ristretto/v2/z"

	"imgo/store/badgerwal"
)

const (
	// restoreHint ends every error that refuses a damaged data directory.
	restoreHint = "; nothing was changed: restore the directory from a back-up, or move it away to start with an empty one"

	// formatFile is written last, so a directory that has it was made completely.
	// A database in such a directory that lacks its first record is damaged.
	formatFile = "FORMAT"
	formatText = "imgo data directory, format 1. Do not delete this file.\n"
)

var (
	keyFormat   = []byte{'P', 'f'}
	formatValue = []byte{2}
)

// checkDir checks the files in the data directory, under its lock and before
// Badger opens them. complete reports whether the directory was made completely,
// so that its database must have a format record.
func (db *DB) checkDir() (complete bool, err error) {
	fail := func(err error) error { return fmt.Errorf("data directory %s: %w%s", db.dir, err, restoreHint) }
	switch text, err := os.ReadFile(filepath.Join(db.dir, formatFile)); {
	case err == nil && string(text) != formatText:
		return false, fail(fmt.Errorf("%s: %w: it should say %q; a newer imgo may have made the directory",
			formatFile, ErrCorrupt, strings.TrimSpace(formatText)))
	case err == nil:
		complete = true
	case !errors.Is(err, os.ErrNotExist):
		return false, fail(fmt.Errorf("%s: %w", formatFile, err))
	}
	if err := badgerwal.Check(db.dir, complete, db.log); err != nil {
		return false, fail(err)
	}
	return complete, nil
}

// checkFormat reads the database's first record, or writes it into a new database.
func (db *DB) checkFormat(complete bool) error {
	format, empty, err := db.readFormat()
	switch {
	case err != nil:
		return fmt.Errorf("read the format of data directory %s: %w%s", db.dir, err, restoreHint)
	case format != nil && !bytes.Equal(format, formatValue):
		return fmt.Errorf("data directory %s has format %x, this imgo reads %x: run the imgo that made it, "+
			"or move the directory away to start with an empty one", db.dir, format, formatValue)
	case format == nil && complete:
		return fmt.Errorf("data directory %s: %w: the database has lost its first record%s", db.dir, ErrCorrupt, restoreHint)
	case format == nil && !empty:
		return fmt.Errorf("data directory %s holds a Badger database that is not imgo's: name another directory with --data-dir", db.dir)
	case format == nil:
		err := db.update(func(txn *badger.Txn) error { return txn.Set(keyFormat, appendChecksummed(nil, formatValue)) })
		if err != nil {
			return fmt.Errorf("write the format of data directory %s: %w", db.dir, err)
		}
	}
	if complete {
		return nil
	}
	// After the record: only a complete directory has the file.
	if err := writeSynced(filepath.Join(db.dir, formatFile), formatText); err != nil {
		return fmt.Errorf("write %s in data directory %s: %w", formatFile, db.dir, err)
	}
	return nil
}

// readFormat returns the database's first record; nil if it has none. empty
// reports whether there is no record at all then.
func (db *DB) readFormat() (format []byte, empty bool, err error) {
	err = db.view(func(txn *badger.Txn) error {
		if format, err = getValue(txn, keyFormat); err != nil || format != nil {
			return err
		}
		empty = !hasKeys(txn, nil)
		return nil
	})
	return format, empty, err
}

// writeSynced creates a small file that is there completely or not at all, also
// after a power loss.
func writeSynced(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return z.SyncDir(filepath.Dir(path))
}
