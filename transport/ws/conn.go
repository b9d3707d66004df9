package ws

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

	"imgo/protocol"
	"imgo/transport"
	"imgo/transport/internal/socket"
)

// The first bytes of control frames, and the longest payload of one (RFC 6455, 5.2
// and 5.5).
const (
	frameClose = 0x88
	framePong  = 0x8a
	maxControl = 125
)

// The kinds of messages of a connection. The first message decides.
const (
	formUnknown uint32 = iota
	formBinary
	formText
)

// conn is a transport.Conn over one upgraded socket.
type conn struct {
	shim     shim
	lib      *websocket.Conn
	maxBody  int
	form     atomic.Uint32
	lastSign atomic.Int64            // nanoseconds since 1970
	header   [protocol.HeaderV2]byte // of the packet that ReadPacket reads
}

var _ transport.Conn = (*conn)(nil)

func newConn(s *socket.Socket, maxBody int) *conn {
	c := &conn{shim: shim{Socket: s}, maxBody: maxBody}
	c.sign()
	return c
}

func (c *conn) sign() { c.lastSign.Store(time.Now().UnixNano()) }

// onPing answers in place of the library, whose answer would wait for a Write
// under way and end the connection if that takes long.
func (c *conn) onPing(_ context.Context, payload []byte) bool {
	c.sign()
	pong := append(make([]byte, 0, 2+len(payload)), framePong, byte(len(payload)))
	c.shim.Urgent(append(pong, payload...))
	return false
}

func (c *conn) onPong(context.Context, []byte) { c.sign() }

func (c *conn) ReadPacket() (transport.Packet, error) {
	// A context that expires would end the connection.
	typ, r, err := c.lib.Reader(context.Background())
	if err != nil {
		return transport.Packet{}, c.readError(err, false)
	}
	form := formBinary
	if typ == websocket.MessageText {
		form = formText
	}
	if !c.form.CompareAndSwap(formUnknown, form) && c.form.Load() != form {
		return transport.Packet{}, protocolError("mixed_forms", "text and binary messages on one connection")
	}
	var p transport.Packet
	if form == formText {
		p, err = c.readText(r)
	} else {
		p, err = c.readBinary(r)
	}
	if err != nil {
		return transport.Packet{}, err
	}
	c.sign()
	return p, nil
}

// readBinary reads a message, which must be exactly one packet.
func (c *conn) readBinary(r io.Reader) (transport.Packet, error) {
	p, err := transport.ReadPacket(r, &c.header, c.maxBody)
	var bad *transport.ProtocolError
	switch {
	case errors.As(err, &bad):
		return p, bad
	case err != nil:
		return p, c.readError(err, true)
	}
	// The next message begins only after this one was read to its end.
	if _, err := io.ReadFull(r, c.header[:1]); err == nil {
		return p, protocolError("bad_length", "a binary message has more than one packet")
	} else if err != io.EOF || c.shim.err != nil {
		return p, c.readError(err, true)
	}
	return p, nil
}

// readText reads a message, which must be one JSON object.
func (c *conn) readText(r io.Reader) (transport.Packet, error) {
	b := make([]byte, 0, readBuffer)
	for {
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF && c.shim.err == nil {
			return transport.ParseJSON(b)
		}
		if err != nil {
			return transport.Packet{}, c.readError(err, true)
		}
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
	}
}

// readError translates an error of the library: to the error of the socket, if
// there was one, or else to the client's close or its mistake. within says that a
// message had begun.
func (c *conn) readError(err error, within bool) error {
	switch end := c.shim.err; {
	case end == io.EOF && (within || errors.Is(err, io.ErrUnexpectedEOF)):
		return io.ErrUnexpectedEOF
	case end != nil:
		return end
	case c.closed(err):
		return io.EOF
	case errors.Is(err, websocket.ErrMessageTooBig):
		return &transport.ProtocolError{Code: protocol.CloseTooLarge, Kind: "too_large", Reason: "message is over the limit"}
	case errors.Is(err, context.DeadlineExceeded):
		return os.ErrDeadlineExceeded // a control frame arrived too slowly
	case errors.Is(err, net.ErrClosed):
		return net.ErrClosed
	case err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF):
		return protocolError("bad_length", "a binary message ends within its packet")
	}
	return protocolError("bad_frame", strings.TrimPrefix(err.Error(), "failed to get reader: "))
}

// closed reports whether err is the client's close frame, and answers it.
func (c *conn) closed(err error) bool {
	status := websocket.CloseStatus(err)
	if status == -1 {
		return false
	}
	var payload []byte
	if status != websocket.StatusNoStatusRcvd {
		payload = binary.BigEndian.AppendUint16(nil, uint16(status))
	}
	c.shim.CloseWith(append([]byte{frameClose, byte(len(payload))}, payload...))
	return true
}

func (c *conn) SetReadDeadline(t time.Time) error { return c.shim.SetReadDeadline(t) }

func (c *conn) Write(deadline time.Time, frames ...[]byte) error {
	head := binaryHead
	if c.form.Load() == formText {
		head = textHead
	}
	return c.shim.Send(deadline, frames, head)
}

func textHead(dst []byte, n int) []byte   { return transport.AppendFrameHead(dst, true, n) }
func binaryHead(dst []byte, n int) []byte { return transport.AppendFrameHead(dst, false, n) }

func (c *conn) Text() bool { return c.form.Load() == formText }
func (c *conn) Traits() transport.Traits {
	return transport.Traits{Scheme: Scheme, ClientPicksForm: true}
}
func (c *conn) Remote() netip.AddrPort { return c.shim.Remote() }
func (c *conn) Unacked() (int64, bool) { return c.shim.Unacked() }
func (c *conn) Written() int64         { return c.shim.Written() }
func (c *conn) LastSign() time.Time    { return time.Unix(0, c.lastSign.Load()) }

func (c *conn) Close(code protocol.CloseCode, reason string) error {
	c.shim.CloseWith(closeFrame(code, reason))
	return nil
}

// closeFrame returns a whole close frame.
func closeFrame(code protocol.CloseCode, reason string) []byte {
	if code == 0 {
		code = protocol.CloseCode(websocket.StatusNormalClosure)
	}
	reason = clip(reason, maxControl-2)
	b := append(make([]byte, 0, 4+len(reason)), frameClose, byte(2+len(reason)))
	b = binary.BigEndian.AppendUint16(b, uint16(code))
	return append(b, reason...)
}

// release frees the connection when its handler has returned.
func (c *conn) release() {
	_ = c.Close(0, "")
	// Nothing is read any more, so the library's state is freed at once and not
	// by its finalizer.
	_ = c.lib.CloseNow()
	c.shim.Release()
}

// clip shortens s to at most n bytes of valid UTF-8, for a close frame.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
