// Package logtest is the conformance suite of imgo's log. Every implementation must pass it: in
// memory, in Badger and on Kafka. Only tests import it. It depends on no implementation.
package logtest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"imgo/envelope"
)

// Log has the methods that callers of a log use.
type Log interface {
	Partitions() int32
	Generation() uint16
	Append(ctx context.Context, partition int32, value []byte) (offset int64, err error)
	AppendMany(ctx context.Context, entries []envelope.Entry) error
	Read(ctx context.Context, partition int32, from int64, maxBytes int) ([]envelope.Entry, error)
	Bounds(ctx context.Context, partition int32) (begin, end int64, err error)
}

// Options describe an implementation to the suite.
type Options struct {
	// MaxValue is the size in bytes of the largest value that the tests append. 0 means 512 KiB.
	MaxValue int
	// Appends is the number of records that each of 64 goroutines appends. 0 means 100.
	Appends int
	// Reopen closes a log and opens it again with its records. It is nil if the log is not durable.
	Reopen func(t *testing.T, log Log) Log
	// Close closes a log during a read. It is nil if the log cannot be closed.
	Close func(t *testing.T, log Log)
}

// waitLimit bounds every wait.
const waitLimit = 30 * time.Second

// Run tests the logs that open returns. Each must be empty and running, and must have at least 3
// partitions. open registers its clean-up with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) Log, opt Options) {
	opt.MaxValue = cmp.Or(opt.MaxValue, 512<<10)
	opt.Appends = cmp.Or(opt.Appends, 100)
	tests := []struct {
		name string
		run  func(t *testing.T, l Log, opt Options)
	}{
		{"Shape", testShape},
		{"OrderAndContiguousOffsets", testOrder},
		{"ReadFromTheMiddle", testMiddle},
		{"MaxBytes", testMaxBytes},
		{"ConcurrentAppenders", testConcurrent},
		{"BlockingReads", testBlocking},
		{"BlockedReadIsCancelled", testCancel},
		{"AppendMany", testAppendMany},
		{"AppendManyOfOneOrderWithAppend", testMixed},
		{"OutOfRange", testOutOfRange},
		{"NoSuchPartition", testNoPartition},
		{"PartitionsAreApart", testApart},
		{"LargeAndEmptyValues", testSizes},
		{"CancelledAppend", testCancelledAppend},
		{"FollowerSeesEverything", testFollow},
		{"Reopen", testReopen},
		{"CloseDuringBlockedRead", testClose},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t), opt) })
	}
}

// testContext returns a context that ends after waitLimit.
func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	t.Cleanup(cancel)
	return ctx
}

// bounds returns the bounds of a partition.
func bounds(t *testing.T, l Log, partition int32) (begin, end int64) {
	t.Helper()
	begin, end, err := l.Bounds(testContext(t), partition)
	if err != nil {
		t.Fatalf("Bounds of partition %d: %v", partition, err)
	}
	return begin, end
}

// add appends a value to a partition and returns its offset.
func add(t *testing.T, l Log, partition int32, value []byte) int64 {
	t.Helper()
	offset, err := l.Append(testContext(t), partition, value)
	if err != nil {
		t.Fatalf("Append: %v", err)
	}
	return offset
}

// fill appends n values to a partition and returns the offset of the first one.
func fill(t *testing.T, l Log, partition int32, n int, value func(i int) []byte) (first int64) {
	t.Helper()
	_, first = bounds(t, l, partition)
	for i := range n {
		if offset, want := add(t, l, partition, value(i)), first+int64(i); offset != want {
			t.Fatalf("Append %d: offset %d, want %d", i, offset, want)
		}
	}
	return first
}

func numbered(i int) []byte { return fmt.Appendf(nil, "value %d", i) }

// readN reads n entries and checks that their offsets have no gap.
func readN(t *testing.T, l Log, partition int32, from int64, n, maxBytes int) []envelope.Entry {
	t.Helper()
	ctx := testContext(t)
	var all []envelope.Entry
	for len(all) < n {
		entries, err := l.Read(ctx, partition, from, maxBytes)
		if err != nil {
			t.Fatalf("Read partition %d from %d: %v", partition, from, err)
		}
		if len(entries) == 0 {
			t.Fatalf("Read partition %d from %d: no entries and no error", partition, from)
		}
		for _, e := range entries {
			if e.Partition != partition || e.Offset != from {
				t.Fatalf("Read: partition %d offset %d, want %d %d", e.Partition, e.Offset, partition, from)
			}
			from++
		}
		all = append(all, entries...)
	}
	return all
}

// readValues reads n entries and checks their values.
func readValues(t *testing.T, l Log, partition int32, from int64, n, maxBytes int, value func(i int) []byte) {
	t.Helper()
	for i, e := range readN(t, l, partition, from, n, maxBytes) {
		if want := value(i); !bytes.Equal(e.Value, want) {
			t.Fatalf("partition %d offset %d: %d bytes %.100q, want %d bytes %.100q", partition, e.Offset, len(e.Value), e.Value, len(want), want)
		}
	}
}

func testShape(t *testing.T, l Log, _ Options) {
	if n := l.Partitions(); n < 3 {
		t.Fatalf("Partitions = %d, want at least 3", n)
	}
	if g := l.Generation(); g < 1 {
		t.Fatalf("Generation = %d, want at least 1", g)
	}
	for p := range l.Partitions() {
		if begin, end := bounds(t, l, p); begin != end {
			t.Fatalf("Bounds of empty partition %d: %d to %d", p, begin, end)
		}
	}
}

func testOrder(t *testing.T, l Log, _ Options) {
	const n = 50
	first := fill(t, l, 1, n, numbered)
	readValues(t, l, 1, first, n, 1<<20, numbered)
	if begin, end := bounds(t, l, 1); begin != first || end != first+n {
		t.Fatalf("Bounds: %d to %d; want %d to %d", begin, end, first, first+n)
	}
}

func testMiddle(t *testing.T, l Log, _ Options) {
	const n = 30
	first := fill(t, l, 0, n, numbered)
	for _, at := range []int{0, 1, 17, n - 1} {
		entries := readN(t, l, 0, first+int64(at), n-at, 1<<20)
		if want := numbered(at); !bytes.Equal(entries[0].Value, want) {
			t.Fatalf("from %d: %q, want %q", at, entries[0].Value, want)
		}
	}
}

func testMaxBytes(t *testing.T, l Log, _ Options) {
	first := fill(t, l, 0, 10, func(int) []byte { return make([]byte, 1000) })
	for _, max := range []int{0, 1, 1000, 2500, 5000} {
		entries, err := l.Read(testContext(t), 0, first, max)
		if err != nil {
			t.Fatalf("Read with %d bytes: %v", max, err)
		}
		// maxBytes is approximate. An implementation may return one entry more.
		if n := len(entries); n < 1 || n > max/1000+1 {
			t.Fatalf("Read with %d bytes: %d entries of 1000 bytes", max, n)
		}
	}
}

func testConcurrent(t *testing.T, l Log, opt Options) {
	const appenders = 64
	ctx := testContext(t)
	type place struct {
		partition int32
		offset    int64
	}
	var mu sync.Mutex
	at := map[place]string{}
	var group sync.WaitGroup
	for a := range appenders {
		group.Go(func() {
			last := map[int32]int64{}
			for i := range opt.Appends {
				partition := int32((a + i) % 3)
				value := fmt.Sprintf("%d/%d", a, i)
				offset, err := l.Append(ctx, partition, []byte(value))
				if err != nil {
					t.Errorf("Append: %v", err)
					return
				}
				if before, ok := last[partition]; ok && offset <= before {
					t.Errorf("appender %d: offset %d came after %d", a, offset, before)
				}
				last[partition] = offset
				mu.Lock()
				if other, ok := at[place{partition, offset}]; ok {
					t.Errorf("partition %d offset %d was given to %q and to %q", partition, offset, other, value)
				}
				at[place{partition, offset}] = value
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if t.Failed() {
		return
	}
	total := 0
	for partition := range int32(3) {
		begin, end := bounds(t, l, partition)
		for _, e := range readN(t, l, partition, begin, int(end-begin), 1<<16) {
			total++
			if want := at[place{partition, e.Offset}]; string(e.Value) != want {
				t.Fatalf("partition %d offset %d: %q, want %q", partition, e.Offset, e.Value, want)
			}
		}
	}
	if want := appenders * opt.Appends; total != want {
		t.Fatalf("%d records are there, want %d", total, want)
	}
}

func testBlocking(t *testing.T, l Log, _ Options) {
	const readers = 8
	ctx := testContext(t)
	_, end := bounds(t, l, 2)
	var group sync.WaitGroup
	for range readers {
		group.Go(func() {
			entries, err := l.Read(ctx, 2, end, 1<<20)
			if err != nil || len(entries) == 0 || string(entries[0].Value) != "awaited" {
				t.Errorf("blocked Read: %v, %v", entries, err)
			}
		})
	}
	// An entry of another partition must not end the wait.
	add(t, l, 1, []byte("other"))
	add(t, l, 2, []byte("awaited"))
	group.Wait()
}

func testCancel(t *testing.T, l Log, _ Options) {
	_, end := bounds(t, l, 0)
	ctx, cancel := context.WithCancel(testContext(t))
	errs := make(chan error, 1)
	go func() {
		_, err := l.Read(ctx, 0, end, 1<<20)
		errs <- err
	}()
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled Read: %v, want context.Canceled", err)
	}
	ctx, cancel = context.WithTimeout(testContext(t), 10*time.Millisecond)
	defer cancel()
	if _, err := l.Read(ctx, 0, end, 1<<20); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Read past its deadline: %v, want context.DeadlineExceeded", err)
	}
}

func testAppendMany(t *testing.T, l Log, _ Options) {
	ctx := testContext(t)
	const n = 300
	entries := make([]envelope.Entry, n)
	for i := range entries {
		entries[i] = envelope.Entry{Partition: int32(i % 3), Offset: -1, Value: numbered(i)}
	}
	if err := l.AppendMany(ctx, entries); err != nil {
		t.Fatalf("AppendMany: %v", err)
	}
	seen := map[int32]int64{}
	for i, e := range entries {
		if last, ok := seen[e.Partition]; ok && e.Offset != last+1 {
			t.Fatalf("entry %d: offset %d after %d of the same partition", i, e.Offset, last)
		}
		seen[e.Partition] = e.Offset
		got := readN(t, l, e.Partition, e.Offset, 1, 1)[0]
		if !bytes.Equal(got.Value, numbered(i)) {
			t.Fatalf("entry %d at offset %d: %q, want %q", i, e.Offset, got.Value, numbered(i))
		}
	}
	if err := l.AppendMany(ctx, nil); err != nil {
		t.Fatalf("AppendMany of nothing: %v", err)
	}
}

func testMixed(t *testing.T, l Log, _ Options) {
	ctx := testContext(t)
	first := fill(t, l, 0, 1, numbered)
	entries := []envelope.Entry{{Value: numbered(1)}, {Value: numbered(2)}}
	if err := l.AppendMany(ctx, entries); err != nil {
		t.Fatalf("AppendMany: %v", err)
	}
	add(t, l, 0, numbered(3))
	readValues(t, l, 0, first, 4, 1<<20, numbered)
}

func testOutOfRange(t *testing.T, l Log, _ Options) {
	ctx := testContext(t)
	first := fill(t, l, 0, 3, numbered)
	for _, from := range []int64{-1, first - 1, first + 4, first + 1000, 1 << 40} {
		if _, err := l.Read(ctx, 0, from, 1<<20); !errors.Is(err, envelope.ErrOutOfRange) {
			t.Fatalf("Read from %d of %d to %d: %v, want out of range", from, first, first+3, err)
		}
	}
}

func testNoPartition(t *testing.T, l Log, _ Options) {
	ctx := testContext(t)
	for _, p := range []int32{-1, l.Partitions(), 1 << 30} {
		if _, err := l.Append(ctx, p, nil); err == nil {
			t.Errorf("Append to partition %d: no error", p)
		}
		if err := l.AppendMany(ctx, []envelope.Entry{{Partition: 0}, {Partition: p}}); err == nil {
			t.Errorf("AppendMany to partition %d: no error", p)
		}
		if _, err := l.Read(ctx, p, 0, 1); err == nil {
			t.Errorf("Read of partition %d: no error", p)
		}
		if _, _, err := l.Bounds(ctx, p); err == nil {
			t.Errorf("Bounds of partition %d: no error", p)
		}
	}
}

func testApart(t *testing.T, l Log, _ Options) {
	value := func(p int32) func(int) []byte {
		return func(i int) []byte { return fmt.Appendf(nil, "%d:%d", p, i) }
	}
	for p := range l.Partitions() {
		fill(t, l, p, int(p)+1, value(p))
	}
	for p := range l.Partitions() {
		begin, end := bounds(t, l, p)
		if end-begin != int64(p)+1 {
			t.Fatalf("Bounds of partition %d: %d to %d", p, begin, end)
		}
		readValues(t, l, p, begin, int(p)+1, 1<<20, value(p))
	}
}

func testSizes(t *testing.T, l Log, opt Options) {
	sizes := []int{0, 1, 0, 4 << 10, opt.MaxValue, 0, opt.MaxValue, 100}
	value := func(i int) []byte { return bytes.Repeat([]byte{byte(i + 1)}, sizes[i]) }
	first := fill(t, l, 1, len(sizes), value)
	readValues(t, l, 1, first, len(sizes), 1<<20, value)
}

func testCancelledAppend(t *testing.T, l Log, _ Options) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := l.Append(ctx, 0, []byte("x")); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatalf("Append with a cancelled context: %v", err)
	}
	// The append may have succeeded or not. In both cases the log must continue without a gap.
	begin, _ := bounds(t, l, 0)
	last := add(t, l, 0, []byte("y"))
	entries := readN(t, l, 0, begin, int(last-begin)+1, 1<<20)
	if got := entries[len(entries)-1].Value; string(got) != "y" {
		t.Fatalf("last entry: %q, want y", got)
	}
}

func testFollow(t *testing.T, l Log, _ Options) {
	const n = 500
	_, first := bounds(t, l, 0)
	var group sync.WaitGroup
	group.Go(func() { fill(t, l, 0, n, numbered) })
	defer group.Wait()
	readValues(t, l, 0, first, n, 100, numbered)
}

func testReopen(t *testing.T, l Log, opt Options) {
	if opt.Reopen == nil {
		t.Skip("this log keeps nothing")
	}
	partitions, generation := l.Partitions(), l.Generation()
	const n = 40
	first := fill(t, l, 0, n, numbered)
	for range 2 {
		l = opt.Reopen(t, l)
		if l.Partitions() != partitions || l.Generation() != generation {
			t.Fatalf("reopened with %d partitions, generation %d; want %d, %d", l.Partitions(), l.Generation(), partitions, generation)
		}
		readValues(t, l, 0, first, n, 1<<20, numbered)
		for p := int32(1); p < partitions; p++ {
			if begin, end := bounds(t, l, p); begin != end {
				t.Fatalf("Bounds of partition %d: %d to %d; want it empty", p, begin, end)
			}
		}
	}
	if after := fill(t, l, 0, 1, numbered); after != first+n {
		t.Fatalf("the next offset is %d, want %d", after, first+n)
	}
}

func testClose(t *testing.T, l Log, opt Options) {
	if opt.Close == nil {
		t.Skip("this log is not closed")
	}
	ctx := testContext(t)
	_, end := bounds(t, l, 0)
	errs := make(chan error, 4)
	for range cap(errs) {
		go func() {
			_, err := l.Read(ctx, 0, end, 1<<20)
			errs <- err
		}()
	}
	opt.Close(t, l)
	for range cap(errs) {
		if err := <-errs; !errors.Is(err, envelope.ErrClosed) {
			t.Fatalf("Read during Close: %v, want closed", err)
		}
	}
	if _, err := l.Append(ctx, 0, nil); !errors.Is(err, envelope.ErrClosed) {
		t.Fatalf("Append after Close: %v, want closed", err)
	}
	if _, err := l.Read(ctx, 0, end, 1); !errors.Is(err, envelope.ErrClosed) {
		t.Fatalf("Read after Close: %v, want closed", err)
	}
}
