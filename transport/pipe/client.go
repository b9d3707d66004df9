package pipe

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"imgo/protocol"
	"imgo/transport"
)

// Client is the client's end. Its reading methods are for one goroutine at a time,
// and so are its writing methods. Reading and writing may happen at the same time.
type Client struct {
	server  *conn
	header  [protocol.HeaderV2]byte
	waiting []transport.Packet // of a text frame with several objects
}

// Write sends raw bytes: a part of the stream, or one text message. It blocks
// while the server's side is full.
func (c *Client) Write(b []byte) (int, error) { return c.server.up.put(b) }

// Send sends one packet in the client's form. The Body of a text frame must be
// JSON or empty. A binary packet with an ID gets a 24-byte header.
func (c *Client) Send(p transport.Packet) error {
	var b []byte
	switch {
	case c.server.opts.Text:
		frame := map[string]any{"ver": p.Version, "op": p.Op, "seq": p.Seq}
		if len(p.Body) > 0 {
			frame["body"] = json.RawMessage(p.Body)
		}
		var err error
		if b, err = json.Marshal(frame); err != nil {
			return fmt.Errorf("encode packet as JSON: %w", err)
		}
	case p.ID != 0:
		b = transport.AppendPacket(nil, p.Version, protocol.HeaderV2, p.Op, p.Seq, p.ID, p.Body)
	default:
		b = transport.AppendPacket(nil, p.Version, protocol.HeaderV1, p.Op, p.Seq, 0, p.Body)
	}
	_, err := c.Write(b)
	return err
}

// Ping gives a sign of life without a packet, like a WebSocket ping.
func (c *Client) Ping() { c.server.sign() }

// Read reads raw bytes of the stream. It is not for a text client.
func (c *Client) Read(b []byte) (int, error) { return c.server.down.Read(b) }

// Frame reads one raw text message. It is only for a text client.
func (c *Client) Frame() ([]byte, error) { return c.server.down.dequeue() }

// Receive reads the server's next packet. The Body of a text frame is its raw
// JSON. Once the server has closed and all that it wrote was read, it returns
// io.EOF.
func (c *Client) Receive() (transport.Packet, error) {
	if !c.server.opts.Text {
		return transport.ReadPacket(c.server.down, &c.header, int(^uint32(0)>>1))
	}
	for len(c.waiting) == 0 {
		b, err := c.Frame()
		if err != nil {
			return transport.Packet{}, err
		}
		if c.waiting, err = ParseFrame(b); err != nil {
			return transport.Packet{}, err
		}
	}
	p := c.waiting[0]
	c.waiting = c.waiting[1:]
	return p, nil
}

// ParseFrame decodes a JSON frame of a server.
func ParseFrame(b []byte) ([]transport.Packet, error) {
	var objects []struct {
		Ver  int16
		Op   int32
		Seq  int32
		ID   string
		Body json.RawMessage
	}
	if err := json.Unmarshal(b, &objects); err != nil {
		return nil, fmt.Errorf("decode server frame %.100q: %w", b, err)
	}
	packets := make([]transport.Packet, len(objects))
	for i, o := range objects {
		packets[i] = transport.Packet{Version: o.Ver, Op: o.Op, Seq: o.Seq, Body: o.Body}
		if o.ID == "" {
			continue
		}
		id, err := strconv.ParseUint(o.ID, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("decode message id of server frame: %w", err)
		}
		packets[i].ID = id
	}
	return packets, nil
}

// SetDeadline bounds the client's reads and writes, including those under way.
func (c *Client) SetDeadline(t time.Time) {
	c.server.up.set(&c.server.up.write, t)
	c.server.down.set(&c.server.down.read, t)
}

// Unread counts the bytes that the server has written and the client has not read.
func (c *Client) Unread() int64 { return c.server.down.queued() }

// Closed returns the code and the reason of the server's Close. ok is false if
// the server has not closed the connection.
func (c *Client) Closed() (code protocol.CloseCode, reason string, ok bool) {
	g := c.server.closed.Load()
	if g == nil {
		return 0, "", false
	}
	return g.code, g.reason, true
}

// Close ends the connection from the client's side. The server reads what was
// sent, and then io.EOF. Its writes fail, and bytes that the client has not read
// stay unacknowledged.
func (c *Client) Close() error {
	c.server.up.end(io.EOF, io.ErrClosedPipe, false)
	c.server.down.end(io.ErrClosedPipe, io.ErrClosedPipe, false)
	return nil
}
