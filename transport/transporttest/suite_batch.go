package transporttest

import (
	"sync"
	"sync/atomic"
	"testing"

	"imgo/protocol"
	"imgo/transport"
	"imgo/transport/batch"
)

// wakeSignals is a Waker that reports each call on a channel.
type wakeSignals struct{ readable, writable chan struct{} }

func (w *wakeSignals) Readable(bool) { w.readable <- struct{}{} }
func (w *wakeSignals) Writable()     { w.writable <- struct{}{} }

// batched is a connection of the server that epoll waits for.
type batched struct {
	transport.Pollable
	*wakeSignals
}

// batchWorld has two connections that are written to in batches.
type batchWorld struct {
	Harness
	t       *testing.T
	batch   *batch.Batch
	conns   [2]batched
	clients [2]Client
	form    transport.Form
}

// testBatches checks that batched and unbatched frames arrive in order. A client whose buffer is
// full must not delay the others. A write to a closed connection must return an error.
func testBatches(t *testing.T, h Harness) {
	w := startBatches(t, h)
	w.smallFrames()
	n := w.fullBuffer()
	w.reserved(n)
	w.closed(n + 2)
}

// startBatches starts a world. It skips the test if the connections or the system do not support batches.
func startBatches(t *testing.T, h Harness) *batchWorld {
	w := &batchWorld{Harness: h, t: t}
	var attachedAll, released sync.WaitGroup
	attachedAll.Add(len(w.conns))
	released.Add(1)
	var unpolled atomic.Bool
	dial := h.Start(t, Options{WriteBuffer: 16 << 10}, func(c transport.Conn) {
		p, err := ReadPacket(c)
		pollable, ok := c.(transport.Pollable)
		if err != nil || !ok {
			unpolled.Store(true)
			attachedAll.Done()
			return
		}
		defer pollable.Release()
		signals := &wakeSignals{make(chan struct{}, 8), make(chan struct{}, 8)}
		pollable.Attach(signals)
		w.conns[p.Seq] = batched{pollable, signals}
		attachedAll.Done()
		released.Wait()
	})
	for i := range w.clients {
		w.clients[i] = dial()
		t.Cleanup(func() { _ = w.clients[i].Close() })
		send(t, w.clients[i], h.packet(7, int32(i), ""))
	}
	attachedAll.Wait()
	t.Cleanup(released.Done)
	if unpolled.Load() {
		t.Skip("only what epoll waits for is written to in batches")
	}
	pool, err := batch.NewPool(1)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(pool.Close)
	w.batch = pool.Get()
	w.form = h.form()
	if w.conns[0].Traits().Framed {
		w.form = w.form.Framed()
	}
	return w
}

func (w *batchWorld) frame(seq, n int) []byte {
	return transport.EncodeReply(w.form, 1, 5, int32(seq), 0, []byte(body(n)))
}

// send writes one frame to each connection in one batch. It returns the number of unwritten bytes of the first.
func (w *batchWorld) send(first, second []byte) (left int) {
	w.t.Helper()
	for i, f := range [][]byte{first, second} {
		if !w.conns[i].StartWrite(w.batch, f) {
			w.t.Fatalf("connection %d takes nothing", i)
		}
	}
	results := append([]int32(nil), w.batch.Send()...)
	for i, f := range [][]byte{first, second} {
		taken, l, err := w.conns[i].FinishWrite(f, results[i])
		if taken != 1 || err != nil {
			w.t.Fatalf("connection %d: %d taken, %v", i, taken, err)
		}
		if i == 0 {
			left = l
		} else if l != 0 {
			w.t.Fatalf("%d bytes are left of a client that reads", l)
		}
	}
	return left
}

// arrives checks the next frame of a client.
func (w *batchWorld) arrives(client, seq, n int) {
	w.t.Helper()
	w.expect(w.t, w.clients[client], 5, int32(seq), body(n))
}

// smallFrames mixes batched and unbatched frames.
func (w *batchWorld) smallFrames() {
	for i := range 10 {
		if left := w.send(w.frame(2*i, 10), w.frame(2*i, 200)); left != 0 {
			w.t.Fatalf("%d bytes are left of a small frame", left)
		}
		if _, _, err := w.conns[0].TryWriteOne(w.frame(2*i+1, 20)); err != nil {
			w.t.Fatal(err)
		}
		w.arrives(1, 2*i, 200)
	}
	for i := range 20 {
		w.arrives(0, i, 10+10*(i%2))
	}
}

// fullBuffer has a first client that does not read until its buffers are full. It returns the seq of the next frame.
func (w *batchWorld) fullBuffer() (next int) {
	n, written := 0, w.conns[1].Written()
	for ; ; n++ {
		second := w.frame(n, 100)
		left := w.send(w.frame(n, 8<<10), second)
		written += int64(len(second))
		w.arrives(1, n, 100)
		if left > 0 {
			break
		}
	}
	if got := w.conns[1].Written(); got != written {
		w.t.Errorf("%d bytes were written, and counted %d", written, got)
	}
	// The kernel may find room for what is left. The connection takes more then.
	for w.conns[0].StartWrite(w.batch, w.frame(n+1, 8<<10)) {
		n++
		if taken, _, err := w.conns[0].FinishWrite(w.frame(n, 8<<10), w.batch.Send()[0]); taken != 1 || err != nil || n > 10_000 {
			w.t.Fatalf("frame %d to a client that does not read: %d taken, %v", n, taken, err)
		}
	}
	if w.batch.Len() != 0 {
		w.t.Fatal("a connection that takes no frame has a part in the batch")
	}
	for i := range n + 1 {
		w.arrives(0, i, 8<<10)
	}
	receive(w.t, "Writable", w.conns[0].writable)
	if left := w.send(w.frame(n+1, 10), w.frame(n+1, 10)); left != 0 {
		w.t.Errorf("%d bytes are left once there was room", left)
	}
	w.arrives(0, n+1, 10)
	w.arrives(1, n+1, 10)
	return n + 2
}

// reserve calls StartWrite for both connections. finish sends the batch, and returns the number of unwritten bytes of the
// first.
func (w *batchWorld) reserve(first []byte, seq int) (finish func() (left int)) {
	w.t.Helper()
	second := w.frame(seq, 10)
	if !w.conns[0].StartWrite(w.batch, first) || !w.conns[1].StartWrite(w.batch, second) {
		w.t.Fatal("an idle connection takes nothing")
	}
	return func() (left int) {
		w.t.Helper()
		results := append([]int32(nil), w.batch.Send()...)
		_, left, err := w.conns[0].FinishWrite(first, results[0])
		if err != nil {
			w.t.Fatal(err)
		}
		if _, _, err := w.conns[1].FinishWrite(second, results[1]); err != nil {
			w.t.Fatal(err)
		}
		w.arrives(1, seq, 10)
		return left
	}
}

// reserved checks that a connection accepts no other frame between StartWrite and FinishWrite.
func (w *batchWorld) reserved(n int) {
	finish := w.reserve(w.frame(n, 30), n)
	if w.conns[0].StartWrite(w.batch, w.frame(n+1, 10)) {
		w.t.Fatal("a reserved connection takes another frame for a batch")
	}
	for range 2 {
		if taken, left, err := w.conns[0].TryWriteOne(w.frame(n+1, 10)); taken != 0 || left == 0 || err != nil {
			w.t.Fatalf("a reserved connection takes %d frames, %d bytes left, %v", taken, left, err)
		}
	}
	if left := finish(); left != 0 {
		w.t.Errorf("%d bytes are left of a small frame", left)
	}
	receive(w.t, "Writable", w.conns[0].writable)
	if _, _, err := w.conns[0].TryWriteOne(w.frame(n+1, 10)); err != nil {
		w.t.Fatal(err)
	}
	w.arrives(0, n, 30)
	w.arrives(0, n+1, 10)
}

// closed checks that a connection that is closed between StartWrite and FinishWrite still sends the frame before the end,
// and takes no other.
func (w *batchWorld) closed(n int) {
	finish := w.reserve(w.frame(n, 40), n)
	_ = w.conns[0].Close(protocol.CloseKicked, "enough")
	if w.conns[0].TryRelease() {
		w.t.Fatal("a reserved connection is released")
	}
	finish()
	w.arrives(0, n, 40)
	if rest, err := w.clients[0].Next(); err == nil {
		w.t.Errorf("a closed connection sends %q", rest)
	}
	if w.conns[0].StartWrite(w.batch, w.frame(0, 10)) || w.batch.Len() != 0 {
		w.t.Error("a closed connection takes a frame")
	}
	if _, _, err := w.conns[0].TryWriteOne(w.frame(0, 10)); err == nil {
		w.t.Error("a closed connection takes a frame by itself")
	}
}
