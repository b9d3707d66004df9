package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/store"
)

// readOn reads a partition from an offset to its end. The log may leave out offsets.
func readOn(t testing.TB, l *store.Log, partition int32, from int64) (all []envelope.Entry) {
	t.Helper()
	_, end, err := l.Bounds(t.Context(), partition)
	if err != nil {
		t.Fatal(err)
	}
	for from < end {
		entries, err := l.Read(t.Context(), partition, from, 100)
		if err != nil {
			t.Fatalf("read partition %d from %d: %v", partition, from, err)
		}
		for _, e := range entries {
			if e.Offset < from {
				t.Fatalf("partition %d: offset %d, want %d or a later one", partition, e.Offset, from)
			}
			from = e.Offset + 1
		}
		all = append(all, entries...)
	}
	return all
}

// offsets returns the offsets of entries.
func offsets(entries []envelope.Entry) (list []int64) {
	for _, e := range entries {
		list = append(list, e.Offset)
	}
	return list
}

// session opens the log in a directory, does something, and closes it.
func session(t *testing.T, dir string, opt store.LogOptions, do func(db *store.DB, l *store.Log)) {
	t.Helper()
	db := openDB(t, store.Options{Dir: dir})
	l := openLog(t, db, opt)
	stop := run(t, l)
	do(db, l)
	if err := errors.Join(stop(), l.Close(), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// appendTo appends n records to partition 1, and checks that they have these offsets and those behind.
func appendTo(t *testing.T, l *store.Log, first int64, n int) {
	t.Helper()
	for i := range int64(n) {
		if offset, err := l.Append(t.Context(), 1, fmt.Appendf(nil, "%d", first+i)); err != nil || offset != first+i {
			t.Fatalf("Append: offset %d, %v; want %d", offset, err, first+i)
		}
	}
}

// TestRestoredCopy appends to an older copy of a directory. No offset is given again that the directory gave
// after it was copied.
func TestRestoredCopy(t *testing.T) {
	dir := t.TempDir()
	opt := func(from int64) store.LogOptions {
		return store.LogOptions{Partitions: 2, First: 1000, AppendFrom: from}
	}
	session(t, dir, opt(1000), func(_ *store.DB, l *store.Log) { appendTo(t, l, 1000, 3) })
	older := copyDir(t, dir)
	session(t, dir, opt(2000), func(_ *store.DB, l *store.Log) { appendTo(t, l, 2000, 5) })
	session(t, older, opt(3000), func(_ *store.DB, l *store.Log) {
		appendTo(t, l, 3000, 2)
		if got, want := offsets(readOn(t, l, 1, 1000)), []int64{1000, 1001, 1002, 3000, 3001}; !slices.Equal(got, want) {
			t.Errorf("the copy has %d, want %d", got, want)
		}
	})
}

// TestStartLeavesNothingOutByItself checks that a start changes nothing before the first record.
func TestStartLeavesNothingOutByItself(t *testing.T) {
	dir := t.TempDir()
	session(t, dir, store.LogOptions{Partitions: 2}, func(_ *store.DB, l *store.Log) { appendTo(t, l, 0, 3) })
	for from := int64(1000); from < 4000; from += 1000 {
		session(t, dir, store.LogOptions{AppendFrom: from}, func(_ *store.DB, l *store.Log) {
			if begin, end, err := l.Bounds(t.Context(), 1); err != nil || begin != 0 || end != 3 {
				t.Errorf("it has %d up to %d, %v; want 0 up to 3", begin, end, err)
			}
			if n := l.Commits(); n != 0 {
				t.Errorf("the start made %d commits", n)
			}
		})
	}
	// A clock that was ahead at one start leaves the end ahead. The offsets go on there.
	session(t, dir, store.LogOptions{AppendFrom: 9000}, func(_ *store.DB, l *store.Log) { appendTo(t, l, 9000, 2) })
	session(t, dir, store.LogOptions{AppendFrom: 5000}, func(_ *store.DB, l *store.Log) { appendTo(t, l, 9002, 2) })
}

// TestReadsAcrossGaps reads from each offset around gaps, from the disk and from memory.
func TestReadsAcrossGaps(t *testing.T) {
	for _, tail := range []int{1, 1 << 20} {
		t.Run(fmt.Sprintf("%d bytes in memory", tail), func(t *testing.T) {
			dir := t.TempDir()
			opt := func(from int64) store.LogOptions {
				return store.LogOptions{Partitions: 2, AppendFrom: from, TailBytes: tail}
			}
			session(t, dir, opt(0), func(_ *store.DB, l *store.Log) { appendTo(t, l, 0, 3) })
			session(t, dir, opt(10), func(_ *store.DB, l *store.Log) { appendTo(t, l, 10, 2) })
			all := []int64{0, 1, 2, 10, 11, 20, 21, 22}
			check := func(l *store.Log) {
				t.Helper()
				for from := range int64(23) {
					want := all[slices.IndexFunc(all, func(offset int64) bool { return offset >= from }):]
					if got := readOn(t, l, 1, from); !slices.Equal(offsets(got), want) {
						t.Errorf("from %d: %d, want %d", from, offsets(got), want)
					}
				}
				if _, err := l.Read(t.Context(), 1, 24, 1); !errors.Is(err, envelope.ErrOutOfRange) {
					t.Errorf("read behind the end: %v", err)
				}
			}
			session(t, dir, opt(20), func(_ *store.DB, l *store.Log) {
				var recent []envelope.Entry // from the end of before, as a follower sees it
				l.Follow(func(partition int32) { recent = append(recent, l.Recent(partition, 12, 1)...) })
				got := make(chan []envelope.Entry)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				go func() {
					entries, err := l.Read(ctx, 1, 12, 1)
					if err != nil {
						t.Errorf("the waiting read: %v", err)
					}
					got <- entries
				}()
				appendTo(t, l, 20, 1)
				if entries := <-got; !slices.Equal(offsets(entries), []int64{20}) {
					t.Errorf("the waiting read got %d", offsets(entries))
				}
				if !slices.Equal(offsets(recent), []int64{20}) {
					t.Errorf("the follower got %d", offsets(recent))
				}
				appendTo(t, l, 21, 2)
				check(l)
			})
			session(t, dir, opt(30), func(_ *store.DB, l *store.Log) { check(l) })
		})
	}
}

// TestMissingEntryBesideGap deletes an entry before and behind a gap. A gap does not hide it.
func TestMissingEntryBesideGap(t *testing.T) {
	for _, missing := range []int64{0, 2, 10, 11, 12} {
		t.Run(fmt.Sprint(missing), func(t *testing.T) {
			dir := t.TempDir()
			session(t, dir, store.LogOptions{Partitions: 3}, func(_ *store.DB, l *store.Log) {
				if err := l.AppendMany(t.Context(), []envelope.Entry{{Partition: 1}, {Partition: 1}, {Partition: 1}}); err != nil {
					t.Fatal(err)
				}
			})
			session(t, dir, store.LogOptions{AppendFrom: 10, TailBytes: 1}, func(db *store.DB, l *store.Log) {
				appendTo(t, l, 10, 4)
				if err := db.Overwrite(1, missing, func([]byte) []byte { return nil }); err != nil {
					t.Fatal(err)
				}
				_, err := l.Read(t.Context(), 1, missing, 1)
				if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), fmt.Sprintf("partition 1 offset %d", missing)) {
					t.Errorf("Read: %v", err)
				}
			})
		})
	}
}

// TestRetentionAcrossGaps trims up to a gap, reopens the log, and trims across the gap. A gap is as wide as a
// process was down in milliseconds, so its width must not matter.
func TestRetentionAcrossGaps(t *testing.T) {
	dir := t.TempDir()
	var c clock
	const far = 1_700_000_000_000
	c.ms.Store(far)
	opt := func(from int64) store.LogOptions {
		return store.LogOptions{Partitions: 2, AppendFrom: from, Retention: time.Hour, Now: c.now}
	}
	want := func(l *store.Log, begin, end, entries int64) {
		t.Helper()
		if err := l.Trim(t.Context()); err != nil {
			t.Fatalf("Trim: %v", err)
		}
		if b, e, err := l.Bounds(t.Context(), 1); err != nil || b != begin || e != end {
			t.Fatalf("it has %d up to %d, %v; want %d up to %d", b, e, err, begin, end)
		}
		if got := l.Entries(1); got != entries {
			t.Fatalf("it counts %d entries, want %d", got, entries)
		}
	}
	session(t, dir, opt(0), func(_ *store.DB, l *store.Log) { appendTo(t, l, 0, 3) })
	c.advance(40 * time.Minute)
	session(t, dir, opt(far), func(_ *store.DB, l *store.Log) {
		appendTo(t, l, far, 2)
		want(l, 0, far+2, 5)
		c.advance(30 * time.Minute)
		want(l, 3, far+2, 2) // not far: a reader whose position is 3 has missed nothing
	})
	session(t, dir, opt(2*far), func(_ *store.DB, l *store.Log) {
		if got := offsets(readOn(t, l, 1, 3)); !slices.Equal(got, []int64{far, far + 1}) {
			t.Errorf("read %d from the beginning", got)
		}
		appendTo(t, l, 2*far, 1)
		c.advance(40 * time.Minute)
		want(l, far+2, 2*far+1, 1)
		c.advance(time.Hour)
		want(l, 2*far+1, 2*far+1, 0)
	})
	session(t, dir, opt(3*far), func(_ *store.DB, l *store.Log) {
		want(l, 2*far+1, 2*far+1, 0)
		appendTo(t, l, 3*far, 1)
	})
}

// TestFailedFirstCommit fails the commit that leaves offsets out. The next one leaves them out.
func TestFailedFirstCommit(t *testing.T) {
	l := openLog(t, openDB(t, store.Options{Dir: t.TempDir()}), store.LogOptions{Partitions: 2, AppendFrom: 10})
	failed := errors.New("no room")
	l.FailCommits(1, failed)
	run(t, l)
	if _, err := l.Append(t.Context(), 1, nil); !errors.Is(err, failed) {
		t.Fatalf("Append: %v", err)
	}
	appendTo(t, l, 10, 2)
	if got := offsets(readOn(t, l, 1, 0)); !slices.Equal(got, []int64{10, 11}) {
		t.Errorf("read %d", got)
	}
}
