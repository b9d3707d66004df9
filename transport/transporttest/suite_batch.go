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

// testBatches checks that batched and unbatched frames arrive in order. A client whose buffer is
// full must not delay the others. A write to a closed connection must return an error.
func testBatches(t *testing.T, h Harness) {
	type attached struct {
		transport.Pollable
		*wakeSignals
	}
	var conns [2]attached
	var attachedAll, released sync.WaitGroup
	attachedAll.Add(len(conns))
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
		w := &wakeSignals{make(chan struct{}, 8), make(chan struct{}, 8)}
		pollable.Attach(w)
		conns[p.Seq] = attached{pollable, w}
		attachedAll.Done()
		released.Wait()
	})
	var clients [len(conns)]Client
	for i := range clients {
		clients[i] = dial()
		t.Cleanup(func() { _ = clients[i].Close() })
		send(t, clients[i], h.packet(7, int32(i), ""))
	}
	attachedAll.Wait()
	defer released.Done()
	if unpolled.Load() {
		t.Skip("only what epoll waits for is written to in batches")
	}
	pool, err := batch.NewPool(1)
	if err != nil {
		t.Skip(err)
	}
	defer pool.Close()
	b := pool.Get()
	form := h.form()
	if conns[0].Traits().Framed {
		form = form.Framed()
	}
	frame := func(seq, n int) []byte {
		return transport.EncodeReply(form, 1, 5, int32(seq), 0, []byte(body(n)))
	}
	// both writes one frame to each connection in one batch. It returns the number of unwritten
	// bytes of the first.
	both := func(first, second []byte) (left int) {
		t.Helper()
		for i, f := range [][]byte{first, second} {
			if !conns[i].StartWrite(b, f) {
				t.Fatalf("connection %d takes nothing", i)
			}
		}
		results := append([]int32(nil), b.Send()...)
		for i, f := range [][]byte{first, second} {
			taken, l, err := conns[i].FinishWrite(f, results[i])
			if taken != 1 || err != nil {
				t.Fatalf("connection %d: %d taken, %v", i, taken, err)
			}
			if i == 0 {
				left = l
			} else if l != 0 {
				t.Fatalf("%d bytes are left of a client that reads", l)
			}
		}
		return left
	}
	for i := range 10 {
		if left := both(frame(2*i, 10), frame(2*i, 200)); left != 0 {
			t.Fatalf("%d bytes are left of a small frame", left)
		}
		if _, _, err := conns[0].TryWriteOne(frame(2*i+1, 20)); err != nil {
			t.Fatal(err)
		}
		h.expect(t, clients[1], 5, int32(2*i), body(200))
	}
	for i := range 20 {
		h.expect(t, clients[0], 5, int32(i), body(10+10*(i%2)))
	}

	// The first client does not read, until its buffers are full.
	n, written := 0, conns[1].Written()
	for ; ; n++ {
		second := frame(n, 100)
		left := both(frame(n, 8<<10), second)
		written += int64(len(second))
		h.expect(t, clients[1], 5, int32(n), body(100))
		if left > 0 {
			break
		}
	}
	if got := conns[1].Written(); got != written {
		t.Errorf("%d bytes were written, and counted %d", written, got)
	}
	// The kernel may find room for what is left. The connection takes more then.
	for conns[0].StartWrite(b, frame(n+1, 8<<10)) {
		n++
		if taken, _, err := conns[0].FinishWrite(frame(n, 8<<10), b.Send()[0]); taken != 1 || err != nil || n > 10_000 {
			t.Fatalf("frame %d to a client that does not read: %d taken, %v", n, taken, err)
		}
	}
	if b.Len() != 0 {
		t.Fatal("a connection that takes no frame has a part in the batch")
	}
	for i := range n + 1 {
		h.expect(t, clients[0], 5, int32(i), body(8<<10))
	}
	receive(t, "Writable", conns[0].writable)
	if left := both(frame(n+1, 10), frame(n+1, 10)); left != 0 {
		t.Errorf("%d bytes are left once there was room", left)
	}
	h.expect(t, clients[0], 5, int32(n+1), body(10))
	h.expect(t, clients[1], 5, int32(n+1), body(10))

	// Between StartWrite and FinishWrite the connection accepts no other frame.
	reserve := func(first []byte) (finish func() int) {
		t.Helper()
		second := frame(n+2, 10)
		if !conns[0].StartWrite(b, first) || !conns[1].StartWrite(b, second) {
			t.Fatal("an idle connection takes nothing")
		}
		return func() (left int) {
			t.Helper()
			results := append([]int32(nil), b.Send()...)
			_, left, err := conns[0].FinishWrite(first, results[0])
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := conns[1].FinishWrite(second, results[1]); err != nil {
				t.Fatal(err)
			}
			h.expect(t, clients[1], 5, int32(n+2), body(10))
			return left
		}
	}
	finish := reserve(frame(n+2, 30))
	if conns[0].StartWrite(b, frame(n+3, 10)) {
		t.Fatal("a reserved connection takes another frame for a batch")
	}
	for range 2 {
		if taken, left, err := conns[0].TryWriteOne(frame(n+3, 10)); taken != 0 || left == 0 || err != nil {
			t.Fatalf("a reserved connection takes %d frames, %d bytes left, %v", taken, left, err)
		}
	}
	if left := finish(); left != 0 {
		t.Errorf("%d bytes are left of a small frame", left)
	}
	receive(t, "Writable", conns[0].writable)
	if _, _, err := conns[0].TryWriteOne(frame(n+3, 10)); err != nil {
		t.Fatal(err)
	}
	h.expect(t, clients[0], 5, int32(n+2), body(30))
	h.expect(t, clients[0], 5, int32(n+3), body(10))

	// A connection that is closed in this interval still sends the frame before the end.
	finish = reserve(frame(n+4, 40))
	_ = conns[0].Close(protocol.CloseKicked, "enough")
	if conns[0].TryRelease() {
		t.Fatal("a reserved connection is released")
	}
	finish()
	h.expect(t, clients[0], 5, int32(n+4), body(40))
	if rest, err := clients[0].Next(); err == nil {
		t.Errorf("a closed connection sends %q", rest)
	}
	if conns[0].StartWrite(b, frame(0, 10)) || b.Len() != 0 {
		t.Error("a closed connection takes a frame")
	}
	if _, _, err := conns[0].TryWriteOne(frame(0, 10)); err == nil {
		t.Error("a closed connection takes a frame by itself")
	}
}
