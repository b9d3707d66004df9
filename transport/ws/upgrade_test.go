package ws_test

import (
	"bufio"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/rs/zerolog"

	"imgo/internal/wait/waittest"
	"imgo/protocol"
	"imgo/transport"
	"imgo/transport/transporttest"
	"imgo/transport/ws"
)

// echo answers every packet with its body as op 5.
func echo(c transport.Conn) {
	for {
		p, err := transporttest.ReadPacket(c)
		if err != nil {
			return
		}
		form := transport.FormGoim
		if c.Text() {
			form = transport.FormImgoJSON
		}
		b := transport.EncodeReply(form, p.Version, protocol.OpMessage, p.Seq, 0, p.Body)
		if c.Write(time.Now().Add(transporttest.WaitLimit), b) != nil {
			return
		}
	}
}

// ping sends a packet and expects its echo.
func ping(t *testing.T, c *transporttest.WebSocket) {
	t.Helper()
	payload := transport.AppendPacket(nil, 1, protocol.HeaderV1, 4, 9, 0, []byte(`"ping"`))
	if c.Text {
		payload = []byte(`{"ver":1,"op":4,"seq":9,"body":"ping"}`)
	}
	if err := c.Send(c.Frame(payload)); err != nil {
		t.Fatal(err)
	}
	if b, err := c.Next(); err != nil || !strings.Contains(string(b), `"ping"`) {
		t.Fatalf("echo: %q, %v", b, err)
	}
}

// counter counts the calls of Config.Refused.
type counter struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *counter) add(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[reason]++
}

func (c *counter) of(reason string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[reason]
}

func TestUpgradeIsRefused(t *testing.T) {
	const hello = "Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	without := func(line string) string { return strings.Replace(hello, line+"\r\n", "", 1) }
	var refused counter
	l := listen(t, ws.Config{ListenConfig: transport.ListenConfig{Refused: refused.add, HandshakeTimeout: 2 * time.Second}})
	transporttest.Serve(t, l, func(transport.Conn) { t.Error("a refused request reached the handler") })
	for name, test := range map[string]struct {
		request string
		status  int
		reason  string
		header  string
	}{
		"wrong path":     {"GET /other HTTP/1.1\r\n" + hello, 404, "path", ""},
		"root":           {"GET / HTTP/1.1\r\n" + hello, 404, "path", ""},
		"below the path": {"GET /sub/x HTTP/1.1\r\n" + hello, 404, "path", ""},
		"POST":           {"POST /sub HTTP/1.1\r\n" + hello, 405, "method", "Allow"},
		"HEAD":           {"HEAD /sub HTTP/1.1\r\n" + hello, 405, "method", "Allow"},
		"OPTIONS":        {"OPTIONS /sub HTTP/1.1\r\n" + hello, 405, "method", "Allow"},
		"no upgrade":     {"GET /sub HTTP/1.1\r\nHost: x\r\n\r\n", 426, "upgrade", "Upgrade"},
		"no Connection":  {"GET /sub HTTP/1.1\r\n" + without("Connection: Upgrade"), 426, "upgrade", "Upgrade"},
		"other upgrade":  {"GET /sub HTTP/1.1\r\n" + strings.Replace(hello, "websocket", "h2c", 1), 426, "upgrade", "Upgrade"},
		"no key":         {"GET /sub HTTP/1.1\r\n" + without("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400, "upgrade", ""},
		"empty key":      {"GET /sub HTTP/1.1\r\n" + strings.Replace(hello, "dGhlIHNhbXBsZSBub25jZQ==", " ", 1), 400, "upgrade", ""},
		"two keys":       {"GET /sub HTTP/1.1\r\nSec-WebSocket-Key: AAAA\r\n" + hello, 400, "upgrade", ""},
		"old version": {"GET /sub HTTP/1.1\r\n" + strings.Replace(hello, "Version: 13", "Version: 8", 1),
			400, "upgrade", "Sec-Websocket-Version"},
		"HTTP 2":             {"GET /sub HTTP/2.0\r\n" + hello, 505, "http", ""},
		"space before colon": {"GET /sub HTTP/1.1\r\nX-A : b\r\n" + hello, 400, "http", ""},
		"no Host":            {"GET /sub HTTP/1.1\r\n" + without("Host: x"), 400, "http", ""},
		"no HTTP":            {"\x00\x00\x00\x10\x00\x10\x00\x01\x00\x00\x00\x07\x00\x00\x00\x00\r\n\r\n", 400, "http", ""},
		"header without end": {"GET /sub HTTP/1.1\r\nX: " + strings.Repeat("x", 64<<10), 431, "http", ""},
		"POST with long body": {"POST /sub HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + strings.Repeat("x", 1000),
			405, "method", "Allow"},
	} {
		t.Run(name, func(t *testing.T) {
			before := refused.of(test.reason)
			c := transporttest.Dial(t, l, nil)
			_ = c.SetDeadline(time.Now().Add(transporttest.WaitLimit))
			if _, err := io.WriteString(c, test.request); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != test.status || test.header != "" && resp.Header.Get(test.header) == "" {
				t.Errorf("%s %v, want status %d and a header %q", resp.Status, resp.Header, test.status, test.header)
			}
			if resp.StatusCode/100 == 4 && !resp.Close {
				t.Error("the connection is kept for another request")
			}
			waittest.Eventually(t, "counted as "+test.reason, func() bool { return refused.of(test.reason) == before+1 })
		})
	}
}

// TestRefusalTexts checks that a refused request is told what is wrong with it.
func TestRefusalTexts(t *testing.T) {
	l := listen(t, ws.Config{})
	transporttest.Serve(t, l, func(transport.Conn) { t.Error("a refused request reached the handler") })
	for text, request := range map[string]string{
		"this is no valid HTTP/1.1 request":                     "GET\r\n\r\n",
		"the request has no Host header":                        "GET /sub HTTP/1.1\r\n\r\n",
		"the Host header is not valid":                          "GET /sub HTTP/1.1\r\nHost: a b\r\n\r\n",
		"the name of a header has a space":                      "GET /sub HTTP/1.1\r\nHost: x\r\nX-Y : z\r\n\r\n",
		"the server supports HTTP/1.1 only":                     "GET /sub HTTP/2.0\r\nHost: x\r\n\r\n",
		"the server does not support this Transfer-Encoding":    "POST /sub HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
		"the server supports no Expect header but 100-continue": "GET /sub HTTP/1.1\r\nHost: x\r\nExpect: more\r\n\r\n",
	} {
		c := transporttest.Dial(t, l, nil)
		_ = c.SetDeadline(time.Now().Add(transporttest.WaitLimit))
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); string(body) != text+"\n" || err != nil {
			t.Errorf("%q is answered with %q, %v, want %q", request, body, err, text)
		}
	}
}

// TestAncestorsHandshakes checks that requests are upgraded that both ancestors took, however a
// connection is run: a key that is not 16 bytes in base64, HTTP/1.0, lines that end in a bare line
// feed, an empty Host. The answer to the key is that of RFC 6455.
func TestAncestorsHandshakes(t *testing.T) {
	certFile, keyFile := transporttest.WriteCert(t, t.TempDir(), "imgo")
	certificate, err := transport.ReloadingTLS(certFile, keyFile, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	const rest = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
	const key = "dGhlIHNhbXBsZSBub25jZQ=="
	for name, request := range map[string]string{
		"short key":       "GET /sub HTTP/1.1\r\nHost: x\r\n" + rest + "AAAA\r\n\r\n",
		"key of 10 bytes": "GET /sub HTTP/1.1\r\nHost: x\r\n" + rest + "MTIzNDU2Nzg5MA==\r\n\r\n",
		"no base64":       "GET /sub HTTP/1.1\r\nHost: x\r\n" + rest + "not a key!\r\n\r\n",
		"long key":        "GET /sub HTTP/1.1\r\nHost: x\r\n" + rest + strings.Repeat("k", 300) + "\r\n\r\n",
		"HTTP 1.0":        "GET /sub HTTP/1.0\r\nHost: x\r\n" + rest + key + "\r\n\r\n",
		"no Host in 1.0":  "GET /sub HTTP/1.0\r\n" + rest + key + "\r\n\r\n",
		"bare line feeds": strings.ReplaceAll("GET /sub HTTP/1.1\r\nHost: x\r\n"+rest+key+"\r\n\r\n", "\r", ""),
		"empty Host":      "GET /sub HTTP/1.1\r\nHost: \r\n" + rest + key + "\r\n\r\n",
	} {
		_, sent, _ := strings.Cut(request, "Sec-WebSocket-Key: ")
		sum := sha1.Sum([]byte(strings.TrimSpace(sent) + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		want := base64.StdEncoding.EncodeToString(sum[:])
		for _, way := range []string{"epoll", "goroutines", "TLS"} {
			t.Run(name+"/"+way, func(t *testing.T) {
				cfg := ws.Config{ListenConfig: transport.ListenConfig{Goroutines: way == "goroutines"}}
				var clientTLS *tls.Config
				if way == "TLS" {
					cfg.TLS, clientTLS = certificate, transporttest.ClientTLS(t, certFile)
				}
				l := listen(t, cfg)
				transporttest.Serve(t, l, echo)
				c := transporttest.Dial(t, l, clientTLS)
				_ = c.SetDeadline(time.Now().Add(transporttest.WaitLimit))
				if _, err := io.WriteString(c, request); err != nil {
					t.Fatal(err)
				}
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil || resp.StatusCode != 101 || resp.Header.Get("Sec-WebSocket-Accept") != want {
					t.Errorf("answered with %+v, %v, want the key %s", resp, err, want)
				}
			})
		}
	}
}

func TestOrigins(t *testing.T) {
	for _, test := range []struct {
		allowed []string
		origin  string
		in      bool
	}{
		{nil, "https://evil.example", true},
		{nil, "null", true},
		{[]string{"https://*.example.com"}, "https://chat.example.com", true},
		{[]string{"https://*.example.com"}, "HTTPS://Chat.Example.COM", true},
		{[]string{"https://*.Example.com/"}, "https://a.b.example.com", true},
		{[]string{"https://*.example.com"}, "http://chat.example.com", false},
		{[]string{"https://*.example.com"}, "https://example.com", false},
		{[]string{"https://*.example.com"}, "https://chat.example.com:8443", false},
		{[]string{"https://*.example.com"}, "https://chat.example.com.evil.example", false},
		{[]string{"https://*.example.com"}, "https://evil.example/.example.com", false},
		{[]string{"chat.example.com"}, "http://chat.example.com", true},
		{[]string{"localhost:*"}, "http://localhost:3000", true},
		{[]string{"a.example", "b.example"}, "https://b.example", true},
		{[]string{"a.example", "b.example"}, "https://c.example", false},
		{[]string{"a.example"}, "", true},
		{[]string{"a.example"}, "null", false},
		{[]string{"a.example"}, "https://imgo.example", false}, // The host of the request is no exception.
		{[]string{"a.example"}, "%", false},
		{[]string{"*"}, "https://c.example:99", true},
		{[]string{"bücher.example"}, "https://xn--bcher-kva.example", true},
		{[]string{"localhost"}, "http://localhost:3000", true},
	} {
		var refused counter
		l := listen(t, ws.Config{Origins: test.allowed, ListenConfig: transport.ListenConfig{Refused: refused.add}})
		t.Run(strings.Join(test.allowed, ",")+" "+test.origin, func(t *testing.T) {
			transporttest.Serve(t, l, echo)
			var header []string
			if test.origin != "" {
				header = []string{"Origin: " + test.origin}
			}
			w, resp, err := transporttest.Upgrade(transporttest.Dial(t, l, nil), "/sub", header...)
			switch {
			case err != nil:
				t.Fatal(err)
			case test.in && resp.StatusCode != http.StatusSwitchingProtocols:
				t.Errorf("refused with %s", resp.Status)
			case test.in:
				ping(t, w)
			case resp.StatusCode != http.StatusForbidden || refused.of("origin") != 1:
				t.Errorf("answered with %s and %d counted, want 403 and 1", resp.Status, refused.of("origin"))
			default:
				if b, _ := io.ReadAll(resp.Body); !strings.Contains(string(b), "is not allowed") {
					t.Errorf("refused with the text %q", b)
				}
			}
		})
	}
	for _, bad := range []string{"", "https://[", "a[b"} {
		if _, err := ws.Listen(ws.Config{Origins: []string{bad}, ListenConfig: transport.ListenConfig{Addr: "127.0.0.1:0"}}); err == nil {
			t.Errorf("the origin pattern %q was taken", bad)
		}
	}
}

// TestRequestSize checks that a request may be as long as Config.RequestSize says, with all its
// cookies, and no longer, with and without TLS.
func TestRequestSize(t *testing.T) {
	certFile, keyFile := transporttest.WriteCert(t, t.TempDir(), "imgo")
	cfg, err := transport.ReloadingTLS(certFile, keyFile, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	for _, secure := range []bool{false, true} {
		for _, test := range []struct {
			bound, cookies, status int
		}{
			{0, 31 << 10, 101}, {0, 33 << 10, 431}, {8 << 10, 7 << 10, 101}, {8 << 10, 9 << 10, 431}, {64 << 10, 60 << 10, 101},
		} {
			conf := ws.Config{RequestSize: test.bound}
			var clientTLS *tls.Config
			if secure {
				conf.TLS, clientTLS = cfg, transporttest.ClientTLS(t, certFile)
			}
			l := listen(t, conf)
			transporttest.Serve(t, l, echo)
			w, resp, err := transporttest.Upgrade(transporttest.Dial(t, l, clientTLS), "/sub", "Cookie: "+strings.Repeat("c", test.cookies))
			if err != nil || resp.StatusCode != test.status {
				t.Errorf("TLS %v: %d bytes of cookies with a bound of %d: %v, %v, want %d", secure, test.cookies, test.bound, resp, err, test.status)
				continue
			}
			if test.status == http.StatusSwitchingProtocols {
				ping(t, w)
			}
		}
	}
}

// TestSlowlorisOnTheUpgrade checks that a silent client, or one that sends its request slowly, is
// disconnected after the handshake timeout.
func TestSlowlorisOnTheUpgrade(t *testing.T) {
	var refused counter
	l := listen(t, ws.Config{ListenConfig: transport.ListenConfig{HandshakeTimeout: 150 * time.Millisecond, Refused: refused.add}})
	transporttest.Serve(t, l, func(transport.Conn) { t.Error("half a request reached the handler") })
	silent := transporttest.Dial(t, l, nil)
	slow := transporttest.Dial(t, l, nil)
	var dribble sync.WaitGroup
	dribble.Go(func() {
		for _, b := range []byte("GET /sub HTTP/1.1\r\nHost: " + strings.Repeat("x", 5000)) {
			if _, err := slow.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Error("the server took it all")
	})
	_ = silent.SetReadDeadline(time.Now().Add(transporttest.WaitLimit))
	if _, err := silent.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("a silent client: %v, want its end", err)
	}
	dribble.Wait()
	waittest.Eventually(t, "both are counted", func() bool { return refused.of("http") == 2 })
}

// TestStopDuringTheUpgrade checks that an unfinished handshake does not delay the stop of the
// listener.
func TestStopDuringTheUpgrade(t *testing.T) {
	l := listen(t, ws.Config{ListenConfig: transport.ListenConfig{
		HandshakeTimeout: time.Hour, Grace: time.Hour, Linger: 10 * time.Millisecond,
	}})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx, echo) }()
	c := dial(t, l, nil, false)
	ping(t, c)
	half := transporttest.Dial(t, l, nil)
	if _, err := io.WriteString(half, "GET /sub HT"); err != nil {
		t.Fatal(err)
	}
	up := dial(t, l, nil, false) // It is accepted after the unfinished one.
	_ = up.Close()
	cancel()
	_ = half.SetReadDeadline(time.Now().Add(transporttest.WaitLimit))
	if _, err := half.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the half of a request: %v, want its end", err)
	}
	_ = c.Close()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(transporttest.WaitLimit):
		t.Error("Run goes on")
	}
}

// TestMessageRightBehindTheRequest checks that a client may send its first message together with its
// request.
func TestMessageRightBehindTheRequest(t *testing.T) {
	l := listen(t, ws.Config{})
	transporttest.Serve(t, l, echo)
	c := transporttest.Dial(t, l, nil)
	_ = c.SetDeadline(time.Now().Add(transporttest.WaitLimit))
	request := "GET /sub?token=x HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
		"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
	long := `{"op":4,"seq":1,"body":"` + strings.Repeat("x", 2000) + `"}`
	if _, err := c.Write(append([]byte(request), transporttest.RawFrame(0x81, true, []byte(long))...)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v, %v", resp, err)
	}
	if resp.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" { // RFC 6455, 1.3
		t.Errorf("answered with %v", resp.Header)
	}
	if ext := resp.Header.Get("Sec-WebSocket-Extensions"); ext != "" {
		t.Errorf("agreed to %q", ext)
	}
	b := make([]byte, 2000)
	if n, err := io.ReadAtLeast(r, b, 100); err != nil || !strings.Contains(string(b[:n]), `"seq":1,"body":"xxxx`) {
		t.Errorf("echo: %q, %v", b[:n], err)
	}
}

// TestLibraryClient tests the client of the WebSocket library against the server, with and without
// TLS.
func TestLibraryClient(t *testing.T) {
	certFile, keyFile := transporttest.WriteCert(t, t.TempDir(), "imgo")
	cfg, err := transport.ReloadingTLS(certFile, keyFile, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	for _, scheme := range []string{"ws", "wss"} {
		conf := ws.Config{}
		if scheme == "wss" {
			conf.TLS = cfg
		}
		l := listen(t, conf)
		transporttest.Serve(t, l, func(c transport.Conn) {
			echo(c)
			_ = c.Close(3001, "bye")
		})
		ctx, cancel := context.WithTimeout(context.Background(), transporttest.WaitLimit)
		defer cancel()
		web := &http.Transport{TLSClientConfig: transporttest.ClientTLS(t, certFile), ForceAttemptHTTP2: true}
		c, _, err := websocket.Dial(ctx, scheme+"://"+l.Addr().String()+"/sub", &websocket.DialOptions{
			HTTPClient: &http.Client{Transport: web}, CompressionMode: websocket.CompressionContextTakeover,
		})
		if err != nil {
			t.Fatal(err)
		}
		c.SetReadLimit(1 << 20)
		big := `{"op":4,"seq":2,"body":"` + strings.Repeat(`\n`, 50000) + `"}` // escapes count once against the limit
		for _, text := range []string{`{"op":4,"seq":1,"body":"x"}`, big} {
			if err := c.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
				t.Fatal(err)
			}
			typ, b, err := c.Read(ctx)
			if err != nil || typ != websocket.MessageText || len(b) < len(text) {
				t.Fatalf("echo: %v %.100q %v", typ, b, err)
			}
		}
		if err := c.Write(ctx, websocket.MessageText, []byte("no JSON")); err != nil {
			t.Fatal(err)
		}
		_, _, err = c.Read(ctx)
		var closed websocket.CloseError
		if !errors.As(err, &closed) || closed.Code != 3001 || closed.Reason != "bye" {
			t.Errorf("the end: %v, want 3001 bye", err)
		}
		_ = c.CloseNow()
		web.CloseIdleConnections()
	}
}

// TestReleasedFollowsAdmit checks that every Admit is followed by one Released, whether the connection
// was upgraded or not.
func TestReleasedFollowsAdmit(t *testing.T) {
	var admitted, released atomic.Int32
	l := listen(t, ws.Config{ListenConfig: transport.ListenConfig{
		Admit:    func(netip.Addr) error { admitted.Add(1); return nil },
		Released: func(netip.Addr) { released.Add(1) },
	}})
	transporttest.Serve(t, l, echo)
	c := dial(t, l, nil, true)
	ping(t, c)
	for _, request := range []string{"nonsense\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", ""} {
		plain := transporttest.Dial(t, l, nil)
		if _, err := io.WriteString(plain, request); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(plain, int64(len(request))))
		_ = plain.Close()
	}
	waittest.Eventually(t, "all but one are released", func() bool { return admitted.Load() == 4 && released.Load() == 3 })
	_ = c.Close()
	waittest.Eventually(t, "the last is released", func() bool { return released.Load() == 4 })
}
