package store_test

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/store"
)

// clock is a clock that tests advance.
type clock struct{ ms atomic.Int64 }

func (c *clock) now() time.Time           { return time.UnixMilli(c.ms.Load()) }
func (c *clock) advance(by time.Duration) { c.ms.Add(by.Milliseconds()) }

func TestRetention(t *testing.T) {
	dir := t.TempDir()
	var c clock
	c.ms.Store(1_700_000_000_000)
	opt := store.LogOptions{Partitions: 2, Retention: time.Hour, Now: c.now, TailBytes: 100}
	open := func() (*store.DB, *store.Log) {
		db := openDB(t, store.Options{Dir: dir})
		l := openLog(t, db, opt)
		run(t, l)
		return db, l
	}
	want := func(l *store.Log, begin, end int64) {
		t.Helper()
		b, e, err := l.Bounds(t.Context(), 0)
		if err != nil || b != begin || e != end {
			t.Fatalf("Bounds: %d to %d, %v; want %d to %d", b, e, err, begin, end)
		}
	}
	db, l := open()
	add := func(n int) {
		t.Helper()
		entries := make([]envelope.Entry, n)
		for i := range entries {
			entries[i].Value = []byte("value")
		}
		if err := l.AppendMany(t.Context(), entries); err != nil {
			t.Fatalf("AppendMany: %v", err)
		}
	}
	trim := func() {
		t.Helper()
		if err := l.Trim(t.Context()); err != nil {
			t.Fatalf("Trim: %v", err)
		}
	}
	add(5000) // more entries than one transaction deletes
	c.advance(40 * time.Minute)
	add(10)
	trim()
	want(l, 0, 5010)
	c.advance(21 * time.Minute)
	trim()
	want(l, 5000, 5010)
	if _, err := l.Read(t.Context(), 0, 4999, 1); !errors.Is(err, envelope.ErrOutOfRange) {
		t.Fatalf("Read of a trimmed offset: %v, want out of range", err)
	}
	if entries, err := l.Read(t.Context(), 0, 5000, 1); err != nil || entries[0].Offset != 5000 {
		t.Fatalf("Read from begin: %v, %v", entries, err)
	}
	reopen := func() {
		t.Helper()
		if err := errors.Join(l.Close(), db.Close()); err != nil {
			t.Fatal(err)
		}
		db, l = open()
	}
	reopen()
	want(l, 5000, 5010)
	c.advance(2 * time.Hour)
	trim()
	want(l, 5010, 5010)
	// The end is kept although no entry is left.
	reopen()
	want(l, 5010, 5010)
	add(1)
	want(l, 5010, 5011)
	if _, err := l.Read(t.Context(), 0, 0, 1); !errors.Is(err, envelope.ErrOutOfRange) {
		t.Fatalf("Read from 0: %v, want out of range", err)
	}
}

func TestRunTrims(t *testing.T) {
	var c clock
	c.ms.Store(1_700_000_000_000)
	l := openLog(t, openDB(t, store.Options{Dir: t.TempDir()}), store.LogOptions{
		Partitions: 4, Retention: time.Hour, TrimInterval: time.Millisecond, Now: c.now,
	})
	run(t, l)
	if _, err := l.Append(t.Context(), 3, []byte("x")); err != nil {
		t.Fatal(err)
	}
	c.advance(time.Hour + time.Second)
	eventually(t, "the entry is trimmed", func() bool {
		begin, _, err := l.Bounds(t.Context(), 3)
		return err == nil && begin == 1
	})
}

// TestTrimGoesOn checks that a partition with a damaged entry does not keep the others from being trimmed.
func TestTrimGoesOn(t *testing.T) {
	var c clock
	c.ms.Store(1_700_000_000_000)
	db := openDB(t, store.Options{Dir: t.TempDir()})
	l := openLog(t, db, store.LogOptions{Partitions: 3, Retention: time.Hour, Now: c.now})
	run(t, l)
	for p := range int32(3) {
		if _, err := l.Append(t.Context(), p, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	for p := range int32(2) {
		if err := db.Overwrite(p, 0, func([]byte) []byte { return []byte{} }); err != nil {
			t.Fatal(err)
		}
	}
	c.advance(2 * time.Hour)
	err := l.Trim(t.Context())
	for _, want := range []string{"trim partition 0", "trim partition 1"} {
		if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), want) {
			t.Errorf("Trim: %v", err)
		}
	}
	for p, want := range []int64{0, 0, 1} {
		if begin, _, err := l.Bounds(t.Context(), int32(p)); err != nil || begin != want {
			t.Errorf("partition %d begins at %d, %v; want %d", p, begin, err, want)
		}
	}
}

// TestReadersWhileTrimming reads from the begin of a log while it is trimmed. Each read gives
// entries or ErrOutOfRange, and never ErrCorrupt.
func TestReadersWhileTrimming(t *testing.T) {
	var c clock
	c.ms.Store(1_700_000_000_000)
	l := openLog(t, openDB(t, store.Options{Dir: t.TempDir()}), store.LogOptions{
		Partitions: 4, Retention: time.Second, Now: c.now, TailBytes: 1,
	})
	run(t, l)
	for range 50 {
		if err := l.AppendMany(t.Context(), make([]envelope.Entry, 20)); err != nil {
			t.Fatal(err)
		}
		c.advance(time.Second)
	}
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for from := int64(0); from < 900; {
				entries, err := l.Read(t.Context(), 0, from, 1<<10)
				if errors.Is(err, envelope.ErrOutOfRange) {
					if from, _, err = l.Bounds(t.Context(), 0); err != nil {
						t.Errorf("Bounds: %v", err)
						return
					}
					continue
				}
				if err != nil {
					t.Errorf("Read from %d: %v", from, err)
					return
				}
				from = entries[len(entries)-1].Offset + 1
			}
		})
	}
	if err := l.Trim(t.Context()); err != nil {
		t.Errorf("Trim: %v", err)
	}
	group.Wait()
}
