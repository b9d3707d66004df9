package badgerwal

import (
	"os"
	"strings"
	"testing"
)

// TestBadgerVersion fails when the module is built with another Badger than the
// one that this package describes. (The build information of a test has no
// dependencies, so the version is read from go.mod.)
func TestBadgerVersion(t *testing.T) {
	const module = "github.com/dgraph-io/badger/v4"
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for line := range strings.Lines(string(mod)) {
		fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(fields) >= 2 && fields[0] == module {
			got = fields[1]
		}
		if strings.Contains(line, module) && strings.Contains(line, "=>") {
			t.Errorf("go.mod replaces Badger: %s", line)
		}
	}
	if got == version {
		return
	}
	t.Errorf(`go.mod has Badger %s, and this package describes the files of %s.
Before you set version to %[1]s, compare the two versions and check:
 1. memtable.go, structs.go: the header of a write-ahead log, the encoding of an entry, the bits of meta,
    and the marker that ends a transaction (wal.go);
 2. txn.go: that commits get contiguous versions and are written in their order (check.go);
 3. memtable.go: the names of the logs (%%05d.mem), and that Badger never writes to an earlier log again (syncer_linux.go);
 4. db.go, levels.go: that a table is synced before its log is deleted, and what SyncWrites syncs (syncer_linux.go);
 5. manifest.go: the header, the frame of a change, and where replaying stops (check.go);
 6. table/table.go: that OpenTable and VerifyChecksum read every block (check.go);
 7. dir_unix.go: that the directory's lock is a flock of the directory and a file LOCK (../dirlock_unix.go).
Then run the tests of store, store/badgerwal and bench/soak.`, got, version)
}
