package e2e_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	imgoclient "imgo/clients/go"
	"imgo/protocol"
	"imgo/transport"
	"imgo/transport/transporttest"
)

// client is a raw client. It can send what a client library would refuse to send.
type client struct {
	transporttest.Client
	t    *testing.T
	text bool
	v2   bool // it has asked for version 2
}

// dial connects to an address and closes the connection when the test ends.
func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, waitLimit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// tcp connects over TCP.
func (n *node) tcp(t *testing.T) *client {
	t.Helper()
	return tcpTo(t, n.ClientAddr("tcp").String())
}

func tcpTo(t *testing.T, addr string) *client {
	t.Helper()
	return &client{Client: &transporttest.Stream{Conn: dial(t, addr)}, t: t}
}

// ws connects over WebSocket.
func (n *node) ws(t *testing.T, text bool) *client {
	t.Helper()
	return wsTo(t, n.ClientAddr("ws").String(), text)
}

func wsTo(t *testing.T, addr string, text bool, header ...string) *client {
	t.Helper()
	ws, response, err := transporttest.Upgrade(dial(t, addr), "/sub", header...)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != 101 {
		t.Fatalf("the upgrade was answered %s", response.Status)
	}
	ws.Text = text
	return &client{Client: ws, t: t, text: text}
}

// dialAs connects over "tcp", "ws" (binary) or "text" (JSON on WebSocket).
func (n *node) dialAs(t *testing.T, transport string) *client {
	t.Helper()
	if transport == "tcp" {
		return n.tcp(t)
	}
	return n.ws(t, transport == "text")
}

// wire returns a packet made of hex digits and a body. Spaces between the digits are ignored.
func wire(header, body string) string {
	b, err := hex.DecodeString(strings.ReplaceAll(header, " ", ""))
	if err != nil {
		panic(err)
	}
	return string(b) + body
}

// packet returns a client packet with the short header.
func packet(version int16, op, seq int32, body string) string {
	return string(transport.AppendPacket(nil, version, protocol.HeaderV1, op, seq, 0, []byte(body)))
}

// put sends one frame: a binary packet or a JSON object.
func (c *client) put(frame string) {
	c.t.Helper()
	c.v2 = c.v2 || asksForV2(frame)
	c.raw(string(c.Frame([]byte(frame))))
}

// asksForV2 reports whether a frame that is sent first asks for version 2.
func asksForV2(frame string) bool {
	if strings.HasPrefix(frame, "{") {
		return strings.Contains(frame, `"ver":2`) && strings.Contains(frame, `"body":{`)
	}
	p, _, err := transport.DecodePacket([]byte(frame), 1<<20)
	return err == nil && p.Version == protocol.Version2 && (p.Long || strings.HasPrefix(string(p.Body), "{"))
}

// raw writes bytes to the connection.
func (c *client) raw(b string) {
	c.t.Helper()
	if err := c.Send([]byte(b)); err != nil {
		c.t.Fatalf("sending %.100q: %v", b, err)
	}
}

// want reads one frame and compares its bytes.
func (c *client) want(frame string) {
	c.t.Helper()
	b, err := c.Next()
	if err != nil {
		c.t.Fatalf("waiting for %q: %v", frame, err)
	}
	if string(b) != frame {
		c.t.Fatalf("got  %q\nwant %q", b, frame)
	}
}

// send sends a packet in the client's form. In the text form body must be JSON.
func (c *client) send(version int16, op, seq int32, body string) {
	c.t.Helper()
	c.put(c.encode(version, op, seq, body))
}

func (c *client) encode(version int16, op, seq int32, body string) string {
	if !c.text {
		return packet(version, op, seq, body)
	}
	frame := fmt.Sprintf(`{"ver":%d,"op":%d,"seq":%d`, version, op, seq)
	if body != "" {
		frame += `,"body":` + body
	}
	return frame + "}"
}

// next reads one packet. The body of a text frame is its JSON.
func (c *client) next() (transport.Packet, error) {
	b, err := c.Next()
	if err != nil {
		return transport.Packet{}, err
	}
	if !c.text {
		p, rest, err := transport.DecodePacket(b, 1<<30)
		if err == nil && len(rest) > 0 {
			err = fmt.Errorf("%d bytes after a packet", len(rest))
		}
		if err == nil && p.Op == protocol.OpRaw { // a push to a goim client on WebSocket
			p, _, err = transport.DecodePacket(p.Body, 1<<30)
		}
		return p, err
	}
	inner, ok := strings.CutPrefix(strings.TrimSuffix(string(b), "\n"), "[")
	inner, end := strings.CutSuffix(inner, "]")
	if !ok || !end {
		return transport.Packet{}, fmt.Errorf("server frame %.100q is no array", b)
	}
	p, err := transport.ParseJSON([]byte(inner), protocol.DefaultMaxBody)
	if err == nil {
		var id struct {
			ID uint64 `json:"id,string"`
		}
		if err = decodeJSON(inner, &id); err == nil {
			p.ID = id.ID
		}
	}
	return p, err
}

// receive reads one packet, and fails the test on an error.
func (c *client) receive() transport.Packet {
	c.t.Helper()
	p, err := c.next()
	if err != nil {
		c.t.Fatalf("waiting for a packet: %v", err)
	}
	return p
}

// expect reads one packet and checks its operation and body.
func (c *client) expect(op int32, body string) transport.Packet {
	c.t.Helper()
	p := c.receive()
	if p.Op != op || string(p.Body) != body {
		c.t.Fatalf("got op %d body %.200q, want op %d body %.200q", p.Op, p.Body, op, body)
	}
	return p
}

// closedWith reads a disconnect packet (op 6) with the code and with a reason that contains says.
// After it the connection must end. A client that has not asked for version 2 gets the end alone.
func (c *client) closedWith(code int, says string) {
	c.t.Helper()
	if !c.v2 {
		c.wantEnd(code)
		return
	}
	p := c.receive()
	body := string(p.Body)
	if p.Op != protocol.OpDisconnect || !strings.HasPrefix(body, fmt.Sprintf(`{"code":%d,"reason":"`, code)) ||
		!strings.HasSuffix(body, fmt.Sprintf(`","reconnect":%t}`, code < 3500)) || !strings.Contains(body, says) {
		c.t.Fatalf("got op %d body %.300q, want op 6 with code %d and %q", p.Op, body, code, says)
	}
	c.wantEnd(code)
}

// wantEnd expects the end of the connection without another packet. If a WebSocket close frame has
// a code, it must be this one.
func (c *client) wantEnd(code int) {
	c.t.Helper()
	b, err := c.Next()
	var closed *transporttest.Closed
	switch {
	case err == nil:
		c.t.Fatalf("got %q, want the end of the connection", b)
	case errors.As(err, &closed):
		if int(closed.Code) != code {
			c.t.Fatalf("closed with %d %q, want %d", closed.Code, closed.Reason, code)
		}
	case !errors.Is(err, io.EOF):
		c.t.Fatalf("the connection ended with %v", err)
	}
}

// login authenticates a client of a generation: "imgo", "goim" (whose users are numbers) or "v2".
// more holds further members of the auth object, each with a comma before it.
func (c *client) login(generation, token, more string) {
	c.t.Helper()
	version, body := int16(1), fmt.Sprintf("%q", token)
	switch generation {
	case "goim":
		body = fmt.Sprintf(`{"mid":%s%s}`, token, more)
	case "v2":
		version, body = 2, fmt.Sprintf(`{"token":%q%s}`, token, more)
	}
	c.send(version, protocol.OpAuth, 1, body)
	if p := c.receive(); p.Op != protocol.OpAuthReply || p.Version != version {
		c.t.Fatalf("auth was answered with %+v %s", p, p.Body)
	}
}

// ack acknowledges a message in protocol version 2.
func (c *client) ack(id uint64) {
	c.t.Helper()
	if c.text {
		c.send(2, protocol.OpAck, 0, fmt.Sprintf(`["%d"]`, id))
		return
	}
	c.send(2, protocol.OpAck, 0, wire(fmt.Sprintf("%016x", id), ""))
}

// witness is a healthy client that stays connected while a test attacks the node.
type witness struct {
	n        *node
	messages chan string
	sent     int
}

// witness connects a witness until the test ends. The test fails if the connection is lost.
func (n *node) witness(t *testing.T) *witness {
	t.Helper()
	w := &witness{n: n, messages: make(chan string, 100)}
	connected := make(chan struct{}, 100)
	c, err := imgoclient.New(imgoclient.Config{
		Address: n.ClientAddr("tcp").String(), Token: "witness", Device: "d",
		OnState: func(to imgoclient.StateChange) {
			switch to.State {
			case imgoclient.Live:
				connected <- struct{}{}
			case imgoclient.Waiting:
				t.Errorf("the witness lost its connection: %v", to.Err)
			}
		},
		OnMessage: func(_ context.Context, m imgoclient.Message) error {
			w.messages <- string(m.Body)
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the witness ended with: %v", err)
		}
	})
	select {
	case <-connected:
	case <-time.After(waitLimit):
		t.Fatal("the witness cannot connect")
	}
	return w
}

// fine checks that the witness still works: it gets exactly one message for one push.
func (w *witness) fine(t *testing.T) {
	t.Helper()
	w.sent++
	body := fmt.Sprintf(`{"n":%d}`, w.sent)
	w.n.push(t, "witness", body)
	select {
	case got := <-w.messages:
		if got != body {
			t.Fatalf("the witness received %.200q, want %q", got, body)
		}
	case <-time.After(waitLimit):
		t.Fatal("the witness no longer receives messages")
	}
}
