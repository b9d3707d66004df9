package store_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/rs/zerolog"

	"imgo/store"
)

// TestKillNine kills a process that appends, several times in the same directory. Every
// acknowledged record must be there. Each process leaves offsets out behind those of the one before.
func TestKillNine(t *testing.T) {
	dir := t.TempDir()
	type place struct {
		partition int32
		offset    int64
	}
	acked := map[place]string{}
	rounds := 4
	if testing.Short() {
		rounds = 2
	}
	for round := range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir, fmt.Sprintf("%s=%d", childFrom, round*1_000_000))
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		for n := 0; ; n++ {
			line, err := lines.ReadString('\n')
			if err != nil {
				break // an incomplete line is no acknowledgement
			}
			var at place
			var value string
			if _, err := fmt.Sscan(line, &at.partition, &at.offset, &value); err != nil {
				t.Fatalf("child said %q: %v", line, err)
			}
			if old, ok := acked[at]; ok {
				t.Fatalf("%+v was given to %q and to %q", at, old, value)
			}
			acked[at] = value
			if n == 500*(round+1) {
				_ = cmd.Process.Kill()
			}
		}
		_ = cmd.Wait()
		if len(acked) == 0 {
			t.Fatalf("the child appended nothing: %s", stderr.String())
		}
		db, err := store.Open(store.Options{Dir: dir, Log: zerolog.Nop()})
		if err != nil {
			t.Fatalf("open after kill -9: %v", err)
		}
		l, err := store.OpenLog(db, store.LogOptions{})
		if err != nil {
			t.Fatalf("open the log after kill -9: %v", err)
		}
		found := 0
		for p := range l.Partitions() {
			for _, e := range readOn(t, l, p, 0) {
				if want, ok := acked[place{p, e.Offset}]; ok {
					found++
					if string(e.Value) != want {
						t.Fatalf("partition %d offset %d: %q, want %q", p, e.Offset, e.Value, want)
					}
				}
			}
		}
		if found != len(acked) {
			t.Fatalf("round %d: %d of %d acknowledged records are there", round, found, len(acked))
		}
		if err := errors.Join(l.Close(), db.Close()); err != nil {
			t.Fatal(err)
		}
	}
}
