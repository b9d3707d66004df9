package ws

import (
	"time"

	"imgo/protocol"
	"imgo/transport"
	"imgo/transport/internal/socket"
)

// conn is a transport.Conn over one upgraded socket that has a goroutine.
type conn struct {
	*socket.Socket
	messages
}

var _ transport.Conn = (*conn)(nil)

func (c *conn) ReadStep() (transport.Packet, error) { return c.step(c.Socket) }

func (c *conn) Write(deadline time.Time, frames ...[]byte) error {
	return c.Send(deadline, frames, c.head())
}

func (c *conn) Traits() transport.Traits {
	return transport.Traits{Scheme: Scheme, ClientPicksForm: true}
}

func (c *conn) Close(code protocol.CloseCode, reason string) error {
	c.CloseWith(closeFrame(code, reason))
	return nil
}
