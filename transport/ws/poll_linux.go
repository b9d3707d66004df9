package ws

import (
	"context"
	"time"

	"imgo/protocol"
	"imgo/transport"
	"imgo/transport/internal/socket"
)

// polled is a transport.Pollable over one upgraded socket.
type polled struct {
	socket.Polled
	messages
}

var _ transport.Pollable = (*polled)(nil)

// serve calls handle for an upgraded connection.
func (c *polled) serve(handle func(transport.Conn)) {
	handle(c)
	c.Handled(c.Release)
}

func (c *polled) ReadPacket() (transport.Packet, error) { return transport.Whole(c.ReadStep) }

func (c *polled) ReadStep() (transport.Packet, error) { return c.ReadWith(c.TryReadPacket) }

func (c *polled) TryReadPacket() (transport.Packet, error) { return c.step(&c.Polled) }

func (c *polled) Write(deadline time.Time, frames ...[]byte) error {
	return c.Send(deadline, frames, c.head())
}

func (c *polled) Traits() transport.Traits {
	return transport.Traits{Scheme: Scheme, ClientPicksForm: true, Framed: true}
}

func (c *polled) Close(code protocol.CloseCode, reason string) error {
	c.CloseWith(closeFrame(code, reason))
	return nil
}

// TryRelease implements transport.Pollable.
func (c *polled) TryRelease() bool {
	_ = c.Close(0, "")
	return c.Polled.TryRelease()
}

// Release implements transport.Pollable.
func (c *polled) Release() {
	_ = c.Close(0, "")
	c.Polled.Release()
}

// run chooses how connections are run.
func (l *Listener) run(ctx context.Context, handle func(transport.Conn)) error {
	if l.acceptor.Polls() {
		return l.runPolled(ctx, handle)
	}
	return l.runSockets(ctx, handle)
}

// runPolled upgrades connections and calls handle for them, until ctx is done.
func (l *Listener) runPolled(ctx context.Context, handle func(transport.Conn)) error {
	deadline := transport.NewSharedDeadline(l.acceptor.Config().HandshakeTimeout)
	stop := context.AfterFunc(ctx, func() {
		_ = l.acceptor.Close()
		deadline.Stop() // the handler does not know these connections yet
	})
	defer stop()
	for {
		var c *polled
		if err := l.acceptor.NextPolled(ctx, func() *socket.Polled {
			c = &polled{}
			return &c.Polled
		}); err != nil {
			return err
		}
		h := &polledHandshake{c: c, handle: handle}
		h.handshake = handshake{l: l, in: &c.Polled, write: func(b []byte) error {
			_, _, err := c.TryWriteOne(b)
			return err
		}}
		c.Open(deadline, h)
	}
}

// polledHandshake is a polled connection before its upgrade.
type polledHandshake struct {
	handshake
	c      *polled
	handle func(transport.Conn)
}

// Step implements socket.Opener.
func (h *polledHandshake) Step() error { return h.upgrade() }

// Done implements socket.Opener.
func (h *polledHandshake) Done(err error) {
	switch {
	case err != nil:
		go h.c.Polled.Release()
	default:
		h.c.keep(&h.c.Polled, h.header)
		if h.c.Inline() {
			h.c.serve(h.handle)
		} else {
			go h.c.serve(h.handle)
		}
	}
}
