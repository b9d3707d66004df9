package store_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"imgo/envelope"
	"imgo/store"
	"imgo/store/logtest"
)

func newLive(t testing.TB, opt store.LiveOptions) *store.LiveLog {
	t.Helper()
	opt.MaxBytes = cmp.Or(opt.MaxBytes, 4<<20)
	l, err := store.NewLiveLog(opt)
	if err != nil {
		t.Fatalf("NewLiveLog: %v", err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return l
}

func TestLiveLogConforms(t *testing.T) {
	logtest.Run(t, func(t *testing.T) logtest.Log {
		l := newLive(t, store.LiveOptions{Partitions: 4, Retention: time.Minute})
		run(t, l)
		return l
	}, logtest.Options{
		Close: func(t *testing.T, l logtest.Log) {
			if err := l.(*store.LiveLog).Close(); err != nil {
				t.Fatalf("Close: %v", err)
			}
		},
	})
}

func TestLiveOptions(t *testing.T) {
	if l := newLive(t, store.LiveOptions{Partitions: 3}); l.Partitions() != 3 || l.Generation() != 1 {
		t.Fatalf("%d partitions, generation %d", l.Partitions(), l.Generation())
	}
	for _, opt := range []store.LiveOptions{
		{Partitions: 0, MaxBytes: 1}, {Partitions: -1, MaxBytes: 1}, {Partitions: 1, MaxBytes: 0}, {Partitions: 1, MaxBytes: -1},
	} {
		if _, err := store.NewLiveLog(opt); err == nil {
			t.Errorf("%+v: no error", opt)
		}
	}
}

func TestFullLiveLogDropsTheOldest(t *testing.T) {
	reg := prometheus.NewRegistry()
	// Room for ten entries of 100 bytes.
	l := newLive(t, store.LiveOptions{Partitions: 2, MaxBytes: 10 * (100 + 64), Metrics: reg})
	ctx := t.Context()
	for i := range 25 {
		if i == 8 { // a reader has got the first 8
			if entries, err := l.Read(ctx, 0, 0, 1<<20); err != nil || len(entries) != 8 {
				t.Fatalf("Read: %d entries, %v", len(entries), err)
			}
		}
		if _, err := l.Append(ctx, 0, fmt.Appendf(nil, "%-100d", i)); err != nil {
			t.Fatal(err)
		}
	}
	begin, end, err := l.Bounds(ctx, 0)
	if err != nil || begin != 15 || end != 25 {
		t.Fatalf("Bounds: %d to %d, %v; want 15 to 25", begin, end, err)
	}
	if n := l.Dropped(); n != 7 {
		t.Fatalf("%d were dropped unread, want 7", n)
	}
	for name, want := range map[string]float64{
		"imgo_store_live_dropped_total": 15,
		"imgo_store_live_entries":       10,
		"imgo_store_live_size_bytes":    1640,
		"imgo_store_live_end_offset":    25,
	} {
		if got := gauge(t, reg, name); got != want {
			t.Errorf("%s = %v, want %v", name, got, want)
		}
	}
	for _, from := range []int64{0, 8, 14} {
		if _, err := l.Read(ctx, 0, from, 1); !errors.Is(err, envelope.ErrOutOfRange) {
			t.Fatalf("Read from %d: %v, want out of range", from, err)
		}
	}
	entries, err := l.Read(ctx, 0, 15, 1<<20)
	if err != nil || len(entries) != 10 || string(entries[0].Value[:2]) != "15" {
		t.Fatalf("Read from 15: %v, %v", entries, err)
	}
	if begin, end, _ := l.Bounds(ctx, 1); begin != 0 || end != 0 {
		t.Fatalf("the other partition: %d to %d", begin, end)
	}
	// An entry that is larger than the bound is still delivered.
	if _, err := l.Append(ctx, 0, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if entries, err := l.Read(ctx, 0, 25, 1); err != nil || len(entries[0].Value) != 1<<20 {
		t.Fatalf("Read of a large one: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if families, err := reg.Gather(); err != nil || len(families) != 0 {
		t.Errorf("%d metrics are left after Close, %v", len(families), err)
	}
}

func TestLiveLogExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := store.NewLiveLog(store.LiveOptions{Partitions: 1, MaxBytes: 4 << 20, Retention: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		bounds := func() (begin, end int64) {
			t.Helper()
			synctest.Wait()
			begin, end, err := l.Bounds(ctx, 0)
			if err != nil {
				t.Fatal(err)
			}
			return begin, end
		}
		// One entry a second. The entries of the last minute always exist, and those
		// of more than one step before it do not.
		for i := range int64(300) {
			if _, err := l.Append(ctx, 0, nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			begin, end := bounds()
			if age := end - begin; age < min(i+1, 60) || age > 60+60/8+2 {
				t.Fatalf("after %d s: %d to %d", i+1, begin, end)
			}
		}
		time.Sleep(2 * time.Minute)
		if begin, end := bounds(); begin != 300 || end != 300 {
			t.Fatalf("in the end: %d to %d", begin, end)
		}
		if n := l.Dropped(); n != 0 {
			t.Fatalf("%d are counted as dropped, but they expired", n)
		}
		if offset, err := l.Append(ctx, 0, nil); err != nil || offset != 300 {
			t.Fatalf("Append: %d, %v; want 300", offset, err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatalf("Run: %v", err)
		}
		if _, err := l.Append(t.Context(), 0, nil); !errors.Is(err, envelope.ErrClosed) {
			t.Fatalf("Append after Run: %v, want closed", err)
		}
		if err := l.AppendMany(t.Context(), make([]envelope.Entry, 1)); !errors.Is(err, envelope.ErrClosed) {
			t.Fatalf("AppendMany after Run: %v, want closed", err)
		}
	})
}

func TestLiveLogWithoutExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := store.NewLiveLog(store.LiveOptions{Partitions: 1, MaxBytes: 4 << 20})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		if _, err := l.Append(ctx, 0, nil); err != nil {
			t.Fatal(err)
		}
		if err := l.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if l.Dropped() != 0 {
			t.Fatal("something was dropped")
		}
	})
}

// TestSlowReader shows that a reader that is too slow gets an error, and can go on at the
// begin of the partition.
func TestSlowReader(t *testing.T) {
	l := newLive(t, store.LiveOptions{Partitions: 1, MaxBytes: 20 * 64})
	const n = 20_000
	var group sync.WaitGroup
	group.Go(func() {
		for i := range n {
			if _, err := l.Append(t.Context(), 0, nil); err != nil {
				t.Errorf("Append %d: %v", i, err)
				return
			}
		}
	})
	got, lost := int64(0), int64(0)
	for from := int64(0); from < n; {
		entries, err := l.Read(t.Context(), 0, from, 1)
		if errors.Is(err, envelope.ErrOutOfRange) {
			begin, _, err := l.Bounds(t.Context(), 0)
			if err != nil || begin <= from {
				t.Fatalf("Bounds: begin %d, %v, after %d was out of range", begin, err, from)
			}
			lost += begin - from
			from = begin
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if entries[0].Offset != from {
			t.Fatalf("offset %d, want %d", entries[0].Offset, from)
		}
		got += int64(len(entries))
		from += int64(len(entries))
	}
	group.Wait()
	if got+lost != n || uint64(lost) != l.Dropped() {
		t.Fatalf("%d read and %d lost of %d; %d count as dropped", got, lost, n, l.Dropped())
	}
}

// BenchmarkLiveAppend appends without a waiting reader.
func BenchmarkLiveAppend(b *testing.B) {
	l := newLive(b, store.LiveOptions{Partitions: 1})
	value := make([]byte, 200)
	b.ReportAllocs()
	for range b.N {
		if _, err := l.Append(context.Background(), 0, value); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLiveWake sends one entry to a waiting reader and the answer back: two appends
// and two wake-ups.
func BenchmarkLiveWake(b *testing.B) {
	l := newLive(b, store.LiveOptions{Partitions: 2})
	ctx := context.Background()
	var group sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for side := range int32(2) {
		group.Go(func() {
			for i := range int64(b.N) {
				if side == 0 {
					if _, err := l.Append(ctx, 0, nil); err != nil {
						b.Error(err)
						return
					}
				}
				if _, err := l.Read(ctx, 1-side, i, 1); err != nil {
					b.Error(err)
					return
				}
				if side == 1 {
					if _, err := l.Append(ctx, 1, nil); err != nil {
						b.Error(err)
						return
					}
				}
			}
		})
	}
	group.Wait()
}
