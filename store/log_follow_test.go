package store_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"imgo/store"
)

// TestFollow shows that the follower is called for each lone record before the append
// returns.
func TestFollow(t *testing.T) {
	l := openLog(t, openDB(t, store.Options{Dir: t.TempDir()}), store.LogOptions{Partitions: 2})
	run(t, l)
	next, told := int64(0), 0
	stop := l.Follow(func(p int32) {
		told++
		got := l.Recent(p, next, 1<<20)
		if p != 0 || len(got) != 1 || string(got[0].Value) != "mine" {
			t.Errorf("told of partition %d with %d new records", p, len(got))
		}
	})
	for want := 1; want <= 3; want++ {
		offset, err := l.Append(t.Context(), 0, []byte("mine"))
		if err != nil || offset != next {
			t.Fatalf("Append: offset %d, %v; want %d", offset, err, next)
		}
		if told != want {
			t.Fatalf("told %d times by the time that append %d returns", told, want)
		}
		next++
	}
	stop()
	if _, err := l.Append(t.Context(), 0, []byte("nobody's")); err != nil || told != 3 {
		t.Errorf("after the end: told %d times, %v", told, err)
	}
}

// TestFollowWithManyCallers has records share commits. The follower is not called for those.
// Offsets have no gap, and Recent always returns the record that the follower is called for.
func TestFollowWithManyCallers(t *testing.T) {
	l := openLog(t, openDB(t, store.Options{Dir: t.TempDir()}), store.LogOptions{Partitions: 2, TailBytes: 1 << 20})
	run(t, l)
	var told atomic.Int64
	stop := l.Follow(func(p int32) {
		told.Add(1)
		if len(l.Recent(p, 0, 1)) == 0 { // TailBytes has room for all
			t.Error("told of a record that is not there")
		}
	})
	defer stop()
	const callers, records = 4, 200
	var group sync.WaitGroup
	offsets := make([]map[int64]string, callers)
	for i := range callers {
		offsets[i] = make(map[int64]string)
		group.Go(func() {
			for n := range records {
				value := fmt.Sprintf("%d/%d", i, n)
				offset, err := l.Append(t.Context(), int32(i%2), []byte(value))
				if err != nil {
					t.Errorf("Append: %v", err)
					return
				}
				offsets[i][offset] = value
			}
		})
	}
	group.Wait()
	for p := range int32(2) {
		got := readAll(t, l, p)
		if len(got) != callers/2*records {
			t.Fatalf("partition %d has %d records", p, len(got))
		}
		for n, e := range got {
			mine, other := offsets[p][e.Offset], offsets[p+2][e.Offset]
			if e.Offset != int64(n) || string(e.Value) != mine+other {
				t.Fatalf("offset %d after %d has %q, its callers were told %q%q", e.Offset, n, e.Value, mine, other)
			}
		}
	}
}

// TestFailedCommitOfOne shows that a commit that fails before anything was written fails
// only its own caller, and that the follower is not called.
func TestFailedCommitOfOne(t *testing.T) {
	l := openLog(t, openDB(t, store.Options{Dir: t.TempDir()}), store.LogOptions{Partitions: 4})
	boom := errors.New("boom")
	l.FailCommits(1, boom)
	run(t, l)
	told := 0
	defer l.Follow(func(int32) { told++ })()
	if _, err := l.Append(t.Context(), 0, []byte("bad")); !errors.Is(err, boom) || told != 0 {
		t.Fatalf("Append: %v; told of it %d times", err, told)
	}
	if offset, err := l.Append(t.Context(), 0, []byte("good")); err != nil || offset != 0 || told != 1 {
		t.Fatalf("Append after it: offset %d, %v; told of it %d times", offset, err, told)
	}
}
