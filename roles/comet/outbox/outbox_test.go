package outbox_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"imgo/protocol"
	"imgo/roles/comet/outbox"
	"imgo/transport"
	"imgo/transport/pipe"
)

// TestOrder: what is queued before the start follows the first frame, and all
// frames leave in the order in which they were queued.
func TestOrder(t *testing.T) {
	bothKinds(t, 100, func(t *testing.T, conn transport.Conn, client peer) {
		o := newOwner(t, newShared(1<<20), conn)
		o.enqueue("a", 1)
		o.enqueue("b", 0)
		if got := client.received(o); got != "" {
			t.Fatalf("%q was written before the start", got)
		}
		o.start("first")
		o.enqueue("c", 2)
		if got := client.received(o); got != "firstabc" {
			t.Fatalf("received %q", got)
		}
		o.wantIDs(1, 2)
		o.locked(func() {
			if !o.out.EmptyLocked() || o.failed != nil {
				t.Errorf("empty %v, failed with %v", o.out.EmptyLocked(), o.failed)
			}
		})
	})
}

// TestHold: a held outbox keeps its frames until it is flushed.
func TestHold(t *testing.T) {
	bothKinds(t, 100, func(t *testing.T, conn transport.Conn, client peer) {
		o := newOwner(t, newShared(1<<20), conn)
		o.start("first")
		client.received(o)
		o.locked(func() {
			if !o.out.HoldLocked() || o.out.HoldLocked() {
				t.Error("HoldLocked is to report only the first of two calls")
			}
		})
		o.enqueue("a", 1)
		o.enqueue("b", 2)
		if got := client.received(o); got != "" {
			t.Fatalf("%q was written while held", got)
		}
		o.flush()
		o.enqueue("c", 0)
		if got := client.received(o); got != "abc" {
			t.Fatalf("received %q", got)
		}
		o.wantIDs(1, 2)
	})
}

// TestPendingBytes: the bound counts what the kernel does not have, and one frame
// over the bound may go alone.
func TestPendingBytes(t *testing.T) {
	const room, bound = 100, 500
	bothKinds(t, room, func(t *testing.T, conn transport.Conn, client peer) {
		shared := newShared(bound)
		o := newOwner(t, shared, conn)
		fits := func(n int) (fits bool) {
			o.locked(func() { fits = o.out.FitsLocked(n) })
			return fits
		}
		o.start(strings.Repeat("x", room))
		if client.received(o); !fits(10 * bound) {
			t.Fatal("a frame over the bound does not fit into an empty outbox")
		}
		o.enqueue(strings.Repeat("y", 2*room), 0)
		synctest.Wait()
		if fits(bound) || !fits(bound/2) {
			t.Errorf("fits: %v and %v", fits(bound), fits(bound/2))
		}
		if n := shared.PendingBytes(); n <= 0 || n > 2*room || shared.Writing() != 1 {
			t.Errorf("%d bytes are pending in %d outboxes", n, shared.Writing())
		}
		if got := client.received(o); len(got) != 2*room {
			t.Errorf("received %d bytes", len(got))
		}
		if n := shared.PendingBytes(); n != 0 || shared.Writing() != 0 {
			t.Errorf("at the end %d bytes are pending in %d outboxes", n, shared.Writing())
		}
	})
}

// TestMakeRoom: what is held for a polled connection is written before a frame that does not fit behind it. For one that
// blocks as much as one push has may be held beside the bound. What waits for the start or for the client has the bound alone.
func TestMakeRoom(t *testing.T) {
	const room, bound, push = 1000, 500, 1 << 20
	bothKinds(t, room, func(t *testing.T, conn transport.Conn, client peer) {
		o := newOwner(t, newShared(bound), conn)
		fits := func(n int) (fits bool) {
			o.locked(func() { fits = o.out.MakeRoomLocked(o, n) })
			return fits
		}
		hold := func(n int) {
			o.locked(func() {
				o.out.HoldLocked()
				o.out.EnqueueLocked(o, []byte(strings.Repeat("x", n)), 0)
			})
		}
		hold(bound)
		if fits(1) {
			t.Error("a frame fits into an outbox that is full and has not begun")
		}
		o.start("first")
		o.flush()
		client.received(o)
		hold(bound - 1)
		if !fits(1) || client.received(o) != "" {
			t.Error("what is held was written before a frame that fits")
		}
		if _, polled := conn.(transport.Pollable); polled {
			fits(2)
			if got := client.received(o); len(got) != bound-1 || !fits(2) {
				t.Errorf("%d bytes of what was held were written, want %d", len(got), bound-1)
			}
		} else {
			if !fits(push+1) || fits(push+2) || client.received(o) != "" {
				t.Error("what is held has another bound, or was written")
			}
			hold(push + 1)
			o.flush()
			if synctest.Wait(); fits(1) {
				t.Error("a frame fits though what was held is still being written")
			}
			if got := client.received(o); len(got) != bound+push || !fits(2) {
				t.Errorf("%d bytes of what was held were written, want %d", len(got), bound+push)
			}
		}
		o.enqueue(strings.Repeat("x", room), 0)
		o.enqueue(strings.Repeat("x", bound), 0)
		hold(1)
		synctest.Wait()
		if fits(bound) {
			t.Error("a frame fits into an outbox whose client takes nothing")
		}
		client.received(o)
	})
}

// TestMakeRoomFails: an outbox whose connection fails has no room.
func TestMakeRoomFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := &polledConn{room: 100}
		o := newOwner(t, newShared(100), conn)
		o.start("first")
		conn.err = errors.New("broken")
		o.locked(func() {
			o.out.HoldLocked()
			o.out.EnqueueLocked(o, []byte("abc"), 1)
			if o.out.MakeRoomLocked(o, 100) || o.failed == nil || !o.out.EmptyLocked() {
				t.Errorf("failed with %v, empty %v", o.failed, o.out.EmptyLocked())
			}
		})
	})
}

// TestClose: the connection is closed when all that was queued, and the last
// frame, have gone out.
func TestClose(t *testing.T) {
	for _, room := range []int{3, 100} {
		bothKinds(t, room, func(t *testing.T, conn transport.Conn, client peer) {
			o := newOwner(t, newShared(1<<20), conn)
			o.start("first")
			client.received(o)
			o.locked(func() {
				o.out.HoldLocked()
				o.out.EnqueueLocked(o, []byte("abc"), 1)
				o.code = protocol.CloseKicked
				o.out.CloseLocked(o, []byte("last"))
			})
			if got := client.received(o); got != "abclast" {
				t.Fatalf("received %q", got)
			}
			if code, closed := client.closed(); !closed || code != protocol.CloseKicked {
				t.Errorf("closed %v with %d", closed, code)
			}
			o.wantIDs(1)
		})
	}
}

// TestCloseBeforeStart: the frames of an outbox that was not started are dropped,
// and the client gets the last frame alone.
func TestCloseBeforeStart(t *testing.T) {
	bothKinds(t, 100, func(t *testing.T, conn transport.Conn, client peer) {
		shared := newShared(1 << 20)
		o := newOwner(t, shared, conn)
		o.enqueue("abc", 1)
		o.locked(func() { o.out.CloseLocked(o, []byte("last")) })
		if got := client.received(o); got != "last" {
			t.Fatalf("received %q", got)
		}
		if _, closed := client.closed(); !closed || shared.PendingBytes() != 0 {
			t.Errorf("closed %v, %d bytes are pending", closed, shared.PendingBytes())
		}
		o.wantIDs()
	})
}

// TestIdle: the channel is closed when the last frame has gone out, and the owner
// is told.
func TestIdle(t *testing.T) {
	const room = 10
	bothKinds(t, room, func(t *testing.T, conn transport.Conn, client peer) {
		o := newOwner(t, newShared(1<<20), conn)
		if o.out.Idle() != nil {
			t.Fatal("an outbox without a frame is not idle")
		}
		o.start(strings.Repeat("x", 2*room))
		idle := o.out.Idle()
		synctest.Wait()
		select {
		case <-idle:
			t.Fatal("idle while the client takes nothing")
		default:
		}
		client.received(o)
		<-idle
		o.locked(func() {
			if o.idle != 1 {
				t.Errorf("the owner was told %d times that the outbox is idle", o.idle)
			}
		})
	})
}

// TestSlowClient: a client that takes nothing for the write timeout is given up:
// its frames are dropped and the connection is closed.
func TestSlowClient(t *testing.T) {
	const room = 10
	bothKinds(t, room, func(t *testing.T, conn transport.Conn, client peer) {
		shared := newShared(1 << 20)
		o := newOwner(t, shared, conn)
		o.start(strings.Repeat("x", 2*room))
		o.enqueue("more", 1)
		idle := o.out.Idle()
		check := func() { o.locked(func() { o.out.AbortIfSlowLocked(o) }) }
		time.Sleep(writeTimeout - time.Second)
		check()
		synctest.Wait()
		if _, closed := client.closed(); closed {
			t.Fatal("closed too soon")
		}
		time.Sleep(time.Second)
		check()
		if code, closed := client.closed(); !closed || code != protocol.CloseSlow {
			t.Errorf("closed %v with %d", closed, code)
		}
		<-idle
		o.locked(func() {
			if !errors.Is(o.failed, outbox.ErrSlow) || shared.PendingBytes() != 0 || shared.Writing() != 0 {
				t.Errorf("failed with %v, %d bytes are pending in %d outboxes", o.failed, shared.PendingBytes(), shared.Writing())
			}
		})
		o.wantIDs()
	})
}

// TestProgressIsNotSlow: a client that takes a little again and again is not
// given up.
func TestProgressIsNotSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := &polledConn{}
		o := newOwner(t, newShared(1<<20), conn)
		o.start("x")
		for i := range 20 {
			o.enqueue("y", 0)
			time.Sleep(writeTimeout / 2)
			conn.makeRoom(o, 1)
			o.locked(func() { o.out.AbortIfSlowLocked(o) })
			if i == 0 && o.blocked == 0 {
				t.Fatal("the owner was not told that the socket has no room")
			}
		}
		if o.failed != nil {
			t.Fatalf("failed with %v", o.failed)
		}
	})
}

// TestFailure: after an error of the connection nothing is pending, and the
// connection is closed.
func TestFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		for name, before := range map[string]int{"nothing queued": 100, "blocked": 3} {
			shared := newShared(1 << 20)
			conn := &polledConn{room: before}
			o := newOwner(t, shared, conn)
			o.start("first")
			conn.err = broken
			o.enqueue("abc", 1)
			conn.makeRoom(o, 100)
			if !errors.Is(o.failed, broken) || !conn.isClosed || shared.PendingBytes() != 0 || shared.Writing() != 0 || !o.out.EmptyLocked() {
				t.Errorf("%s: failed with %v, closed %v, %d bytes are pending", name, o.failed, conn.isClosed, shared.PendingBytes())
			}
			o.wantIDs()
		}
	})
}

// TestConfirm: an owner that need not know what the kernel has is not told.
func TestConfirm(t *testing.T) {
	bothKinds(t, 100, func(t *testing.T, conn transport.Conn, client peer) {
		o := &owner{t: t}
		o.out.Init(newShared(1<<20), conn, false)
		o.start("first")
		o.enqueue("a", 1)
		client.received(o)
		o.wantIDs()
	})
}

// TestConfirmInPart: the owner is told of an id only when the kernel has all bytes
// of its frame, and of the frames that the connection took with it.
func TestConfirmInPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := &polledConn{room: 5 + 3 + 2}
		o := newOwner(t, newShared(1<<20), conn)
		o.start("first")
		o.locked(func() {
			o.out.HoldLocked()
			for id := uint64(1); id <= 3; id++ {
				o.out.EnqueueLocked(o, []byte("abc"), id)
			}
			o.out.FlushLocked(o)
		})
		o.wantIDs()
		conn.makeRoom(o, 1)
		o.wantIDs(1, 2)
		conn.makeRoom(o, 100)
		o.wantIDs(1, 2, 3)
		if want := []int64{11, 11, 14}; fmt.Sprint(o.ends) != fmt.Sprint(want) {
			t.Errorf("they end at %v, want %v", o.ends, want)
		}
	})
}

// TestBehindTheConnectionsOwn: frames wait for what the connection sends by
// itself, such as a pong.
func TestBehindTheConnectionsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newShared(1 << 20)
		conn := &polledConn{rest: []byte("pong")}
		o := newOwner(t, shared, conn)
		o.start("first")
		o.enqueue("a", 1)
		if n := shared.PendingBytes(); n != int64(len("firsta")) {
			t.Errorf("%d bytes are pending", n)
		}
		conn.makeRoom(o, 100)
		if got := conn.received(o); got != "pongfirsta" || shared.PendingBytes() != 0 {
			t.Errorf("received %q, %d bytes are pending", got, shared.PendingBytes())
		}
		o.wantIDs(1)
	})
}

// TestChunks: a blocking connection gets small frames a chunk at a time, so that
// its timeout is one for each chunk.
func TestChunks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const frames, size = 100, 1 << 10
		client, conn := pipe.New(pipe.Options{Buffer: 16 << 10})
		o := newOwner(t, newShared(1<<20), conn)
		for id := range uint64(frames) {
			o.enqueue(strings.Repeat("x", size), id+1)
		}
		o.start("first")
		buf := make([]byte, 4<<10)
		for total := 0; total < frames*size+len("first"); {
			time.Sleep(writeTimeout / 20) // a read brings one frame at most
			n, err := client.Read(buf)
			if err != nil {
				t.Fatalf("after %d bytes: %v", total, err)
			}
			total += n
		}
		synctest.Wait()
		if len(o.ids) != frames {
			t.Errorf("the owner was told of %d frames", len(o.ids))
		}
		_ = conn.Close(0, "")
	})
}
