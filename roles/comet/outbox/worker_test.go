package outbox_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"imgo/roles/comet/outbox"
	"imgo/transport/batch"
)

// batchConn is a polled connection that takes frames in batches. The kernel's
// result is what TryWriteOne says.
type batchConn struct {
	polledConn
	started int
}

func (c *batchConn) StartWrite(b *batch.Batch, frame []byte) bool {
	b.Add(-1, frame) // no socket: the kernel refuses it
	c.started++
	return true
}

func (c *batchConn) FinishWrite(frame []byte, _ int32) (taken, left int, err error) {
	return c.TryWriteOne(frame)
}

// TestWorker: a worker writes to each outbox in order, and what it has held goes
// out with the flush.
func TestWorker(t *testing.T) {
	const outboxes = 100
	shared := newShared(1 << 20)
	w := outbox.NewWorker(shared)
	var owners []*owner
	for range outboxes {
		o := newOwner(t, shared, &polledConn{room: 1 << 10})
		o.start("first")
		owners = append(owners, o)
	}
	each := func(do func(o *owner)) {
		w.Begin(outboxes)
		defer w.End()
		for _, o := range owners {
			w.Lock(&o.out)
			do(o)
			w.Unlock(&o.out)
		}
	}
	each(func(o *owner) { w.EnqueueLocked(o, []byte("a"), 1) })
	for i, frame := range []string{"b", "c"} {
		each(func(o *owner) {
			o.out.HoldLocked()
			w.EnqueueLocked(o, []byte(frame), uint64(i+2))
		})
	}
	each(func(o *owner) { w.FlushLocked(o) })
	each(func(o *owner) {
		o.out.HoldLocked()
		w.EnqueueLocked(o, []byte("d"), 4)
	})
	each(func(o *owner) { w.FlushLocked(o) })
	for _, o := range owners {
		if got := o.out.Conn().(*polledConn).received(o); got != "firstabcd" {
			t.Fatalf("received %q", got)
		}
		o.wantIDs(1, 2, 3, 4)
	}
	if n := shared.PendingBytes(); n != 0 {
		t.Errorf("%d bytes are pending", n)
	}
}

// TestWorkersMeet: workers that write to the same outboxes in different order do
// not wait for each other for ever. (Where the kernel lends no batches this is a
// test of the locks alone.)
func TestWorkersMeet(t *testing.T) {
	const outboxes, workers, rounds = 2 * batch.Size, 4, 50
	pool, err := batch.NewPool(workers)
	if err != nil {
		t.Log(err)
	}
	defer pool.Close()
	shared := outbox.NewShared(outbox.Config{PendingBytes: 1 << 20, WriteTimeout: writeTimeout, Batches: pool})
	var owners []*owner
	for range outboxes {
		o := newOwner(t, shared, &batchConn{polledConn: polledConn{room: 1 << 20}})
		o.start("")
		owners = append(owners, o)
	}
	var wg sync.WaitGroup
	for k := range workers {
		wg.Go(func() {
			w := outbox.NewWorker(shared)
			for n := range rounds {
				w.Begin(outboxes)
				for i := range owners {
					if k%2 == 1 {
						i = outboxes - 1 - i
					}
					o := owners[i]
					w.Lock(&o.out)
					w.EnqueueLocked(o, fmt.Appendf(nil, "%d:%d ", k, n), 0)
					w.Unlock(&o.out)
				}
				w.End()
			}
		})
	}
	wg.Wait()
	for i, o := range owners {
		conn := o.out.Conn().(*batchConn)
		var next [workers]int
		for _, field := range strings.Fields(string(conn.got)) {
			var k, n int
			if _, err := fmt.Sscanf(field, "%d:%d", &k, &n); err != nil || n != next[k] {
				t.Fatalf("outbox %d got %q, of worker %d it wants %d", i, field, k, next[k])
			}
			next[k]++
		}
		for k, n := range next {
			if n != rounds {
				t.Fatalf("outbox %d got %d frames of worker %d", i, n, k)
			}
		}
		if pool != nil && conn.started == 0 {
			t.Fatalf("nothing for outbox %d went by way of a batch", i)
		}
	}
}
