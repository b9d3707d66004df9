package badgerwal

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/ristretto/v2/z"
	"github.com/rs/zerolog"
)

// The layout of a MANIFEST: a header, then changes, each after its own frame.
const (
	manifestHeader = 8 // bytes: magic and versions
	manifestFrame  = 8 // bytes: length and CRC32C of the change
)

// Check looks for damage in the files of the database in dir. It reports three
// kinds that Badger would repair by deleting data, or would die of:
//
//   - a missing or cut MANIFEST: Badger deletes the tables that it does not name;
//   - a broken table: Badger panics on a goroutine of its own;
//   - a write-ahead log that is broken before its end: Badger cuts it off there.
//
// An empty directory is not an error, unless complete says that there was a
// database in it. Check must run under the directory's lock and before Badger
// opens the database. It changes nothing, except that it deletes log files of
// no bytes: a crash leaves them behind, and Badger cannot open them. The error
// begins with the name of the file.
func Check(dir string, complete bool, log zerolog.Logger) error {
	logs, tables, err := list(dir)
	if err != nil {
		return err
	}
	manifest, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	switch {
	case errors.Is(err, os.ErrNotExist) && !complete && len(logs)+tables == 0:
		return nil
	case errors.Is(err, os.ErrNotExist):
		return inFile(badger.ManifestFilename, fmt.Errorf("%w: the file is missing", ErrCorrupt))
	case err != nil:
		return inFile(badger.ManifestFilename, err)
	}
	listed, err := checkManifest(manifest)
	if err = errors.Join(err, manifest.Close()); err != nil {
		return inFile(badger.ManifestFilename, err)
	}
	for id, t := range listed.Tables {
		path := table.NewFilename(id, dir)
		if err := checkTable(path, t); err != nil {
			return inFile(filepath.Base(path), err)
		}
	}
	keys, err := badger.OpenKeyRegistry(badger.KeyRegistryOptions{Dir: dir, ReadOnly: true})
	if err == nil {
		err = keys.Close()
	}
	if err != nil {
		return inFile(badger.KeyRegistryFileName, fmt.Errorf("%w: %w", ErrCorrupt, err))
	}
	for _, name := range logs {
		if err := checkLog(filepath.Join(dir, name), log); err != nil {
			return inFile(name, err)
		}
	}
	return nil
}

func inFile(name string, err error) error { return fmt.Errorf("%s: %w", name, err) }

// list returns the names of the write-ahead logs and value logs in dir, and the
// number of tables.
func list(dir string) (logs []string, tables int, err error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, 0, err
	}
	for _, f := range files {
		switch filepath.Ext(f.Name()) {
		case ".mem", ".vlog":
			logs = append(logs, f.Name())
		case ".sst":
			tables++
		}
	}
	return logs, tables, nil
}

// checkManifest reads the list of tables. Badger takes an unfinished change at
// the end for the trace of a crash and cuts it off. That is right only if the
// change is really unfinished, and not if its length is what is broken.
func checkManifest(f *os.File) (m badger.Manifest, err error) {
	defer Recover(&err)
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
	// A finished change with a broken length still has its checksum: some
	// prefix of the bytes after the frame matches it.
	want := uint32(rest[4])<<24 | uint32(rest[5])<<16 | uint32(rest[6])<<8 | uint32(rest[7])
	sum := uint32(0)
	for i := manifestFrame; i < len(rest); i++ {
		if sum = crc32.Update(sum, castagnoli, rest[i:i+1]); sum == want {
			return m, fmt.Errorf("%w: the change at byte %d has a wrong length", ErrCorrupt, end)
		}
	}
	return m, nil
}

// checkTable verifies every block of a table. Badger does so too, but on a
// goroutine where some kinds of damage panic.
func checkTable(path string, m badger.TableManifest) (err error) {
	defer Recover(&err)
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
