package tcp

import (
	"net/netip"
	"sync/atomic"
	"time"

	"imgo/protocol"
	"imgo/transport"
	"imgo/transport/internal/socket"
)

// conn is a transport.Conn over one socket. Packets follow one another without
// any framing.
type conn struct {
	socket   *socket.Socket
	maxBody  int
	lastSign atomic.Int64            // nanoseconds since 1970
	header   [protocol.HeaderV2]byte // of the packet that ReadPacket reads
}

var _ transport.Conn = (*conn)(nil)

func newConn(s *socket.Socket, maxBody int) *conn {
	c := &conn{socket: s, maxBody: maxBody}
	c.lastSign.Store(time.Now().UnixNano())
	return c
}

func (c *conn) ReadPacket() (transport.Packet, error) {
	p, err := transport.ReadPacket(c.socket, &c.header, c.maxBody)
	if err != nil {
		return transport.Packet{}, err
	}
	c.lastSign.Store(time.Now().UnixNano())
	return p, nil
}

func (c *conn) SetReadDeadline(t time.Time) error { return c.socket.SetReadDeadline(t) }

func (c *conn) Write(deadline time.Time, frames ...[]byte) error {
	return c.socket.Send(deadline, frames, nil)
}

func (c *conn) Text() bool               { return false }
func (c *conn) Traits() transport.Traits { return transport.Traits{Scheme: Scheme, Stream: true} }
func (c *conn) Remote() netip.AddrPort   { return c.socket.Remote() }
func (c *conn) Unacked() (int64, bool)   { return c.socket.Unacked() }
func (c *conn) Written() int64           { return c.socket.Written() }
func (c *conn) LastSign() time.Time      { return time.Unix(0, c.lastSign.Load()) }

// Close does not send code and reason: the caller writes op 6 before, which has
// them.
func (c *conn) Close(protocol.CloseCode, string) error {
	c.socket.CloseWith(nil)
	return nil
}
