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

// next upgrades the next connection and calls handle for it.
func (l *Listener) next(ctx context.Context, handle func(transport.Conn)) error {
	if !l.acceptor.Polls() {
		return l.nextSocket(ctx, handle)
	}
	c := &polled{}
	if err := l.acceptor.NextPolled(ctx, &c.Polled); err != nil {
		return err
	}
	h := &handshake{l: l, in: &c.Polled, messages: &c.messages, write: func(b []byte) error {
		_, _, err := c.TryWriteOne(b)
		return err
	}}
	c.Open(c, h.upgrade, handle)
	return nil
}
