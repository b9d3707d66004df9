package tcp

import (
	"context"
	"time"

	"imgo/protocol"
	"imgo/transport"
	"imgo/transport/internal/socket"
)

// polled is a transport.Pollable over one socket.
type polled struct{ socket.Polled }

var _ transport.Pollable = (*polled)(nil)

// next calls handle for the next connection.
func (l *Listener) next(ctx context.Context, handle func(transport.Conn)) error {
	if !l.acceptor.Polls() {
		return l.nextSocket(ctx, handle)
	}
	c := &polled{}
	if err := l.acceptor.NextPolled(ctx, &c.Polled); err != nil {
		return err
	}
	c.Open(c, nil, handle)
	return nil
}

func (c *polled) ReadStep() (transport.Packet, error) { return c.ReadWith(c.TryReadPacket) }

func (c *polled) TryReadPacket() (transport.Packet, error) { return readStep(&c.Polled) }

func (c *polled) Write(deadline time.Time, frames ...[]byte) error {
	return c.Send(deadline, frames, nil)
}

func (c *polled) Text() bool { return false }

func (c *polled) Traits() transport.Traits { return transport.Traits{Scheme: Scheme, Stream: true} }

// Close does not send code and reason: packets have op 6 for that.
func (c *polled) Close(protocol.CloseCode, string) error {
	c.CloseWith(nil)
	return nil
}
