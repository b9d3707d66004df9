package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/table"

	"imgo/store/badgerwal"
)

// checkFiles returns an error if files that belong to the open directory were deleted, or
// the directory was moved or replaced. The open files would go on taking writes, which
// nobody could read again. The error wraps errBroken and ends all writes.
func (db *DB) checkFiles() error {
	if db.broken.Load() != nil {
		return nil
	}
	err := db.syncer.Flush()
	if err == nil {
		err = db.missingFiles()
	}
	if err == nil {
		return nil
	}
	err = fmt.Errorf("data directory %s: %w: %w", db.dir, errBroken, err)
	db.broken.CompareAndSwap(nil, &err)
	return err
}

// missingFiles returns an error that names the files that are not there any more.
func (db *DB) missingFiles() error {
	if !db.lock.sameDir() {
		return errors.New("the directory was moved or replaced while imgo was using it")
	}
	missing := absent(db.dir, badger.ManifestFilename, badger.KeyRegistryFileName, formatFile, badgerwal.SyncedFile)
	// Compaction deletes a table after it has left the list. So a table that is still on
	// the list after it was found to be missing was deleted by somebody else.
	if gone := absent(db.dir, db.tableNames()...); len(gone) > 0 {
		still := db.tableNames()
		for _, name := range gone {
			if slices.Contains(still, name) {
				missing = append(missing, name)
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("deleted while imgo was using them: %s", strings.Join(missing, ", "))
}

func (db *DB) tableNames() (names []string) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	if db.closed {
		return nil
	}
	for _, t := range db.bdg.Tables() {
		names = append(names, filepath.Base(table.NewFilename(t.ID, "")))
	}
	return names
}

// absent returns those of the names that dir does not have.
func absent(dir string, names ...string) (missing []string) {
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, name)
		}
	}
	return missing
}
