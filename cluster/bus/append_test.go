package bus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"imgo/cluster/bus"
	"imgo/cluster/bus/kafkatest"
	"imgo/envelope"
)

// stoppable is a Kafka that a test can stop and start again.
type stoppable interface {
	Brokers() []string
	stop(t *testing.T)
	start(t *testing.T)
}

// shortWrite is the write timeout of tests that wait for its end.
const shortWrite = time.Second

// appended is a record that was reported as appended, and the reported offset.
type appended struct {
	value  string
	offset int64
}

// appendThrough appends from several callers to partition 1 while during runs, and
// until each of them has succeeded once after it. It returns the records that were
// reported as appended.
func appendThrough(t *testing.T, l *bus.Log, during func()) []appended {
	t.Helper()
	var mu sync.Mutex
	var all []appended
	done := make(chan struct{})
	var group sync.WaitGroup
	for caller := range 8 {
		group.Go(func() {
			ended := false
			for i := 0; ; i++ {
				select {
				case <-done:
					ended = true
				default:
				}
				value := fmt.Sprintf("%d/%d", caller, i)
				offset, err := l.Append(testContext(t), 1, []byte(value))
				switch {
				case err == nil:
					mu.Lock()
					all = append(all, appended{value, offset})
					mu.Unlock()
					if ended {
						return
					}
				case !errors.Is(err, envelope.ErrUnavailable):
					t.Errorf("Append: %v, want unavailable", err)
					return
				}
			}
		})
	}
	during()
	close(done)
	group.Wait()
	return all
}

// checkAppended reads partition 1 and checks that each reported record is at its
// reported offset.
func checkAppended(t *testing.T, l *bus.Log, all []appended) {
	t.Helper()
	begin, end, err := l.Bounds(testContext(t), 1)
	if err != nil {
		t.Fatalf("Bounds: %v", err)
	}
	at := map[int64]string{}
	for from := begin; from < end; {
		entries, err := l.Read(testContext(t), 1, from, 1<<20)
		if err != nil {
			t.Fatalf("Read from %d: %v", from, err)
		}
		for _, e := range entries {
			at[e.Offset] = string(e.Value)
		}
		from = entries[len(entries)-1].Offset + 1
	}
	for _, a := range all {
		if at[a.offset] != a.value {
			t.Fatalf("offset %d has %q, but %q was reported there", a.offset, at[a.offset], a.value)
		}
	}
}

// testOutage stops Kafka for longer than appends wait.
func testOutage(t *testing.T, k stoppable) {
	o := options(k.Brokers(), prefix())
	o.WriteTimeout = shortWrite
	o.StartTimeout = waitLimit
	l := kept(t, open(t, o))
	if _, err := l.Append(testContext(t), 1, []byte("before")); err != nil {
		t.Fatalf("Append: %v", err)
	}
	// A reader at the end of the log waits through the outage, and gets the next record.
	_, end, err := l.Bounds(testContext(t), 1)
	if err != nil {
		t.Fatalf("Bounds: %v", err)
	}
	read := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 4*waitLimit)
	defer cancel()
	go func() {
		_, err := l.Read(ctx, 1, end, 1<<20)
		read <- err
	}()
	k.stop(t)
	// The write timeout ends it, not its own deadline.
	if _, err := l.Append(testContext(t), 1, []byte("away")); !errors.Is(err, envelope.ErrUnavailable) {
		t.Fatalf("Append while Kafka is away: %v, want unavailable", err)
	}
	if _, _, err := l.Bounds(testContext(t), 1); !errors.Is(err, envelope.ErrUnavailable) {
		t.Fatalf("Bounds while Kafka is away: %v, want unavailable", err)
	}
	all := appendThrough(t, l, func() { k.start(t) })
	if err := <-read; err != nil {
		t.Fatalf("Read that waited: %v", err)
	}
	all = append(all, appendThrough(t, l, func() {
		k.stop(t)
		k.start(t)
	})...)
	checkAppended(t, l, all)
}

// stoppableFake is a stoppable kafkatest.Fake.
type stoppableFake struct{ *kafkatest.Fake }

func (f stoppableFake) stop(*testing.T)  { f.Stop() }
func (f stoppableFake) start(*testing.T) { f.Resume() }

func TestAppendsGoOnAfterAnOutage(t *testing.T) {
	testOutage(t, stoppableFake{fake(t)})
}

// TestAppendedTwiceIsReportedOnce loses the answers of appends that were carried out.
// Readers use the first copy of a record, so the reported offset must be that one's.
func TestAppendedTwiceIsReportedOnce(t *testing.T) {
	k := fake(t)
	b := open(t, options(k.Brokers(), prefix()))
	l := kept(t, b)
	for _, fresh := range []bool{true, false} {
		first := int64(0)
		if !fresh { // now the log knows the partition's end
			_, end, err := l.Bounds(testContext(t), 0)
			if err != nil {
				t.Fatalf("Bounds: %v", err)
			}
			first = end
		}
		hits := k.AppendTwice(l.Topic(), 2)
		entries := []envelope.Entry{{Value: []byte("again")}, {Value: []byte("and again")}}
		if err := l.AppendMany(testContext(t), entries); err != nil {
			t.Fatalf("AppendMany: %v", err)
		}
		if n := hits(); n != 2 {
			t.Fatalf("%d answers were lost, want 2", n)
		}
		next, err := l.Append(testContext(t), 0, []byte("next"))
		if err != nil {
			t.Fatalf("Append: %v", err)
		}
		if entries[0].Offset != first || entries[1].Offset != first+1 || next != first+6 {
			t.Fatalf("fresh %v: reported %d, %d and %d; want %d, %d and %d",
				fresh, entries[0].Offset, entries[1].Offset, next, first, first+1, first+6)
		}
		for i, want := range []string{"again", "and again", "again", "and again", "again", "and again", "next"} {
			got, err := l.Read(testContext(t), 0, first+int64(i), 1)
			if err != nil || string(got[0].Value) != want {
				t.Fatalf("offset %d: %v, %v; want %q", first+int64(i), got, err, want)
			}
		}
	}
}

func TestRefusedAppendsFailAndRecover(t *testing.T) {
	k := fake(t)
	o := options(k.Brokers(), prefix())
	o.WriteTimeout = shortWrite
	l := kept(t, open(t, o))
	resume := k.RefuseAppends(l.Topic())
	_, err := l.Append(testContext(t), 0, []byte("x"))
	if !errors.Is(err, envelope.ErrUnavailable) || !strings.Contains(err.Error(), "in-sync") {
		t.Fatalf("Append: %v, want unavailable, and why", err)
	}
	entries := []envelope.Entry{{Partition: 0}, {Partition: 1}, {Partition: 2}}
	if err := l.AppendMany(testContext(t), entries); !errors.Is(err, envelope.ErrUnavailable) {
		t.Fatalf("AppendMany: %v, want unavailable", err)
	}
	resume()
	if _, err := l.Append(testContext(t), 0, []byte("x")); err != nil {
		t.Fatalf("Append after it: %v", err)
	}
}

func TestCancelledAppendReturns(t *testing.T) {
	k := fake(t)
	o := options(k.Brokers(), prefix())
	o.WriteTimeout = 2 * waitLimit
	l := kept(t, open(t, o))
	resume := k.RefuseAppends(l.Topic())
	ctx, cancel := context.WithCancel(testContext(t))
	errs := make(chan error, 1)
	go func() {
		_, err := l.Append(ctx, 0, []byte("x"))
		errs <- err
	}()
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled Append: %v, want context.Canceled", err)
	}
	ctx, cancel = context.WithTimeout(testContext(t), 20*time.Millisecond)
	defer cancel()
	if _, err := l.Append(ctx, 0, []byte("x")); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Append past its deadline: %v, want context.DeadlineExceeded", err)
	}
	resume()
}

// TestAbort checks that appends end with Abort although Kafka has not taken them, and that Close does not wait for them.
func TestAbort(t *testing.T) {
	k := fake(t)
	o := options(k.Brokers(), prefix())
	o.WriteTimeout = 2 * waitLimit
	b := open(t, o)
	l, err := b.Log(testContext(t), bus.TopicOptions{Name: "kept", Partitions: 3, QueueBytes: 1000})
	if err != nil {
		t.Fatalf("Log: %v", err)
	}
	tries := k.AppendTwice(l.Topic(), 1<<30)
	ctx := testContext(t)
	errs := make(chan error, 6)
	for range cap(errs) { // more than the queue has space for
		go func() {
			_, err := l.Append(ctx, 0, make([]byte, 300))
			errs <- err
		}()
	}
	eventually(t, "Kafka does not take a record", func() bool { return tries() > 0 })
	b.Abort()
	for range cap(errs) {
		if err := <-errs; !errors.Is(err, envelope.ErrUnavailable) || !strings.Contains(err.Error(), "may still happen") {
			t.Errorf("an aborted append: %v, want unavailable", err)
		}
	}
	if err := b.Close(); err != nil || ctx.Err() != nil {
		t.Errorf("Close: %v, %v", err, ctx.Err())
	}
}

// hasRoom reports whether the queue takes a record of so many bytes now.
func hasRoom(l *bus.Log, partition int32, size int) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err := l.Append(ctx, partition, make([]byte, size))
	return err == nil || !strings.Contains(err.Error(), "room in the queue")
}

// fillQueue appends n records of size bytes each to a partition that takes none, until
// there is no room for another. The callers go with leave, or when the test ends.
func fillQueue(t *testing.T, l *bus.Log, partition int32, n, size int) (leave func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var callers sync.WaitGroup
	for range n {
		callers.Go(func() { _, _ = l.Append(ctx, partition, make([]byte, size)) })
	}
	leave = func() {
		cancel()
		callers.Wait()
	}
	t.Cleanup(leave)
	eventually(t, "the queue is full", func() bool { return !hasRoom(l, partition, size) })
	return leave
}

// TestFullPartitionStopsNoOther has one partition that takes no records. Its records fill
// its queue, and leave it with their callers.
func TestFullPartitionStopsNoOther(t *testing.T) {
	k := fake(t)
	o := options(k.Brokers(), prefix())
	o.WriteTimeout = 4 * waitLimit
	l := kept(t, open(t, o))
	resume := k.RefuseAppends(l.Topic(), 0)
	defer resume() // the log waits for its records when it is closed
	const size = bus.MaxRecordBytes
	leave := fillQueue(t, l, 0, 20, size)
	both := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		both <- l.AppendMany(ctx, []envelope.Entry{{Partition: 0, Value: make([]byte, size)}, {Partition: 1, Value: make([]byte, size)}})
	}()
	for range 3 {
		for partition := range int32(2) {
			if _, err := l.Append(testContext(t), partition+1, make([]byte, size)); err != nil {
				t.Fatalf("Append to partition %d: %v", partition+1, err)
			}
		}
	}
	cancel()
	if err := <-both; !errors.Is(err, context.Canceled) {
		t.Fatalf("AppendMany to a full partition and another: %v, want context.Canceled", err)
	}
	leave()
	eventually(t, "the records of callers that have gone leave the queue", func() bool { return hasRoom(l, 0, size) })
}

// TestQueueIsBounded fills the queue while Kafka is away.
func TestQueueIsBounded(t *testing.T) {
	k := fake(t)
	o := options(k.Brokers(), prefix())
	o.WriteTimeout = 2 * waitLimit
	b := open(t, o)
	l, err := b.Log(testContext(t), bus.TopicOptions{Name: "kept", Partitions: 3, QueueBytes: 1000})
	if err != nil {
		t.Fatalf("Log: %v", err)
	}
	k.Stop()
	// Each record counts with 200 bytes and 64 more.
	fillQueue(t, l, 0, 3, 200)
	// A call that is larger than the queue waits until the queue is empty.
	errs := make(chan error, 1)
	go func() {
		_, err := l.Append(testContext(t), 0, make([]byte, 5000))
		errs <- err
	}()
	k.Resume()
	if err := <-errs; err != nil {
		t.Fatalf("Append of more than the queue takes: %v", err)
	}
	if _, err := l.Append(testContext(t), 0, make([]byte, 200)); err != nil {
		t.Fatalf("Append after it: %v", err)
	}
}

func TestFullQueueRefusesAppends(t *testing.T) {
	k := fake(t)
	o := options(k.Brokers(), prefix())
	o.WriteTimeout = shortWrite
	l, err := open(t, o).Log(testContext(t), bus.TopicOptions{Name: "kept", Partitions: 3, QueueBytes: 1000})
	if err != nil {
		t.Fatalf("Log: %v", err)
	}
	resume := k.RefuseAppends(l.Topic())
	defer resume()
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if _, err := l.Append(testContext(t), 0, make([]byte, 800)); !errors.Is(err, envelope.ErrUnavailable) {
				t.Errorf("Append: %v, want unavailable", err)
			}
		})
	}
	group.Wait()
}

func TestTooLargeRecordIsRefused(t *testing.T) {
	l := kept(t, open(t, options(fake(t).Brokers(), prefix())))
	if _, err := l.Append(testContext(t), 0, make([]byte, bus.MaxRecordBytes+1)); !errors.Is(err, envelope.ErrTooLarge) {
		t.Fatalf("Append: %v, want too large", err)
	}
}

func TestCompressionKinds(t *testing.T) { testCompressions(t, fake(t).Brokers()) }

func testCompressions(t *testing.T, brokers []string) {
	for _, kind := range []string{"", "none", "gzip", "snappy", "lz4", "zstd"} {
		t.Run("kind "+kind, func(t *testing.T) {
			o := options(brokers, prefix())
			o.Compression = kind
			l := kept(t, open(t, o))
			entries := make([]envelope.Entry, 100)
			for i := range entries {
				entries[i].Value = []byte(strings.Repeat(fmt.Sprint(i), 100))
			}
			if err := l.AppendMany(testContext(t), entries); err != nil {
				t.Fatalf("AppendMany: %v", err)
			}
			for n := 0; n < len(entries); {
				got, err := l.Read(testContext(t), 0, int64(n), 1<<20)
				if err != nil {
					t.Fatalf("Read: %v", err)
				}
				for _, e := range got {
					if string(e.Value) != string(entries[n].Value) {
						t.Fatalf("offset %d: %q, want %q", e.Offset, e.Value, entries[n].Value)
					}
					n++
				}
			}
		})
	}
	o := options(brokers, prefix())
	o.Compression = "rar"
	if _, err := bus.Open(testContext(t), o); err == nil || !strings.Contains(err.Error(), `"rar"`) {
		t.Fatalf("Open with compression rar: %v, want an error that names it", err)
	}
}
