// Package transporttest is the conformance suite that every transport keeps,
// and the raw clients that it speaks through. The clients put bytes on the
// wire as they are told, so that tests can also send what no library would.
// It is only imported by tests.
package transporttest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"testing"
	"time"

	"imgo/protocol"
	"imgo/transport"
)

// WaitLimit bounds every wait of the suite.
const WaitLimit = 30 * time.Second

// Harness is one transport under test.
type Harness struct {
	// Scheme is the Traits.Scheme of the connections.
	Scheme string
	// Text: the client speaks JSON frames.
	Text bool
	// Pieces: a packet may arrive byte by byte, and many in one write.
	Pieces bool
	// CloseCodes: the client learns code and reason of Close.
	CloseCodes bool
	// Framing is how many bytes the transport adds to a frame of n; nil where
	// that cannot be told from outside (TLS).
	Framing func(n int) int
	// Start runs a server whose connections handle gets, each in a goroutine
	// that is waited for before the test ends, and returns how to connect.
	Start func(t *testing.T, o Options, handle func(transport.Conn)) (dial func() Client)
}

// Options of a server under test.
type Options struct {
	MaxBody int // 0: the default
	// WriteBuffer is what the path to the client holds before Write blocks, in
	// bytes, about; 0: the default.
	WriteBuffer int
}

// Client is the client's side, raw. Send is for one goroutine at a time, Next
// for one at a time.
type Client interface {
	// Frame puts the transport's framing around one packet or JSON object.
	Frame(payload []byte) []byte
	// Send puts bytes on the wire.
	Send(b []byte) error
	// Next is the payload of the server's next frame: one packet or one text
	// message. The end is io.EOF or, where the server gave a code, *Closed.
	Next() ([]byte, error)
	// End ends the client's side of the stream with no goodbye.
	End() error
	// Close frees the client.
	Close() error
}

// Closed is the end of a connection with a code.
type Closed struct {
	Code   protocol.CloseCode
	Reason string
}

func (c *Closed) Error() string { return fmt.Sprintf("closed with %d %q", c.Code, c.Reason) }

// run starts a server for one connection and returns the client of it.
func (h Harness) run(t *testing.T, o Options, handle func(transport.Conn)) Client {
	t.Helper()
	c := h.Start(t, o, handle)()
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// form is the wire form that the suite's clients speak.
func (h Harness) form() transport.Form {
	if h.Text {
		return transport.FormImgoJSON
	}
	return transport.FormGoim
}

// packet encodes a client's packet. A text body has to be JSON.
func (h Harness) packet(op, seq int32, body string) []byte {
	if !h.Text {
		return transport.AppendPacket(nil, 1, protocol.HeaderV1, op, seq, 0, []byte(body))
	}
	if body == "" {
		return fmt.Appendf(nil, `{"ver":1,"op":%d,"seq":%d}`, op, seq)
	}
	return fmt.Appendf(nil, `{"ver":1,"op":%d,"seq":%d,"body":%s}`, op, seq, body)
}

// body makes a body of about n bytes that is good for either form.
func body(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = 'a' + byte(i%26)
	}
	return strconv.Quote(string(b))
}

// decode decodes a server's frame, which has to be one packet.
func (h Harness) decode(b []byte) (transport.Packet, error) {
	if !h.Text {
		p, rest, err := transport.DecodePacket(b, 64<<20)
		if err == nil && len(rest) > 0 {
			err = fmt.Errorf("%d bytes after the packet", len(rest))
		}
		return p, err
	}
	var objects []struct {
		Ver  int16           `json:"ver"`
		Op   int32           `json:"op"`
		Seq  int32           `json:"seq"`
		Body json.RawMessage `json:"body"`
	}
	if err := json.Unmarshal(b, &objects); err != nil {
		return transport.Packet{}, err
	}
	if len(objects) != 1 {
		return transport.Packet{}, fmt.Errorf("%d objects in a frame", len(objects))
	}
	o := objects[0]
	return transport.Packet{Version: o.Ver, Op: o.Op, Seq: o.Seq, Body: o.Body}, nil
}

// expect reads one packet and checks it.
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

// expectEnd reads until the end, which must be one, and returns it.
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

// result carries what a handler saw to the test.
type result[T any] struct {
	ch   chan T
	once sync.Once
}

func newResult[T any]() *result[T] { return &result[T]{ch: make(chan T, 1)} }

func (r *result[T]) put(v T) { r.once.Do(func() { r.ch <- v }) }

func (r *result[T]) wait(t *testing.T) T {
	t.Helper()
	select {
	case v := <-r.ch:
		return v
	case <-time.After(WaitLimit):
		t.Fatal("the handler did not get there")
		panic("unreachable")
	}
}

// Eventually polls cond until it holds or WaitLimit is over.
func Eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(WaitLimit); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", WaitLimit, what)
		}
	}
}

// soon is a generous write deadline.
func soon() time.Time { return time.Now().Add(WaitLimit) }
