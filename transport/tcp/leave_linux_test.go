package tcp_test

import (
	"errors"
	"testing"
	"time"

	"imgo/transport"
	"imgo/transport/tcp"
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
	l := listen(t, tcp.Config{Inline: true})
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
		if _, err := c.Write(transport.AppendPacket(nil, 1, transport.HeaderV1, transport.OpHeartbeat, 1, 0, nil)); err != nil {
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
