package badgerwal

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"

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

// Check looks for damage in the files of the database in dir. It reports four
// kinds that Badger would repair by deleting data, or would die of:
//
//   - a missing or cut MANIFEST: Badger deletes the tables that it does not name;
//   - a broken table: Badger panics on a goroutine of its own;
//   - a write-ahead log that has less than was synced: Badger cuts it off there;
//   - a write-ahead log that is missing, and that no table has.
//
// Bytes that were not synced need not be there. A power cut may leave any part of it. Badger
// cuts off what it cannot read, and Check logs that.
//
// An empty directory is not an error, unless complete says that there was a
// database in it. Check must run under the directory's lock and before Badger
// opens the database. If it returns an error, it has changed nothing. The error
// begins with the name of the file.
//
// Otherwise Check deletes logs of no bytes, which Badger cannot open. It also deletes
// logs behind a place where an earlier log was torn: Badger would apply the later changes
// without the earlier ones.
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
	var newest uint64 // version in a table
	for id, t := range listed.Tables {
		path := table.NewFilename(id, dir)
		version, err := checkTable(path, t)
		if err != nil {
			return inFile(filepath.Base(path), err)
		}
		newest = max(newest, version)
	}
	keys, err := badger.OpenKeyRegistry(badger.KeyRegistryOptions{Dir: dir, ReadOnly: true})
	if err == nil {
		err = keys.Close()
	}
	if err != nil {
		return inFile(badger.KeyRegistryFileName, fmt.Errorf("%w: %w", ErrCorrupt, err))
	}
	_, synced, err := readPositions(dir)
	if errors.Is(err, os.ErrNotExist) && !complete {
		err = nil
	}
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%w: the file is missing, so it is not known how much was written", ErrCorrupt)
	}
	if err != nil {
		return inFile(SyncedFile, err)
	}
	useless, err := checkLogs(dir, logs, synced, newest, log)
	if err != nil {
		return err
	}
	for _, name := range useless {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			return inFile(name, err)
		}
	}
	return nil
}

// checkLogs compares the logs, in the order of their names, with what was synced. newest
// is the newest version in a table. It returns the names of the logs that must be deleted
// before Badger opens the database.
func checkLogs(dir string, names []string, synced []position, newest uint64, log zerolog.Logger) (useless []string, err error) {
	found := map[string]extent{}
	var last uint64 // version in the logs so far
	torn := false   // whether changes are missing after it
	for _, name := range names {
		x, err := readLog(filepath.Join(dir, name))
		if err != nil {
			return nil, inFile(name, err)
		}
		isWAL := filepath.Ext(name) == ".mem"
		required := isWAL && slices.ContainsFunc(synced, func(p position) bool { return p.name() == name && p.id == x.id })
		// Versions are contiguous. Everything before a log that was synced was synced.
		torn = torn || isWAL && last != 0 && x.first != 0 && x.first != last+1
		switch {
		case x.end == 0:
			log.Warn().Str("file", name).Msg("deleting an empty file that a crash left behind")
			useless = append(useless, name)
			continue
		case isWAL && torn && !required:
			log.Warn().Str("file", name).Int("bytes", x.end).
				Msg("deleting changes that were not synced, because earlier ones were lost with the power. " +
					"No change that imgo had confirmed to a caller is in the file.")
			useless = append(useless, name)
			continue
		case x.torn > 0:
			log.Warn().Str("file", name).Int("whole", x.end).Int("cut", x.torn).
				Msg("cutting off an unfinished write behind the last sync. No change that imgo had confirmed to a caller is in it.")
		}
		found[name] = x
		if isWAL {
			// Badger begins a log when the one before it is full: an empty one has lost what it had.
			last, torn = x.last, x.last == 0
		}
	}
	for _, p := range synced {
		x, ok := found[p.name()]
		switch {
		case ok && x.id == p.id && x.end >= int(p.end):
		case ok && x.id == p.id:
			return nil, inFile(p.name(), fmt.Errorf("%w: it can be read up to byte %d, and was written up to byte %d at least: %d bytes are lost",
				ErrCorrupt, x.end, p.end, int(p.end)-x.end))
		case p.live <= newest:
			// The log is in a table. Versions grow, and Badger writes logs to tables in their order. So a table with a
			// version from live on has all of this log. An entry that a merge may drop does not count for live.
		case ok:
			return nil, inFile(p.name(), fmt.Errorf("%w: its header was overwritten; %d bytes that were written are lost", ErrCorrupt, p.end))
		default:
			return nil, inFile(p.name(), fmt.Errorf("%w: it is missing or empty; %d bytes that were written are lost", ErrCorrupt, p.end))
		}
	}
	return useless, nil
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

// checkTable verifies every block of a table and returns its newest version. Badger
// verifies tables too, but on a goroutine where some kinds of damage panic.
func checkTable(path string, m badger.TableManifest) (newest uint64, err error) {
	defer Recover(&err)
	f, err := z.OpenMmapFile(path, os.O_RDONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("%w: the file is missing", ErrCorrupt)
	}
	if err != nil {
		return 0, err
	}
	t, err := table.OpenTable(f, table.Options{
		BlockSize:   4 << 10,
		Compression: m.Compression,
		ChkMode:     options.NoVerification,
	})
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if err := t.VerifyChecksum(); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrCorrupt, errors.Join(err, t.Close(-1)))
	}
	newest = t.MaxVersion()
	return newest, t.Close(-1)
}
