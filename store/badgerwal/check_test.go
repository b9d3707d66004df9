package badgerwal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

// killedDir returns a directory as a killed process leaves it: with a table and a
// write-ahead log.
func killedDir(t *testing.T) string {
	t.Helper()
	work, dir := t.TempDir(), t.TempDir()
	db := openBadger(t, work)
	commit(t, db, 1, []byte("in the table"))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	syncer, err := NewSyncer(work)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syncer.Close(false) })
	db = openBadger(t, work)
	commit(t, db, 2, []byte("in the write-ahead log"))
	if err := syncer.Sync(); err != nil {
		t.Fatal(err)
	}
	for _, name := range files(t, work) {
		b, err := os.ReadFile(filepath.Join(work, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		names = append(names, f.Name())
	}
	return names
}

func TestCheck(t *testing.T) {
	first := func(pattern string) func(t *testing.T, dir string) string {
		return func(t *testing.T, dir string) string {
			t.Helper()
			names, err := filepath.Glob(filepath.Join(dir, pattern))
			if err != nil || len(names) == 0 {
				t.Fatalf("no %s: %v", pattern, err)
			}
			return names[0]
		}
	}
	flip := func(at int) func(path string) error {
		return func(path string) error {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			b[at] ^= 1
			return os.WriteFile(path, b, 0o600)
		}
	}
	for name, test := range map[string]struct {
		file   func(t *testing.T, dir string) string
		damage func(path string) error
	}{
		"no MANIFEST":              {first("MANIFEST"), os.Remove},
		"a broken MANIFEST":        {first("MANIFEST"), flip(10)},
		"no table":                 {first("*.sst"), os.Remove},
		"a broken table":           {first("*.sst"), flip(3)},
		"a broken key registry":    {first("KEYREGISTRY"), flip(20)},
		"a broken log":             {first("*.mem"), flip(30)},
		"a log without its header": {first("*.mem"), func(path string) error { return os.Truncate(path, 7) }},
		"another log":              {first("*.mem"), flip(10)},
		"no log":                   {first("*.mem"), os.Remove},
		"no positions":             {first(SyncedFile), os.Remove},
	} {
		t.Run(name, func(t *testing.T) {
			dir := killedDir(t)
			if err := Check(dir, true, zerolog.Nop()); err != nil {
				t.Fatalf("a whole directory: %v", err)
			}
			path := test.file(t, dir)
			if err := test.damage(path); err != nil {
				t.Fatal(err)
			}
			before := files(t, dir)
			err := Check(dir, true, zerolog.Nop())
			if !errors.Is(err, ErrCorrupt) || !strings.HasPrefix(err.Error(), filepath.Base(path)+": ") {
				t.Errorf("%v; want it to say that %s is corrupt", err, filepath.Base(path))
			}
			if after := files(t, dir); len(after) != len(before) {
				t.Errorf("the check changed %v to %v", before, after)
			}
		})
	}
}

func TestCheckEmptyDirectory(t *testing.T) {
	if err := Check(t.TempDir(), false, zerolog.Nop()); err != nil {
		t.Errorf("a new directory: %v", err)
	}
	if err := Check(t.TempDir(), true, zerolog.Nop()); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a directory that has lost its files: %v", err)
	}
}

func TestCheckDeletesEmptyLogs(t *testing.T) {
	dir := killedDir(t)
	for _, name := range []string{"00099.mem", "000099.vlog"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := len(files(t, dir))
	if err := Check(dir, true, zerolog.Nop()); err != nil {
		t.Fatal(err)
	}
	if after := len(files(t, dir)); after != before-2 {
		t.Errorf("%d of %d files are left", after, before)
	}
}

func TestRecover(t *testing.T) {
	panics := func() (err error) {
		defer Recover(&err)
		panic("a broken block")
	}
	if err := panics(); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "a broken block") {
		t.Errorf("a panic became %v", err)
	}
}

// TestChangesBehindATornLog has two logs. The first one has lost its end with the power, so the
// second one, which was not synced either, must go: its changes came later.
func TestChangesBehindATornLog(t *testing.T) {
	data, ends := writeLog(t)
	header, other := data[:logHeader:logHeader], bytes.Repeat([]byte{9}, logIDBytes)
	second := append(append(make([]byte, headerKeyID), other...), data[ends[4]:]...)
	synced := []position{{number: 2, id: [logIDBytes]byte(other), end: uint32(len(second))}}
	for name, test := range map[string]struct {
		first  []byte
		synced []position
		torn   bool
	}{
		"whole":                {data[:ends[4]], nil, false},
		"torn":                 {data[:ends[4]-1], nil, true},
		"lost":                 {header, nil, true},
		"synced":               {data[:ends[3]], synced, false},
		"a transaction is not": {data[:ends[3]], nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for name, b := range map[string][]byte{"00001.mem": withZeros(test.first), "00002.mem": second} {
				if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			useless, err := checkLogs(dir, []string{"00001.mem", "00002.mem"}, test.synced, 0, zerolog.Nop())
			if err != nil || (len(useless) == 1 && useless[0] == "00002.mem") != test.torn || len(useless) > 1 {
				t.Errorf("useless logs: %v, %v; torn %v", useless, err, test.torn)
			}
		})
	}
}
