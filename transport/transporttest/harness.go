// Package transporttest is the conformance suite for every transport, with the raw clients that the
// suite uses. The clients write any bytes, so tests can also send what no client library would
// send. Only tests import the package.
package transporttest

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"testing"
	"time"

	"imgo/protocol"
	"imgo/transport"
	"imgo/transport/pipe"
)

// WaitLimit bounds every wait of the suite.
const WaitLimit = 30 * time.Second

// Harness describes one transport under test.
type Harness struct {
	// Scheme is the Traits.Scheme of the connections.
	Scheme string
	// Text is true if the client speaks JSON frames.
	Text bool
	// Pieces is true if a packet may arrive byte by byte, and if one write may hold many packets.
	Pieces bool
	// CloseCodes is true if the client receives the code and the reason of Close.
	CloseCodes bool
	// Framing returns the number of bytes that the transport adds to a frame of n bytes. It is nil
	// if that cannot be known from outside (TLS).
	Framing func(n int) int
	// Start runs a server and returns a function that connects to it. handle runs in a goroutine
	// for each connection. The test waits for these goroutines before it ends.
	Start func(t *testing.T, o Options, handle func(transport.Conn)) (dial func() Client)
}

// Options configure a server under test.
type Options struct {
	MaxBody int // 0: the default
	// WriteBuffer is the approximate number of bytes that fit into the path to the client before
	// Write blocks. 0 means the default.
	WriteBuffer int
}

// Client is the raw client side of a connection. One goroutine at a time may call Send, and one may
// call Next.
type Client interface {
	// Frame adds the transport's framing to one packet or JSON object.
	Frame(payload []byte) []byte
	// Send writes bytes to the connection.
	Send(b []byte) error
	// Next returns the payload of the server's next frame: one packet or one text message. At the
	// end it returns io.EOF, or *Closed if the server sent a code.
	Next() ([]byte, error)
	// End closes the client's side of the stream without a close message.
	End() error
	// Close releases the client's resources.
	Close() error
}

// Closed is the error for a connection that ended with a close code.
type Closed struct {
	Code   protocol.CloseCode
	Reason string
}

func (c *Closed) Error() string { return fmt.Sprintf("closed with %d %q", c.Code, c.Reason) }

// run starts a server for one connection and returns its client.
func (h Harness) run(t *testing.T, o Options, handle func(transport.Conn)) Client {
	t.Helper()
	c := h.Start(t, o, handle)()
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// serve is run with a client that sends a packet. handle begins behind that packet.
func (h Harness) serve(t *testing.T, o Options, handle func(transport.Conn)) Client {
	t.Helper()
	c := h.run(t, o, func(c transport.Conn) {
		if _, err := ReadPacket(c); err == nil {
			handle(c)
		}
	})
	send(t, c, h.packet(7, 1, ""))
	return c
}

// form returns the wire form that the clients of the suite speak.
func (h Harness) form() transport.Form {
	if h.Text {
		return transport.FormImgoJSON
	}
	return transport.FormGoim
}

// packet encodes a packet of a client. In the text form body must be JSON.
func (h Harness) packet(op, seq int32, body string) []byte {
	if !h.Text {
		return transport.AppendPacket(nil, 1, protocol.HeaderV1, op, seq, 0, []byte(body))
	}
	if body == "" {
		return fmt.Appendf(nil, `{"ver":1,"op":%d,"seq":%d}`, op, seq)
	}
	return fmt.Appendf(nil, `{"ver":1,"op":%d,"seq":%d,"body":%s}`, op, seq, body)
}

// body returns a body of about n bytes that is valid in both forms.
func body(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = 'a' + byte(i%26)
	}
	return strconv.Quote(string(b))
}

// decode decodes a frame of the server, which must hold exactly one packet.
func (h Harness) decode(b []byte) (transport.Packet, error) {
	if !h.Text {
		p, rest, err := transport.DecodePacket(b, 64<<20)
		if err == nil && len(rest) > 0 {
			err = fmt.Errorf("%d bytes after the packet", len(rest))
		}
		return p, err
	}
	packets, err := pipe.ParseFrame(b)
	if err != nil {
		return transport.Packet{}, err
	}
	if len(packets) != 1 {
		return transport.Packet{}, fmt.Errorf("%d objects in a frame", len(packets))
	}
	return packets[0], nil
}

// expect reads one packet and compares it.
func (h Harness) expect(t *testing.T, c Client, op, seq int32, body string) {
	t.Helper()
	b, err := c.Next()
	if err != nil {
		t.Fatalf("reading op %d seq %d: %v", op, seq, err)
	}
	p, err := h.decode(b)
	if err != nil {
		t.Fatalf("decoding %.100q: %v", b, err)
	}
	if h.Text && body == "" {
		body = "{}"
	}
	if p.Op != op || p.Seq != seq || string(p.Body) != body {
		t.Fatalf("got op %d seq %d body %.60q, want op %d seq %d body %.60q", p.Op, p.Seq, p.Body, op, seq, body)
	}
}

// send sends one framed packet.
func send(t *testing.T, c Client, payload []byte) {
	t.Helper()
	if err := c.Send(c.Frame(payload)); err != nil {
		t.Fatalf("sending: %v", err)
	}
}

// expectEnd reads until the connection ends, and returns the error of the end.
func expectEnd(t *testing.T, c Client) error {
	t.Helper()
	for {
		_, err := c.Next()
		var closed *Closed
		switch {
		case err == nil:
			continue
		case err == io.EOF || errors.As(err, &closed):
			return err
		}
		t.Fatalf("the connection ended with %v, want its end", err)
	}
}

// result passes one value from a connection handler to the test.
type result[T any] struct {
	ch   chan T
	once sync.Once
}

func newResult[T any]() *result[T] { return &result[T]{ch: make(chan T, 1)} }

func (r *result[T]) put(v T) { r.once.Do(func() { r.ch <- v }) }

func (r *result[T]) wait(t *testing.T) T {
	t.Helper()
	return receive(t, "result of the handler", r.ch)
}

// receive receives from c. It fails the test after WaitLimit.
func receive[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(WaitLimit):
		t.Fatalf("no %s within %s", what, WaitLimit)
		panic("unreachable")
	}
}

// soon returns a write deadline that no healthy connection reaches.
func soon() time.Time { return time.Now().Add(WaitLimit) }

// ReadPacket calls ReadStep until it returns a packet, or an error that is neither
// transport.ErrFrame nor transport.ErrPart.
func ReadPacket(c transport.Conn) (transport.Packet, error) {
	for {
		p, err := c.ReadStep()
		if !errors.Is(err, transport.ErrFrame) && !errors.Is(err, transport.ErrPart) {
			return p, err
		}
	}
}
