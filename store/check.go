package store

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/ristretto/v2/z"
	"github.com/rs/zerolog"
)

const (
	// mendFiles ends every refusal of a data directory.
	mendFiles = "; nothing was changed: restore the directory from a back-up, or move it away to start with an empty one"

	// formatFile says that the directory was made completely, so that a
	// database that lacks its first record is known for a broken one.
	formatFile = "FORMAT"
	formatText = "imgo data directory, format 1. Do not delete this file.\n"

	manifestHeader = 8 // bytes: magic and versions
	manifestFrame  = 8 // bytes before each change: its length and checksum
)

var (
	keyFormat   = []byte{'P', 'f'}
	formatValue = []byte{1}
)

// checkFiles looks for damage that Badger would mend by throwing data away,
// or die of in one of its own goroutines: a missing or cut MANIFEST (tables
// that it does not name are deleted), a broken table (a panic), a
// write-ahead log that is broken before its end (cut at the first bad entry).
// It must run under the directory's lock, before Badger is opened. It changes
// nothing but deleting files of no bytes, which a crash leaves while Badger is
// making them and which Badger cannot open.
//
// known says that the directory was made completely once, so that its
// database must have a format record.
func checkFiles(dir string, log zerolog.Logger) (known bool, err error) {
	fail := func(file string, err error) error {
		return fmt.Errorf("data directory %s: %s: %w%s", dir, file, err, mendFiles)
	}
	switch text, err := os.ReadFile(filepath.Join(dir, formatFile)); {
	case err == nil && string(text) != formatText:
		return false, fail(formatFile, fmt.Errorf("%w: it should say %q; a newer imgo may have made the directory", ErrCorrupt, strings.TrimSpace(formatText)))
	case err == nil:
		known = true
	case !errors.Is(err, os.ErrNotExist):
		return false, fail(formatFile, err)
	}

	files, err := os.ReadDir(dir)
	if err != nil {
		return false, fmt.Errorf("list data directory %s: %w", dir, err)
	}
	var logs, tables []string // .mem and .vlog; .sst
	for _, f := range files {
		switch filepath.Ext(f.Name()) {
		case ".mem", ".vlog":
			logs = append(logs, f.Name())
		case ".sst":
			tables = append(tables, f.Name())
		}
	}
	manifest, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	switch {
	case errors.Is(err, os.ErrNotExist) && !known && len(logs)+len(tables) == 0:
		return false, nil // an empty directory
	case errors.Is(err, os.ErrNotExist):
		return false, fail(badger.ManifestFilename, fmt.Errorf("%w: the file is missing", ErrCorrupt))
	case err != nil:
		return false, fail(badger.ManifestFilename, err)
	}
	listed, err := checkManifest(manifest)
	if err = errors.Join(err, manifest.Close()); err != nil {
		return false, fail(badger.ManifestFilename, err)
	}
	for id, t := range listed.Tables {
		if err := checkTable(table.NewFilename(id, dir), t); err != nil {
			return false, fail(filepath.Base(table.NewFilename(id, dir)), err)
		}
	}
	keys, err := badger.OpenKeyRegistry(badger.KeyRegistryOptions{Dir: dir, ReadOnly: true})
	if err == nil {
		err = keys.Close()
	}
	if err != nil {
		return false, fail(badger.KeyRegistryFileName, fmt.Errorf("%w: %w", ErrCorrupt, err))
	}
	for _, name := range logs {
		if err := checkWAL(filepath.Join(dir, name), log); err != nil {
			return false, fail(name, err)
		}
	}
	return known, nil
}

// checkManifest reads the list of tables. Badger takes an unfinished change at
// the end for a crash and cuts it off; that is right only if the change is
// really unfinished, not if its length is what is broken.
func checkManifest(f *os.File) (m badger.Manifest, err error) {
	defer recovered(&err)
	m, end, err := badger.ReplayManifestFile(f, 0, badger.Options{})
	if err != nil {
		return m, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	all, err := os.ReadFile(f.Name())
	if err != nil {
		return m, err
	}
	if end < manifestHeader || end > int64(len(all)) {
		return m, fmt.Errorf("%w: it ends at byte %d of %d", ErrCorrupt, end, len(all))
	}
	rest := all[end:]
	if len(rest) <= manifestFrame {
		return m, nil
	}
	// A change whose length was broken still matches its checksum somewhere.
	want := uint32(rest[4])<<24 | uint32(rest[5])<<16 | uint32(rest[6])<<8 | uint32(rest[7])
	sum := uint32(0)
	for i := manifestFrame; i < len(rest); i++ {
		if sum = crc32.Update(sum, castagnoli, rest[i:i+1]); sum == want {
			return m, fmt.Errorf("%w: the change at byte %d has a wrong length", ErrCorrupt, end)
		}
	}
	return m, nil
}

// checkTable verifies every block of a table. Badger does it too, but in a
// goroutine where some kinds of damage panic.
func checkTable(path string, m badger.TableManifest) (err error) {
	defer recovered(&err)
	f, err := z.OpenMmapFile(path, os.O_RDONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: the file is missing", ErrCorrupt)
	}
	if err != nil {
		return err
	}
	t, err := table.OpenTable(f, table.Options{
		BlockSize:   4 << 10,
		Compression: m.Compression,
		ChkMode:     options.NoVerification,
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if err := t.VerifyChecksum(); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, errors.Join(err, t.Close(-1)))
	}
	return t.Close(-1)
}

// checkFormat reads the database's first record, or writes it to a new one.
func (db *DB) checkFormat(known bool) error {
	var format []byte
	empty := true
	err := db.view(func(txn *badger.Txn) error {
		item, err := txn.Get(keyFormat)
		if errors.Is(err, badger.ErrKeyNotFound) {
			it := txn.NewIterator(badger.IteratorOptions{})
			defer it.Close()
			it.Rewind()
			empty = !it.Valid()
			return nil
		}
		if err != nil {
			return err
		}
		sealed, err := item.ValueCopy(nil)
		if err != nil {
			return err
		}
		format, err = unseal(sealed)
		return err
	})
	switch {
	case err != nil:
		return fmt.Errorf("read the format of data directory %s: %w%s", db.dir, err, mendFiles)
	case format != nil && !bytes.Equal(format, formatValue):
		return fmt.Errorf("data directory %s has format %x, this imgo reads %x: run the imgo that made it", db.dir, format, formatValue)
	case format == nil && known:
		return fmt.Errorf("data directory %s: %w: the database has lost its first record%s", db.dir, ErrCorrupt, mendFiles)
	case format == nil && !empty:
		return fmt.Errorf("data directory %s holds a Badger database that is not imgo's: name another directory with --data-dir", db.dir)
	case format == nil:
		err := db.update(func(txn *badger.Txn) error { return txn.Set(keyFormat, seal(nil, formatValue)) })
		if err != nil {
			return fmt.Errorf("write the format of data directory %s: %w", db.dir, err)
		}
	}
	if known || db.opt.InMemory {
		return nil
	}
	// After the record: only a complete directory has the file.
	if err := writeSynced(filepath.Join(db.dir, formatFile), formatText); err != nil {
		return fmt.Errorf("write %s in data directory %s: %w", formatFile, db.dir, err)
	}
	return nil
}

// writeSynced makes a small file that is there completely or not at all, also
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
