package roles_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"imgo/clients/go/raw"
	"imgo/config"
	"imgo/internal/wait/waittest"
	"imgo/protocol"
	"imgo/roles"
	"imgo/roles/logic/auth"
	"imgo/roles/logic/httpapi"
	"imgo/transport"
	"imgo/transport/transporttest"
)

// startNode runs a node with all roles on free ports until the test ends, and waits until it is ready.
func startNode(t *testing.T, change func(*config.Config)) *roles.Node {
	t.Helper()
	n := runNode(t, change)
	waittest.Eventually(t, "the node is ready", func() bool {
		status, _ := get(t, n.HTTPAddr(), "/readyz")
		return status == http.StatusOK
	})
	return n
}

// runNode runs a node until the test ends, and does not wait for it.
func runNode(t *testing.T, change func(*config.Config)) *roles.Node {
	t.Helper()
	cfg := config.Default()
	cfg.DataDir = t.TempDir()
	cfg.HTTP.Listen, cfg.Comet.TCP, cfg.Comet.WS = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	if change != nil {
		change(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n, err := roles.New(ctx, cfg, roles.RunOptions{})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() { result <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-result; err != nil {
			t.Error(err)
		}
	})
	return n
}

// get asks for a path with headers such as "Host: x". It returns status 0 without an answer.
func get(t *testing.T, address net.Addr, path string, headers ...string) (status int, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address.String()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Close = true
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		if r.Header.Set(name, value); name == "Host" {
			r.Host = value
		}
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	if got := resp.Header.Get("X-Content-Type-Options"); got != "nosniff" {
		t.Errorf("%s was answered without nosniff", path)
	}
	return resp.StatusCode, string(data)
}

// TestProfilesNeedAKey asks as a proxy at its defaults does: from loopback and without any header.
func TestProfilesNeedAKey(t *testing.T) {
	keys := []httpapi.Key{{Name: "ops", Key: "key-of-ops", Scopes: []string{"admin"}}, {Name: "app", Key: "key-of-app",
		Scopes: []string{"push", "read"}}}
	without := startNode(t, nil)
	with := startNode(t, func(cfg *config.Config) { cfg.HTTP.Keys, cfg.HTTP.Admin = keys, "127.0.0.1:0" })
	if without.AdminAddr() != nil {
		t.Error("the admin listener is on by default")
	}
	for _, tt := range []struct {
		name    string
		address net.Addr
		headers []string
		status  int
	}{
		{"no keys", without.HTTPAddr(), nil, http.StatusForbidden},
		{"no keys, any key", without.HTTPAddr(), []string{"X-API-Key: key-of-ops"}, http.StatusForbidden},
		{"no key", with.HTTPAddr(), nil, http.StatusUnauthorized},
		{"wrong key", with.HTTPAddr(), []string{"X-API-Key: key-of-nobody"}, http.StatusUnauthorized},
		{"key without the scope", with.HTTPAddr(), []string{"X-API-Key: key-of-app"}, http.StatusForbidden},
		{"key with the scope", with.HTTPAddr(), []string{"Authorization: Bearer key-of-ops"}, http.StatusOK},
		{"admin listener", with.AdminAddr(), nil, http.StatusOK},
		{"admin listener, page of another site", with.AdminAddr(), []string{"Host: evil.example"}, http.StatusForbidden},
		{"admin listener behind a proxy", with.AdminAddr(), []string{"X-Forwarded-For: 1.2.3.4"}, http.StatusForbidden},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, path := range []string{"/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/heap"} {
				if status, body := get(t, tt.address, path, tt.headers...); status != tt.status {
					t.Errorf("%s was answered %d: %.200s", path, status, body)
				}
			}
		})
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		if status, body := get(t, with.AdminAddr(), path); status != http.StatusOK {
			t.Errorf("%s on the admin listener was answered %d: %.200s", path, status, body)
		}
	}
	if _, body := get(t, with.HTTPAddr(), "/debug/pprof/", "X-API-Key: key-of-app"); !strings.Contains(body, `\"admin\"`) {
		t.Errorf("the refusal does not name the scope: %s", body)
	}
}

// TestKeylessAPIIsForThisMachine checks that an API without keys answers neither a page that has
// rebound its name nor what a proxy forwards.
func TestKeylessAPIIsForThisMachine(t *testing.T) {
	n := startNode(t, func(cfg *config.Config) { cfg.HTTP.TrustedOrigins = []string{"https://console.example"} })
	_, port, _ := net.SplitHostPort(n.HTTPAddr().String())
	for _, tt := range []struct {
		header string
		status int
	}{
		{"", http.StatusOK}, {"Host: localhost:" + port, http.StatusOK}, {"Host: [::1]:" + port, http.StatusOK},
		{"Host: console.example", http.StatusOK},
		{"Host: evil.example:7172", http.StatusForbidden},
		{"X-Forwarded-For: 1.2.3.4", http.StatusForbidden},
		{"Forwarded: for=1.2.3.4", http.StatusForbidden},
		{"X-Real-IP: 1.2.3.4", http.StatusForbidden},
		{"Via: 1.1 proxy", http.StatusForbidden},
	} {
		for _, path := range []string{"/v1/stats", "/1/count?type=room", "/goim/online/total"} {
			var headers []string
			if tt.header != "" {
				headers = append(headers, tt.header)
			}
			if status, body := get(t, n.HTTPAddr(), path, headers...); status != tt.status {
				t.Errorf("%s with %q was answered %d: %s", path, tt.header, status, body)
			}
		}
	}
	conn, err := net.Dial("tcp", n.HTTPAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// nginx at its defaults forwards like this.
	fmt.Fprintf(conn, "GET /v1/stats HTTP/1.0\r\nHost: %s\r\nConnection: close\r\n\r\n", n.HTTPAddr())
	_ = conn.SetReadDeadline(time.Now().Add(transporttest.WaitLimit))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("a request as of nginx was answered %s", resp.Status)
	}
}

// TestOpenModeIsForThisMachine checks that pages of other sites cannot be any user of a node without
// authentication.
func TestOpenModeIsForThisMachine(t *testing.T) {
	n := startNode(t, func(cfg *config.Config) { cfg.Auth.Mode, cfg.Comet.WSOrigins = auth.ModeNone, []string{"app.example"} })
	for header, status := range map[string]int{
		"Accept: */*":                       http.StatusSwitchingProtocols,
		"Origin: http://localhost:3000":     http.StatusSwitchingProtocols,
		"Origin: http://127.0.0.1:7172":     http.StatusSwitchingProtocols,
		"Origin: https://app.example":       http.StatusSwitchingProtocols,
		"Origin: https://evil.example":      http.StatusForbidden,
		"Origin: null":                      http.StatusForbidden,
		"X-Forwarded-For: 1.2.3.4":          http.StatusForbidden,
		"Origin: http://localhost.evil.com": http.StatusForbidden,
	} {
		conn, err := net.Dial("tcp", n.ClientAddr("ws").String())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(transporttest.WaitLimit))
		fmt.Fprintf(conn, "GET /sub HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n\r\n", n.ClientAddr("ws"), header)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		conn.Close()
		if resp.StatusCode != status {
			t.Errorf("%s was answered %s, want %d", header, resp.Status, status)
		}
	}
}

// TestHTTPConnectionsAreBounded checks that connections without a request make room for a new caller,
// and that one with a request under way does not.
func TestHTTPConnectionsAreBounded(t *testing.T) {
	const bound = 10
	n := startNode(t, func(cfg *config.Config) { cfg.HTTP.MaxConnections = bound })
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", n.HTTPAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	for range 5 * bound {
		dial()
	}
	if status, body := get(t, n.HTTPAddr(), "/healthz"); status != http.StatusOK {
		t.Fatalf("behind %d silent connections the node answered %d: %s", 5*bound, status, body)
	}
	// A stream of pushes is a request under way for as long as it is open.
	for range bound {
		// The place of the caller before may be free a little later.
		waittest.Eventually(t, "a stream of pushes begins", func() bool {
			conn := dial()
			fmt.Fprint(conn, "POST /v1/push/stream HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
			_ = conn.SetReadDeadline(time.Now().Add(transporttest.WaitLimit))
			line, _ := bufio.NewReader(conn).ReadString('\n')
			return strings.Contains(line, "200")
		})
	}
	if status, _ := get(t, n.HTTPAddr(), "/healthz"); status != 0 {
		t.Errorf("one connection above the bound was answered %d", status)
	}
}

// TestStartsWithoutItsIdentityProvider checks that a node whose JWKS does not answer serves all that needs
// no key of it, and says what is missing.
func TestStartsWithoutItsIdentityProvider(t *testing.T) {
	hang := make(chan struct{})
	provider := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	}))
	defer provider.Close()
	defer close(hang)
	n := runNode(t, func(cfg *config.Config) { cfg.Auth.JWKSURL = provider.URL })
	if status, body := get(t, n.HTTPAddr(), "/healthz"); status != http.StatusOK {
		t.Fatalf("/healthz was answered %d: %s", status, body)
	}
	waittest.Eventually(t, "readiness names the keys", func() bool {
		status, body := get(t, n.HTTPAddr(), "/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(body, `"reason":"logic: `) && strings.Contains(body,
			"keys for tokens are missing")
	})
	// Tokens of imgo itself, and pushes, do not need the provider.
	post := func(path, body string) (int, string) {
		resp, err := http.Post("http://"+n.HTTPAddr().String()+path, "application/json", strings.NewReader(body)) //nolint:noctx // a test
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text)
	}
	if status, body := post("/v1/tokens", `{"user":"alice","token":"of-alice"}`); status != http.StatusCreated {
		t.Fatalf("a token was answered %d: %s", status, body)
	}
	if status, body := post("/v1/push", `{"user":"alice","body":"hello"}`); status != http.StatusAccepted {
		t.Fatalf("a push was answered %d: %s", status, body)
	}
	connect := func(token string) raw.Packet {
		to, err := raw.ParseTarget("tcp://" + n.ClientAddr("tcp").String())
		if err != nil {
			t.Fatal(err)
		}
		c, err := raw.Dial(t.Context(), to, raw.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		by := time.Now().Add(transporttest.WaitLimit)
		if err := c.Write(by, raw.Packet{Op: protocol.OpAuth, Body: []byte(`{"token":"` + token + `"}`)}); err != nil {
			t.Fatal(err)
		}
		p, err := c.Read(by)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := connect("of-alice"); p.Op != protocol.OpAuthReply {
		t.Errorf("the client with an opaque token got op %d: %s", p.Op, p.Body)
	}
	// A client with a JWT is told to come back.
	if p := connect("eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ.e30.c2ln"); p.Op != protocol.OpDisconnect || !strings.Contains(string(p.Body),
		`"reconnect":true`) {
		t.Errorf("the client with a JWT got op %d: %s", p.Op, p.Body)
	}
}

// TestConnectWebhook lets a stock client of goim in: its auth body has no token, and a cookie of its
// handshake says who it is.
func TestConnectWebhook(t *testing.T) {
	var down atomic.Bool
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var call struct {
			Auth    struct{ Mid int64 }
			Address string
			Headers map[string][]string
		}
		if err := json.NewDecoder(r.Body).Decode(&call); err != nil {
			t.Error(err)
		}
		switch {
		case down.Load():
			w.WriteHeader(http.StatusInternalServerError)
		case call.Auth.Mid == 13:
			w.WriteHeader(http.StatusForbidden)
		case !strings.HasPrefix(call.Address, "127.0.0.1:"):
			t.Errorf("the address is %q", call.Address)
		case len(call.Headers["Cookie"]) == 1:
			fmt.Fprintf(w, `{"user":"of-%s","rooms":["live://1000"]}`, call.Headers["Cookie"][0])
		default:
			fmt.Fprintf(w, `{"user":%d}`, call.Auth.Mid)
		}
	}))
	defer backend.Close()
	n := startNode(t, func(cfg *config.Config) {
		cfg.Auth.Mode, cfg.Auth.WebhookURL = auth.ModeWebhook, backend.URL
		cfg.Auth.WebhookSecrets = []string{"whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}
	})
	by := time.Now().Add(transporttest.WaitLimit)
	connect := func(version int16, mid int) (raw.Packet, func()) {
		to, err := raw.ParseTarget("tcp://" + n.ClientAddr("tcp").String())
		if err != nil {
			t.Fatal(err)
		}
		c, err := raw.Dial(t.Context(), to, raw.Options{})
		if err != nil {
			t.Fatal(err)
		}
		body := fmt.Sprintf(`{"mid":%d,"key":"","room_id":"live://1","platform":"web","accepts":[1000]}`, mid)
		if err := c.Write(by, raw.Packet{Version: version, Op: protocol.OpAuth, Seq: 1, Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
		p, err := c.Read(by)
		if err != nil {
			t.Fatal(err)
		}
		return p, c.Close
	}
	online := func(user string) string {
		_, body := get(t, n.HTTPAddr(), "/v1/users/"+user)
		return body
	}
	p, closeConn := connect(1, 123)
	defer closeConn()
	if p.Op != protocol.OpAuthReply || !strings.Contains(online("123"), `"live://1"`) {
		t.Errorf("got op %d: %s; the user is %s", p.Op, p.Body, online("123"))
	}

	// A handshake's cookie comes from a WebSocket.
	conn, err := net.Dial("tcp", n.ClientAddr("ws").String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	w, resp, err := transporttest.Upgrade(conn, "/sub", "Cookie: alice", "Authorization: hush")
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(err, resp)
	}
	if err := w.Send(w.Frame(transport.AppendPacket(nil, 1, protocol.HeaderV1, protocol.OpAuth, 1, 0, []byte(`{"mid":5}`)))); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Next(); err != nil {
		t.Fatal(err)
	}
	if body := online("of-alice"); !strings.Contains(body, `"live://1000"`) {
		t.Errorf("the user of the cookie is %s", body)
	}

	// A no is final. A backend that fails is not a no. Only clients of version 2 are told the difference.
	if p, closeConn := connect(2, 13); p.Op != protocol.OpDisconnect || !strings.Contains(string(p.Body), `"code":3501`) {
		t.Errorf("a refused client got op %d: %s", p.Op, p.Body)
	} else {
		closeConn()
	}
	down.Store(true)
	p, closeConn = connect(2, 124)
	defer closeConn()
	if p.Op != protocol.OpDisconnect || !strings.Contains(string(p.Body), `"reconnect":true`) {
		t.Errorf("while the backend fails, a client got op %d: %s", p.Op, p.Body)
	}
}
