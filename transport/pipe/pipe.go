// Package pipe is a client connection in memory, for tests of code that uses
// transport.Conn. It works in a testing/synctest bubble.
//
// It keeps the whole contract of Conn, with deadlines and bounds. Where a
// network is vague it is exact: a byte is acknowledged when the client has read
// it. It starts no goroutine.
package pipe

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"imgo/protocol"
	"imgo/transport"
)

// Scheme names this transport.
const Scheme = "pipe"

// DefaultBuffer is the size of each direction's buffer, in bytes.
const DefaultBuffer = 64 << 10

// Options of a pipe. The zero value is a client that speaks binary packets.
type Options struct {
	// Text makes the client speak JSON frames, each of them one message. Without
	// it both directions are streams of bytes, as on TCP.
	Text bool
	// MaxBody bounds the body of a client's packet, in bytes. 0 is 64 KiB.
	MaxBody int
	// Buffer bounds the unread bytes of each direction; beyond it writers block.
	// 0 is DefaultBuffer. A text message that is larger may go alone.
	Buffer int
	// NoUnacked makes Unacked report that the count is not known.
	NoUnacked bool
	// Stream is what Traits.Stream says.
	Stream bool
	// Remote is the client's address. The zero value is 192.0.2.1:1024.
	Remote netip.AddrPort
}

// New makes a connection and returns its two ends.
func New(o Options) (*Client, transport.Conn) {
	o.MaxBody = cmp.Or(o.MaxBody, protocol.DefaultMaxBody)
	o.Buffer = cmp.Or(o.Buffer, DefaultBuffer)
	if !o.Remote.IsValid() {
		o.Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), 1024)
	}
	s := &conn{opts: o, epoch: time.Now(), up: newHalf(o.Buffer, o.Text), down: newHalf(o.Buffer, o.Text)}
	s.sign()
	return &Client{server: s}, s
}

// conn is the server's end.
type conn struct {
	opts  Options
	epoch time.Time
	up    *half // client to server
	down  *half // server to client

	header   [protocol.HeaderV2]byte // ReadStep's
	text     atomic.Bool
	torn     atomic.Bool
	written  atomic.Int64
	lastSign atomic.Int64 // nanoseconds since epoch
	closed   atomic.Pointer[goodbye]
}

// goodbye has the arguments of Close.
type goodbye struct {
	code   protocol.CloseCode
	reason string
}

var _ transport.Conn = (*conn)(nil)

func (c *conn) sign() { c.lastSign.Store(int64(time.Since(c.epoch))) }

// ReadStep returns whole packets only: a pipe counts nothing else.
func (c *conn) ReadStep() (p transport.Packet, err error) {
	if c.opts.Text {
		var b []byte
		if b, err = c.up.dequeue(); err == nil {
			if limit := transport.JSONLimit(c.opts.MaxBody); len(b) > limit {
				return p, &transport.ProtocolError{
					Code: protocol.CloseTooLarge, Kind: "too_large",
					Reason: fmt.Sprintf("message of %d bytes is over the limit of %d", len(b), limit),
				}
			}
			c.text.Store(true)
			p, err = transport.ParseJSON(b, c.opts.MaxBody)
		}
	} else {
		p, err = transport.ReadPacket(c.up, &c.header, c.opts.MaxBody)
	}
	if err != nil {
		return transport.Packet{}, err
	}
	c.sign()
	return p, nil
}

// Authenticated does nothing, because a pipe has no InputBudget.
func (c *conn) Authenticated() {}

func (c *conn) SetReadDeadline(t time.Time) error {
	if c.closed.Load() != nil {
		return net.ErrClosed
	}
	c.up.set(&c.up.read, t)
	return nil
}

func (c *conn) Write(deadline time.Time, frames ...[]byte) error {
	if c.torn.Load() || c.closed.Load() != nil {
		return net.ErrClosed
	}
	c.down.set(&c.down.write, deadline)
	defer c.down.set(&c.down.write, time.Time{})
	for i, f := range frames {
		n, err := c.down.put(f)
		c.written.Add(int64(n))
		if err != nil {
			c.torn.Store(n > 0 || i > 0)
			return err
		}
	}
	return nil
}

func (c *conn) Text() bool { return c.text.Load() }
func (c *conn) Traits() transport.Traits {
	return transport.Traits{Scheme: Scheme, Stream: c.opts.Stream}
}
func (c *conn) Remote() netip.AddrPort { return c.opts.Remote }
func (c *conn) Written() int64         { return c.written.Load() }
func (c *conn) LastSign() time.Time    { return c.epoch.Add(time.Duration(c.lastSign.Load())) }

func (c *conn) Unacked() (int64, bool) {
	if c.opts.NoUnacked {
		return 0, false
	}
	return c.down.queued(), true
}

func (c *conn) Close(code protocol.CloseCode, reason string) error {
	if c.closed.CompareAndSwap(nil, &goodbye{code, reason}) {
		c.up.end(net.ErrClosed, io.ErrClosedPipe, true)
		c.down.end(io.EOF, net.ErrClosed, false)
	}
	return nil
}
