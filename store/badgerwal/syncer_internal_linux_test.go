package badgerwal

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
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

// TestLogsThatGoQuickly has logs created and deleted while a sync looks for the newest one: the sync always finds it.
func TestLogsThatGoQuickly(t *testing.T) {
	data, _ := writeLog(t)
	dir := t.TempDir()
	path := func(n int) string { return filepath.Join(dir, fmt.Sprintf("%05d.mem", n)) }
	create := func(n int) {
		if err := os.WriteFile(path(n), data, 0o600); err != nil {
			t.Error(err)
		}
	}
	remove := func(n int) {
		if err := os.Remove(path(n)); err != nil {
			t.Error(err)
		}
	}
	s, err := NewSyncer(dir)
	if err != nil {
		t.Fatal(err)
	}
	create(1)
	for n := 1; n < 600; n += 2 {
		if err := s.Sync(); err != nil {
			t.Fatalf("log %d: %v", n, err)
		}
		create(n + 1)
		var badger sync.WaitGroup
		badger.Go(func() {
			create(n + 2)
			remove(n + 1)
			remove(n)
		})
		err := s.Sync()
		badger.Wait()
		if err != nil {
			t.Fatalf("log %d: %v", n+1, err)
		}
	}
	if err := s.Sync(); err != nil { // it knows the newest log
		t.Fatal(err)
	}
	remove(601)
	if err := s.Flush(); err == nil || !strings.Contains(err.Error(), "was deleted") || strings.Contains(err.Error(), SyncedFile) {
		t.Errorf("the newest log was deleted: %v", err)
	}
	if err := s.Close(false); err != nil {
		t.Error(err)
	}
}
