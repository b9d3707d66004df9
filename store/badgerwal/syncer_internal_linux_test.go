package badgerwal

import (
	"os"
	"path/filepath"
	"testing"
)

// TestLogsWithoutAHeader follows logs that Badger has created and not begun, and logs that it has cut to no bytes to delete
// them. Nothing is noted of them until they have a header.
func TestLogsWithoutAHeader(t *testing.T) {
	data, ends := writeLog(t)
	dir := t.TempDir()
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("00001.mem", withZeros(data))
	write("00002.mem", nil) // left by a process that was killed
	s, err := NewSyncer(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(false); err != nil {
			t.Error(err)
		}
	}()
	check := func(step string, do func() error, want ...uint32) {
		t.Helper()
		if err := do(); err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		_, logs, err := readPositions(dir)
		if err != nil || len(logs) != len(want) {
			t.Fatalf("%s: the positions are %v, %v, want those of %d", step, logs, err, want)
		}
		for i, p := range logs {
			if p.number != want[i] || int(p.end) != ends[7] || allZero(p.id[:]) {
				t.Errorf("%s: a position is %+v, want that of log %d up to %d", step, p, want[i], ends[7])
			}
		}
	}
	check("at the start", func() error { return nil }, 1)

	write("00003.mem", withZeros(data))
	check("a log that is followed", s.Flush, 1)
	write("00003.mem", nil)
	write("00004.mem", make([]byte, 8<<10))
	check("the log was cut, and there is one of zeros", s.Sync, 1)
	check("and again", s.Flush, 1)
	write("00004.mem", withZeros(data))
	check("the log has begun", s.Sync, 1, 4)
	write("00005.mem", nil)
	check("there is one without bytes", s.Sync, 1, 4)
	write("00006.mem", withZeros(data))
	check("there is another one", s.Sync, 1, 4, 6)
}
