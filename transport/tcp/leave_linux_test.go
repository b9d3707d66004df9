package tcp_test

import (
	"errors"
	"runtime"
	"testing"
	"time"

	"imgo/protocol"
	"imgo/transport"
	"imgo/transport/transporttest"
)

// waiting is a Waker that waits, which it says first.
type waiting struct {
	transport.Pollable
	told  chan bool
	until chan struct{}
}

func (w *waiting) Readable(alone bool) {
	w.Leave()
	w.Leave() // says nothing new
	w.told <- alone
	<-w.until
	for {
		_, err := w.TryReadPacket()
		switch {
		case errors.Is(err, transport.ErrIdle):
			if w.Park() {
				return
			}
		case err != nil:
			if !w.TryRelease() {
				w.Release()
			}
			return
		}
	}
}

func (w *waiting) Writable() {}

// Who waits where connections are told what happens on them does not keep the
// others waiting, once it has said that it does.
func TestLeave(t *testing.T) {
	if *goroutines {
		t.Skip("there is nobody to leave")
	}
	told, until := make(chan bool, 3), make(chan struct{})
	l := listen(t, transport.ListenConfig{Inline: true})
	transporttest.Serve(t, l, func(c transport.Conn) {
		w := &waiting{c.(transport.Pollable), told, until}
		w.Attach(w)
		if !w.Rest() {
			t.Error("a connection that has sent nothing does not rest")
		}
	})
	t.Cleanup(func() { close(until) }) // before the listener is waited for
	for i := range cap(told) {
		c := transporttest.Dial(t, l, nil)
		if _, err := c.Write(transport.AppendPacket(nil, 1, protocol.HeaderV1, protocol.OpHeartbeat, 1, 0, nil)); err != nil {
			t.Fatal(err)
		}
		select {
		case alone := <-told:
			if !alone {
				t.Error("nothing else happened, and it was not alone")
			}
		case <-time.After(transporttest.Patience):
			t.Fatalf("connection %d waits for those before it", i)
		}
	}
}

// leaving is a Waker that leaves every other time, and counts what it reads.
type leaving struct {
	transport.Pollable
	t     *testing.T
	next  int32
	stays bool
	done  chan<- struct{}
}

func (l *leaving) Readable(bool) {
	if l.stays = !l.stays; !l.stays {
		l.Leave()
		defer runtime.Gosched() // the next one may be told meanwhile
	}
	for {
		p, err := l.TryReadPacket()
		switch {
		case errors.Is(err, transport.ErrIdle):
			if l.Park() {
				return
			}
		case err != nil:
			l.Release()
			l.done <- struct{}{}
			return
		case p.Seq != l.next:
			l.t.Errorf("packet %d comes where %d is due", p.Seq, l.next)
			fallthrough
		default:
			l.next = p.Seq + 1
		}
	}
}

func (l *leaving) Writable() {}

// Who has left may come back while the next one tells the same connection
// something: it is the next one's turn all the same. (The race detector sees
// when it is not.)
func TestLeaveWhileMoreComes(t *testing.T) {
	if *goroutines {
		t.Skip("there is nobody to leave")
	}
	const clients, packets = 4, 5000
	done := make(chan struct{}, clients)
	l := listen(t, transport.ListenConfig{Inline: true})
	transporttest.Serve(t, l, func(c transport.Conn) {
		w := &leaving{Pollable: c.(transport.Pollable), t: t, done: done}
		w.Attach(w)
		if !w.Rest() {
			w.Readable(false)
		}
	})
	for range clients {
		c := transporttest.Dial(t, l, nil)
		go func() {
			for i := range int32(packets) {
				runtime.Gosched() // so that each is an event
				if _, err := c.Write(transport.AppendPacket(nil, 1, protocol.HeaderV1, protocol.OpHeartbeat, i, 0, nil)); err != nil {
					t.Error(err)
					break
				}
			}
			_ = c.Close()
		}()
	}
	for range clients {
		select {
		case <-done:
		case <-time.After(transporttest.Patience):
			t.Fatal("a connection is not read to its end")
		}
	}
}
