package raw_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"imgo/clients/go/raw"
)

func TestParseTarget(t *testing.T) {
	for text, want := range map[string]string{
		"host:8080": "host:8080", "tcp://host:8080": "host:8080", "tls://host:1": "tls://host:1", "[::1]:1": "[::1]:1",
		"ws://host:8090": "ws://host:8090/sub", "wss://host/": "wss://host/sub", "ws://host/x?y=1": "ws://host/x?y=1",
	} {
		to, err := raw.ParseTarget(text)
		if err != nil || to.String() != want {
			t.Errorf("%s: %s, %v", text, to, err)
		}
		if to.WebSocket() != strings.HasPrefix(text, "ws") || to.Secure() != (strings.HasPrefix(text, "wss") || strings.HasPrefix(text, "tls")) {
			t.Errorf("%s: WebSocket %v, secure %v", text, to.WebSocket(), to.Secure())
		}
	}
	for _, text := range []string{"", "host", "host:", "http://host:1", "ws://", "tls://host"} {
		if to, err := raw.ParseTarget(text); err == nil {
			t.Errorf("%q is taken as %s", text, to)
		}
	}
}

func TestParseClose(t *testing.T) {
	for body, want := range map[string]raw.CloseError{
		`{"code":3001,"reason":"r","addresses":["a:1"]}`: {Code: 3001, Reason: "r", Reconnect: true, Addresses: []string{"a:1"}},
		`{"code":3501}`:                   {Code: 3501, Reason: "no reason given"},
		`{"code":3501,"reconnect":true}`:  {Code: 3501, Reason: "no reason given", Reconnect: true},
		`{"code":3001,"reconnect":false}`: {Code: 3001, Reason: "no reason given"},
		`x`:                               {Reason: "no reason that can be read", Reconnect: true},
	} {
		got := raw.ParseClose([]byte(body))
		if got.Code != want.Code || got.Reason != want.Reason || got.Reconnect != want.Reconnect || len(got.Addresses) != len(want.Addresses) {
			t.Errorf("%s: %+v", body, got)
		}
	}
}

func TestBatch(t *testing.T) {
	one := packet(nil, 2, 5, 0, 7, []byte("a"))
	two := packet(one, 1, 5, 0, 0, nil)
	packets, err := raw.Batch(two, 10)
	if err != nil || len(packets) != 2 || packets[0].ID != 7 || string(packets[0].Body) != "a" || packets[1].ID != 0 {
		t.Errorf("%+v, %v", packets, err)
	}
	for name, body := range map[string][]byte{
		"half a packet":      two[:len(two)-1],
		"too large":          packet(nil, 1, 5, 0, 0, make([]byte, 11)),
		"a batch in a batch": packet(nil, 1, raw.OpRaw, 0, 0, one),
	} {
		if _, err := raw.Batch(body, 10); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestAckBody(t *testing.T) {
	if got := string(raw.AckBody(true, []uint64{1, 1 << 63})); got != `["1","9223372036854775808"]` {
		t.Errorf("text: %s", got)
	}
	if got := raw.AckBody(false, []uint64{258}); string(got) != "\x00\x00\x00\x00\x00\x00\x01\x02" {
		t.Errorf("binary: %x", got)
	}
}

// packet appends a packet with the header of a version.
func packet(dst []byte, version int, op, seq int32, id uint64, body []byte) []byte {
	return raw.AppendPacket(dst, raw.Packet{Version: 2, Long: version == 2, Op: op, Seq: seq, ID: id, Body: body})
}

// stream starts a server for one TCP connection and passes the connection to serve.
func stream(t *testing.T, serve func(net.Conn)) raw.Target {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conn, err := l.Accept(); err == nil {
			serve(conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return target(t, l.Addr().String())
}

func target(t *testing.T, text string) raw.Target {
	t.Helper()
	to, err := raw.ParseTarget(text)
	if err != nil {
		t.Fatal(err)
	}
	return to
}

func dial(t *testing.T, to raw.Target, o raw.Options) *raw.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := raw.Dial(ctx, to, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func soon() time.Time { return time.Now().Add(time.Minute) }

func TestStream(t *testing.T) {
	to := stream(t, func(conn net.Conn) {
		p, err := raw.ReadPacket(bufio.NewReader(conn), 100)
		if err != nil || p.Version != 2 || p.Op != raw.OpAuth || p.Seq != 1 || string(p.Body) != "token" {
			t.Errorf("the server got %+v, %v", p, err)
		}
		b := packet(nil, 2, raw.OpAuthReply, 1, 0, []byte("{}"))
		b = packet(b, 2, raw.OpMessage, 0, 9, []byte("hello"))
		_, _ = conn.Write(b)
		_, _ = io.Copy(io.Discard, conn)
	})
	c := dial(t, to, raw.Options{ReadBuffer: 1 << 10})
	if err := c.Write(soon(), raw.Packet{Op: raw.OpAuth, Seq: 1, Body: []byte("token")}); err != nil {
		t.Fatal(err)
	}
	if p, err := c.Read(soon()); err != nil || p.Op != raw.OpAuthReply {
		t.Fatalf("%+v, %v", p, err)
	}
	if p, err := c.Read(soon()); err != nil || p.ID != 9 || string(p.Body) != "hello" || c.Buffered() {
		t.Fatalf("%+v, %v, buffered %v", p, err, c.Buffered())
	}
	if _, err := c.Read(time.Now().Add(time.Millisecond)); !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
		t.Errorf("nothing comes, and Read returns %v", err)
	}
	c.CloseWrite()
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func TestStreamBounds(t *testing.T) {
	to := stream(t, func(conn net.Conn) {
		_, _ = conn.Write(packet(nil, 1, 5, 0, 0, make([]byte, 11)))
		_, _ = io.Copy(io.Discard, conn)
	})
	c := dial(t, to, raw.Options{MaxBody: 10})
	if _, err := c.Read(soon()); err == nil {
		t.Error("a body over MaxBody was read")
	}
	c.Abort()
}

// webSocket starts a server that passes each WebSocket to serve.
func webSocket(t *testing.T, serve func(context.Context, *websocket.Conn)) raw.Target {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/sub" {
			http.NotFound(w, r)
			return
		}
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		serve(r.Context(), conn)
	}))
	t.Cleanup(s.Close)
	return target(t, "ws"+strings.TrimPrefix(s.URL, "http"))
}

func TestWebSocketBinary(t *testing.T) {
	to := webSocket(t, func(ctx context.Context, conn *websocket.Conn) {
		kind, data, err := conn.Read(ctx)
		if p, _, derr := raw.DecodePacket(data, 100); err != nil || derr != nil || kind != websocket.MessageBinary || p.Op != 7 {
			t.Errorf("the server got %v %q, %v", kind, data, err)
		}
		b := packet(nil, 2, 8, 1, 0, nil)
		_ = conn.Write(ctx, websocket.MessageBinary, packet(b, 2, 5, 0, 3, nil))
		_ = conn.Close(websocket.StatusCode(raw.CloseKicked), "out")
	})
	c := dial(t, to, raw.Options{})
	if err := c.Write(soon(), raw.Packet{Op: 7}); err != nil {
		t.Fatal(err)
	}
	if p, err := c.Read(soon()); err != nil || p.Op != 8 || !c.Buffered() {
		t.Fatalf("%+v, %v, buffered %v", p, err, c.Buffered())
	}
	if p, err := c.Read(soon()); err != nil || p.ID != 3 {
		t.Fatalf("%+v, %v", p, err)
	}
	var closed *raw.CloseError
	if _, err := c.Read(soon()); !errors.As(err, &closed) || closed.Code != raw.CloseKicked || closed.Reconnect {
		t.Errorf("the end is %v", err)
	}
}

func TestWebSocketText(t *testing.T) {
	to := webSocket(t, func(ctx context.Context, conn *websocket.Conn) {
		kind, data, err := conn.Read(ctx)
		if err != nil || kind != websocket.MessageText || string(data) != `{"ver":2,"op":2,"seq":1,"body":{}}` {
			t.Errorf("the server got %v %q, %v", kind, data, err)
		}
		_ = conn.Write(ctx, websocket.MessageText, []byte(`[{"ver":2,"op":3,"seq":1,"id":"0","body":{}},{"ver":2,"op":5,"id":"12","body":[1]}]`))
		_, _, _ = conn.Read(ctx)
	})
	c := dial(t, to, raw.Options{Text: true})
	if err := c.Write(soon(), raw.Packet{Op: 2, Seq: 1}); err != nil {
		t.Fatal(err)
	}
	if p, err := c.Read(soon()); err != nil || p.Op != 3 || p.Seq != 1 {
		t.Fatalf("%+v, %v", p, err)
	}
	if p, err := c.Read(soon()); err != nil || p.ID != 12 || string(p.Body) != "[1]" {
		t.Fatalf("%+v, %v", p, err)
	}
	if _, err := raw.Dial(t.Context(), target(t, "127.0.0.1:1"), raw.Options{Text: true}); err == nil {
		t.Error("JSON over TCP was taken")
	}
}

func TestDialErrors(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	_, err := raw.Dial(t.Context(), target(t, "ws"+strings.TrimPrefix(s.URL, "http")), raw.Options{})
	if err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a server without WebSocket: %v", err)
	}
	if _, err := raw.Dial(t.Context(), target(t, "127.0.0.1:1"), raw.Options{}); err == nil {
		t.Error("nobody listens, and Dial has no error")
	}
}
