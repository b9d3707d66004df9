package store_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/store"
	"imgo/store/logtest"
)

func TestLogConforms(t *testing.T) {
	type opened struct {
		db  *store.DB
		dir string
	}
	logs := map[logtest.Log]opened{}
	open := func(t *testing.T, dir string) logtest.Log {
		// A small tail, so that reads are answered from the disk as well.
		db := openDB(t, store.Options{Dir: dir})
		l := openLog(t, db, store.LogOptions{Partitions: 3, TailBytes: 4 << 10})
		run(t, l)
		logs[l] = opened{db, dir}
		return l
	}
	logtest.Run(t, func(t *testing.T) logtest.Log { return open(t, t.TempDir()) }, logtest.Options{
		Reopen: func(t *testing.T, l logtest.Log) logtest.Log {
			if err := errors.Join(l.(*store.Log).Close(), logs[l].db.Close()); err != nil {
				t.Fatalf("close: %v", err)
			}
			return open(t, logs[l].dir)
		},
		Close: func(t *testing.T, l logtest.Log) {
			if err := l.(*store.Log).Close(); err != nil {
				t.Fatalf("Close: %v", err)
			}
		},
	})
}

// TestRecent shows that Recent returns the same entries as Read as long as they are in
// memory. It never waits or reads the disk.
func TestRecent(t *testing.T) {
	l := openLog(t, openDB(t, store.Options{Dir: t.TempDir()}), store.LogOptions{Partitions: 2, TailBytes: 2 << 10})
	run(t, l)
	const records, size = 100, 100
	var appended sync.WaitGroup
	appended.Go(func() {
		for i := range records {
			if _, err := l.Append(t.Context(), 1, bytes.Repeat([]byte{byte(i)}, size)); err != nil {
				t.Error(err)
			}
		}
	})
	for next := int64(0); next < records; { // while records are appended
		for _, e := range l.Recent(1, next, 1<<20) {
			if e.Offset != next || e.Value[0] != byte(next) {
				t.Fatalf("offset %d with %d after %d", e.Offset, e.Value[0], next)
			}
			next++
		}
		if begin, end, err := l.Bounds(t.Context(), 1); err != nil || begin != 0 || next < end-10 {
			next = end // the entry is no longer in memory
		}
	}
	appended.Wait()
	got := l.Recent(1, records-5, 3*size)
	want, err := l.Read(t.Context(), 1, records-5, 3*size)
	if err != nil || len(got) != 3 || len(want) != 3 || got[2].Offset != want[2].Offset {
		t.Errorf("recent gives %d entries, read %d, %v", len(got), len(want), err)
	}
	for name, entries := range map[string][]envelope.Entry{
		"no longer in memory":  l.Recent(1, 0, 1<<20),
		"the end":              l.Recent(1, records, 1<<20),
		"past the end":         l.Recent(1, records+1, 1<<20),
		"an empty partition":   l.Recent(0, 0, 1<<20),
		"no partition of ours": l.Recent(2, 0, 1<<20),
	} {
		if len(entries) > 0 {
			t.Errorf("%s: %d entries", name, len(entries))
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if entries := l.Recent(1, records-1, 1<<20); len(entries) > 0 {
		t.Errorf("a closed log: %d entries", len(entries))
	}
}

// A new log begins at the wanted offset. An existing one goes on where it is.
func TestLogBeginsAtFirst(t *testing.T) {
	db := openDB(t, store.Options{Dir: t.TempDir()})
	l := openLog(t, db, store.LogOptions{Partitions: 2, First: 1_000_000_000_000})
	stop := run(t, l)
	for i := range int64(3) {
		if offset, err := l.Append(t.Context(), 1, []byte("x")); err != nil || offset != 1_000_000_000_000+i {
			t.Fatalf("offset %d, %v", offset, err)
		}
	}
	if err := errors.Join(stop(), l.Close()); err != nil {
		t.Fatal(err)
	}
	again := openLog(t, db, store.LogOptions{First: 2_000_000_000_000})
	for p, want := range []int64{0, 3} {
		begin, end, err := again.Bounds(t.Context(), int32(p))
		if err != nil || begin != 1_000_000_000_000 || end != begin+want {
			t.Errorf("partition %d from %d to %d, %v", p, begin, end, err)
		}
	}
	if _, err := again.Read(t.Context(), 1, 0, 1<<20); !errors.Is(err, envelope.ErrOutOfRange) {
		t.Errorf("read before the begin: %v", err)
	}
	if entries, err := again.Read(t.Context(), 1, 1_000_000_000_000, 1<<20); err != nil || len(entries) != 3 {
		t.Errorf("%d entries, %v", len(entries), err)
	}
}

func TestLogShapeIsKept(t *testing.T) {
	db := openDB(t, store.Options{Dir: t.TempDir()})
	l := openLog(t, db, store.LogOptions{Partitions: 7, Generation: 3})
	if l.Partitions() != 7 || l.Generation() != 3 {
		t.Fatalf("%d partitions, generation %d", l.Partitions(), l.Generation())
	}
	if _, err := store.OpenLog(db, store.LogOptions{}); err == nil || !strings.Contains(err.Error(), "open already") {
		t.Fatalf("OpenLog of an open log: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again := openLog(t, db, store.LogOptions{})
	if again.Partitions() != 7 || again.Generation() != 3 {
		t.Fatalf("%d partitions, generation %d", again.Partitions(), again.Generation())
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		opt  store.LogOptions
		want string
	}{
		{store.LogOptions{Partitions: 8}, "set partitions to 7"},
		{store.LogOptions{Partitions: -1}, "-1 partitions"},
		{store.LogOptions{Generation: 4}, "set the generation to 3"},
		{store.LogOptions{First: -1}, "the first offset is -1"},
		{store.LogOptions{AppendFrom: -1}, "the least offset is -1"},
	} {
		if _, err := store.OpenLog(db, test.opt); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("OpenLog(%+v): %v, want it to say %q", test.opt, err, test.want)
		}
	}
	db = openDB(t, store.Options{Dir: t.TempDir()})
	if _, err := store.OpenLog(db, store.LogOptions{}); err == nil || !strings.Contains(err.Error(), "no number of partitions") {
		t.Fatalf("OpenLog of a new log without a number of partitions: %v", err)
	}
	if fresh := openLog(t, db, store.LogOptions{Partitions: 2}); fresh.Generation() != 1 {
		t.Fatalf("a new log has generation %d", fresh.Generation())
	}
}

// readAll reads a partition from offset 0. The index of an entry is its offset.
func readAll(t testing.TB, l *store.Log, partition int32) (all []envelope.Entry) {
	t.Helper()
	_, end, err := l.Bounds(t.Context(), partition)
	if err != nil {
		t.Fatal(err)
	}
	for int64(len(all)) < end {
		entries, err := l.Read(t.Context(), partition, int64(len(all)), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Offset != int64(len(all)) {
				t.Fatalf("partition %d: offset %d at %d", partition, e.Offset, len(all))
			}
			all = append(all, e)
		}
	}
	return all
}

func TestAppendsShareATransaction(t *testing.T) {
	reg := prometheus.NewRegistry()
	l := openLog(t, openDB(t, store.Options{Dir: t.TempDir(), Metrics: reg}), store.LogOptions{Partitions: 16})
	const callers = 64
	var group sync.WaitGroup
	for i := range callers {
		group.Go(func() {
			if _, err := l.Append(t.Context(), int32(i%16), []byte("x")); err != nil {
				t.Errorf("Append: %v", err)
			}
		})
	}
	// Nothing is committed before Run, so all requests wait in the queue.
	eventually(t, "all are queued", func() bool { return gauge(t, reg, "imgo_store_log_queue_requests") == callers })
	run(t, l)
	group.Wait()
	if n := l.Commits(); n != 1 {
		t.Fatalf("%d appends took %d transactions, want 1", callers, n)
	}
	for name, want := range map[string]uint64{"imgo_store_log_append_seconds": callers, "imgo_store_log_commit_records": 1} {
		if got := samples(t, reg, name); got != want {
			t.Errorf("%s has %d samples, want %d", name, got, want)
		}
	}
}

// gauge returns the value of a metric, or the sum over its labels.
func gauge(t testing.TB, reg *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatalf("Gather: %v", err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// samples returns the number of observations of a histogram.
func samples(t testing.TB, reg *prometheus.Registry, name string) (n uint64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatalf("Gather: %v", err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				n += m.GetHistogram().GetSampleCount()
			}
		}
	}
	return n
}

func TestLargeGroupIsSplit(t *testing.T) {
	l := openLog(t, openDB(t, store.Options{Dir: t.TempDir()}), store.LogOptions{Partitions: 2, QueueBytes: 1 << 20})
	run(t, l)
	// Larger than a transaction, and than the queue.
	entries := make([]envelope.Entry, 40)
	for i := range entries {
		entries[i] = envelope.Entry{Partition: int32(i % 2), Value: bytes.Repeat([]byte{byte(i)}, 200<<10)}
	}
	if err := l.AppendMany(t.Context(), entries); err != nil {
		t.Fatalf("AppendMany: %v", err)
	}
	if n := l.Commits(); n < 2 {
		t.Fatalf("%d transactions for 8 MB, want several", n)
	}
	many := make([]envelope.Entry, 60_000)
	for i := range many {
		many[i].Value = []byte("y")
	}
	if err := l.AppendMany(t.Context(), many); err != nil {
		t.Fatalf("AppendMany of many small ones: %v", err)
	}
	for p := range int32(2) {
		for i, e := range readAll(t, l, p)[:20] {
			if want := byte(2*i) + byte(p); len(e.Value) != 200<<10 || e.Value[0] != want {
				t.Fatalf("partition %d offset %d: entry %d, want %d", p, i, e.Value[0], want)
			}
		}
	}
	if _, err := l.Append(t.Context(), 0, make([]byte, store.MaxRecordBytes)); err != nil {
		t.Fatalf("Append of the largest record: %v", err)
	}
	if _, err := l.Append(t.Context(), 0, make([]byte, store.MaxRecordBytes+1)); !errors.Is(err, envelope.ErrTooLarge) {
		t.Fatalf("Append of one more byte: %v, want too large", err)
	}
}

func TestQueueIsBounded(t *testing.T) {
	// Without Run nothing leaves the queue.
	reg := prometheus.NewRegistry()
	l := openLog(t, openDB(t, store.Options{Dir: t.TempDir(), Metrics: reg}), store.LogOptions{Partitions: 4, QueueBytes: 1000})
	appends := func(ctx context.Context, n int) <-chan error {
		errs := make(chan error, n)
		for range n {
			go func() {
				_, err := l.Append(ctx, 0, make([]byte, 300))
				errs <- err
			}()
		}
		return errs
	}
	const fit = 1000 / 364
	in, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	queued := appends(in, fit)
	eventually(t, "there is room for no more", func() bool { return gauge(t, reg, "imgo_store_log_queue_requests") == fit })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	waiting := appends(ctx, 8)
	for range cap(waiting) {
		if err := <-waiting; !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "room in its queue") {
			t.Fatalf("Append: %v, want it to wait for room", err)
		}
	}
	giveUp()
	for range cap(queued) {
		if err := <-queued; !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "room in its queue") {
			t.Fatalf("Append: %v, want it to wait for the commit", err)
		}
	}
	// Appends that their callers gave up are committed all the same, in order.
	run(t, l)
	offset, err := l.Append(t.Context(), 0, []byte("after"))
	if err != nil || offset != 2 {
		t.Fatalf("Append: offset %d, %v; want 2", offset, err)
	}
}

func TestFailedCommitFailsItsCallers(t *testing.T) {
	reg := prometheus.NewRegistry()
	l := openLog(t, openDB(t, store.Options{Dir: t.TempDir(), Metrics: reg}), store.LogOptions{Partitions: 2})
	boom := errors.New("boom")
	l.FailCommits(1, boom)
	var group sync.WaitGroup
	var failed atomic.Int32
	for i := range 10 {
		group.Go(func() {
			if _, err := l.Append(t.Context(), int32(i%2), []byte("lost")); errors.Is(err, boom) {
				failed.Add(1)
			}
		})
	}
	// An 11th call with two entries is in the same group.
	group.Go(func() {
		if err := l.AppendMany(t.Context(), make([]envelope.Entry, 2)); errors.Is(err, boom) {
			failed.Add(1)
		}
	})
	eventually(t, "all are queued", func() bool { return gauge(t, reg, "imgo_store_log_queue_requests") == 11 })
	run(t, l)
	group.Wait()
	if failed.Load() != 11 {
		t.Fatalf("%d of 11 failed", failed.Load())
	}
	for p := range int32(2) {
		if _, end, err := l.Bounds(t.Context(), p); err != nil || end != 0 {
			t.Fatalf("partition %d ends at %d, %v: a failed commit must not show", p, end, err)
		}
		offset, err := l.Append(t.Context(), p, []byte("kept"))
		if err != nil || offset != 0 {
			t.Fatalf("Append: offset %d, %v; want 0", offset, err)
		}
		if got := readAll(t, l, p); string(got[0].Value) != "kept" {
			t.Fatalf("offset 0: %q", got[0].Value)
		}
	}
}

func TestBrokenDiskEndsTheLog(t *testing.T) {
	db := openDB(t, store.Options{Dir: t.TempDir()})
	l := openLog(t, db, store.LogOptions{Partitions: 4})
	stop := run(t, l)
	if _, err := l.Append(t.Context(), 0, []byte("good")); err != nil {
		t.Fatalf("Append: %v", err)
	}
	_ = db.BreakDisk(errors.New("sync: input/output error"))
	for range 2 {
		_, err := l.Append(t.Context(), 0, []byte("bad"))
		if !errors.Is(err, store.ErrBroken) || !strings.Contains(err.Error(), "input/output") {
			t.Fatalf("Append on a broken disk: %v", err)
		}
	}
	if err := stop(); !errors.Is(err, store.ErrBroken) {
		t.Fatalf("Run: %v, want it to end with the error", err)
	}
}

func TestRunDrainsTheQueue(t *testing.T) {
	reg := prometheus.NewRegistry()
	l := openLog(t, openDB(t, store.Options{Dir: t.TempDir(), Metrics: reg}), store.LogOptions{Partitions: 4})
	const n = 20
	errs := make(chan error, n)
	for range n {
		go func() {
			_, err := l.Append(context.Background(), 0, []byte("x"))
			errs <- err
		}()
	}
	eventually(t, "all are queued", func() bool { return gauge(t, reg, "imgo_store_log_queue_requests") == n })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Run(ctx); err != nil {
		t.Fatalf("Run: %v", err)
	}
	for range n {
		if err := <-errs; err != nil {
			t.Fatalf("queued Append: %v", err)
		}
	}
	if _, err := l.Append(t.Context(), 0, nil); !errors.Is(err, envelope.ErrClosed) {
		t.Fatalf("Append after Run: %v, want closed", err)
	}
}

func TestCloseWithoutRunFailsTheQueue(t *testing.T) {
	reg := prometheus.NewRegistry()
	l := openLog(t, openDB(t, store.Options{Dir: t.TempDir(), Metrics: reg}), store.LogOptions{Partitions: 4, QueueBytes: 100})
	errs := make(chan error, 5)
	for range cap(errs) { // most of them wait for room
		go func() {
			_, err := l.Append(context.Background(), 0, []byte("x"))
			errs <- err
		}()
	}
	eventually(t, "one is queued", func() bool { return gauge(t, reg, "imgo_store_log_queue_requests") == 1 })
	if err := l.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	for range cap(errs) {
		if err := <-errs; !errors.Is(err, envelope.ErrClosed) {
			t.Fatalf("Append: %v, want closed", err)
		}
	}
	if err := l.Run(t.Context()); err != nil {
		t.Fatalf("Run after Close: %v", err)
	}
}

func TestLogMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	db := openDB(t, store.Options{Dir: t.TempDir(), Metrics: reg})
	l := openLog(t, db, store.LogOptions{Partitions: 2})
	run(t, l)
	if err := l.AppendMany(t.Context(), []envelope.Entry{{}, {}, {Partition: 1}}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]float64{
		"imgo_store_log_end_offset":   3,
		"imgo_store_log_begin_offset": 0,
		"imgo_store_log_entries":      3,
	} {
		if got := gauge(t, reg, name); got != want {
			t.Errorf("%s = %v, want %v", name, got, want)
		}
	}
	if gauge(t, reg, "imgo_store_disk_free_bytes") <= 0 {
		t.Error("imgo_store_disk_free_bytes is not above 0")
	}
	if _, err := store.Open(store.Options{Dir: t.TempDir(), Metrics: reg, Log: zerolog.Nop()}); err == nil {
		t.Error("a second store with the same registry: no error")
	}
	if err := errors.Join(l.Close(), db.Close()); err != nil {
		t.Fatal(err)
	}
	if families, err := reg.Gather(); err != nil || len(families) != 0 {
		t.Errorf("%d metrics are left after Close, %v", len(families), err)
	}
}

// BenchmarkLogAppend64 measures 64 callers that append 200 bytes each.
func BenchmarkLogAppend64(b *testing.B) {
	l := openLog(b, openDB(b, store.Options{Dir: b.TempDir()}), store.LogOptions{Partitions: 16})
	run(b, l)
	value := bytes.Repeat([]byte("x"), 200)
	var left atomic.Int64
	left.Store(int64(b.N))
	var group sync.WaitGroup
	b.ResetTimer()
	for g := range 64 {
		group.Go(func() {
			for left.Add(-1) >= 0 {
				if _, err := l.Append(context.Background(), int32(g%16), value); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64(b.N)/float64(l.Commits()), "records/commit")
}
