package socket

import (
	"errors"
	"io"
	"testing"

	"imgo/transport"
)

// TestBufferAtTheEnd checks that a connection whose client has ended the stream gives its read buffer
// back, and keeps what has arrived of a packet.
func TestBufferAtTheEnd(t *testing.T) {
	for _, sent := range []string{"", "part"} {
		a, c := goodbyeListener(t, transport.ListenConfig{})
		p := &Polled{}
		if err := a.NextPolled(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		w := newBlocking()
		p.Watch(w)
		if _, err := io.WriteString(c, sent); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		err := p.Fill(16)
		for ; err == nil || errors.Is(err, transport.ErrIdle); err = p.Fill(16) {
			if err != nil && p.Park() {
				<-w.readable
			}
		}
		if !errors.Is(err, io.EOF) || string(p.Buffered()) != sent || p.in.b != nil && p.in.b.borrowed() {
			t.Errorf("after %q and the end: %v, %q is left", sent, err, p.Buffered())
		}
		p.Release()
	}
}
