package e2e_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"imgo/config"
	"imgo/internal/wait/waittest"
	"imgo/protocol"
	"imgo/transport/transporttest"
)

// proxyTimeout is the idle timeout of the proxies of these tests, in place of the ten minutes of
// docs/how-to/proxies.md.
const proxyTimeout = 5 * time.Second

// proxyHeartbeat is the interval that the node tells its clients. They are closed after 2.5 of them.
const proxyHeartbeat = 2 * time.Second

// proxy is a proxy that runs before a node, and ends TLS.
type proxy struct {
	ws, tcp string
	trusted *tls.Config
	reload  func()
}

// documented returns the block of docs/how-to/proxies.md in this language. Each text of the pairs is
// replaced by the one behind it, and has to be there.
func documented(t *testing.T, language string, pairs ...string) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/how-to/proxies.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, found := strings.Cut(string(page), "```"+language+"\n")
	block, _, end := strings.Cut(block, "```")
	if !found || !end {
		t.Fatalf("the page has no block of %s", language)
	}
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(block, pairs[i]) {
			t.Fatalf("the block of %s has no %q", language, pairs[i])
		}
	}
	return strings.NewReplacer(pairs...).Replace(block)
}

// run starts a proxy until the test ends. reload is the signal that makes it read its configuration.
func (p *proxy) run(t *testing.T, reload syscall.Signal, name string, args ...string) {
	t.Helper()
	var log waittest.Log
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the log of %s:\n%s", name, &log)
		}
	})
	p.reload = func() {
		if err := cmd.Process.Signal(reload); err != nil {
			t.Fatal(err)
		}
	}
	for _, address := range []string{p.ws, p.tcp} {
		eventually(t, name+" listens at "+address, func() bool {
			c, err := net.Dial("tcp", address)
			if err == nil {
				_ = c.Close()
			}
			return err == nil
		})
	}
}

// startNginx and startHAProxy run a proxy before n with the configuration of the documents.
func startNginx(t *testing.T, n *node) *proxy {
	dir := t.TempDir()
	cert, key := transporttest.WriteCert(t, dir, "proxy")
	p := &proxy{ws: waittest.FreeAddress(t), tcp: waittest.FreeAddress(t), trusted: transporttest.ClientTLS(t, cert)}
	temp := ""
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temp += fmt.Sprintf("%s_temp_path %s/%s;\n", kind, dir, kind)
	}
	block := documented(t, "nginx",
		"listen 8443", "listen "+p.tcp, "listen 443", "listen "+p.ws, "10.0.0.5:8080", n.ClientAddr("tcp").String(),
		"10.0.0.5:8090", n.ClientAddr("ws").String(), "/etc/ssl/imgo/fullchain.pem", cert, "/etc/ssl/imgo/key.pem", key,
		"proxy_timeout 600s", fmt.Sprintf("proxy_timeout %ds", proxyTimeout/time.Second),
		"proxy_read_timeout 600s", fmt.Sprintf("proxy_read_timeout %ds", proxyTimeout/time.Second),
		"worker_processes auto", "worker_processes 2", "worker_rlimit_nofile 131072", "worker_rlimit_nofile 200",
		"worker_connections 65536", "worker_connections 100", "http {", "http {\naccess_log off;\n"+temp)
	module := "/usr/lib/nginx/modules/ngx_stream_module.so"
	if _, err := os.Stat(module); err == nil {
		block = "load_module " + module + ";\n" + block
	}
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(block), 0o600); err != nil {
		t.Fatal(err)
	}
	p.run(t, syscall.SIGHUP, "nginx", "-c", file, "-g", "daemon off; error_log stderr; pid "+dir+"/pid;")
	return p
}

func startHAProxy(t *testing.T, n *node) *proxy {
	dir := t.TempDir()
	cert, key := transporttest.WriteCert(t, dir, "proxy")
	p := &proxy{ws: waittest.FreeAddress(t), tcp: waittest.FreeAddress(t), trusted: transporttest.ClientTLS(t, cert)}
	var both []byte
	for _, name := range []string{cert, key} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, b...)
	}
	timeout := fmt.Sprintf("%ds", proxyTimeout/time.Second)
	block := documented(t, "haproxy",
		"bind :8443", "bind "+p.tcp, "bind :443", "bind "+p.ws, "10.0.0.5:8080", n.ClientAddr("tcp").String(),
		"10.0.0.5:8090", n.ClientAddr("ws").String(), "/etc/ssl/imgo/both.pem", dir+"/both.pem",
		"timeout client 600s", "timeout client "+timeout, "timeout server 600s", "timeout server "+timeout,
		"timeout tunnel 600s", "timeout tunnel "+timeout, "global\n", "global\n    maxconn 100\n")
	file := filepath.Join(dir, "haproxy.cfg")
	for name, b := range map[string][]byte{file: []byte(block), dir + "/both.pem": both} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.run(t, syscall.SIGUSR2, "haproxy", "-W", "-db", "-f", file)
	return p
}

// dial connects to the proxy from 127.0.0.2, which is not an address of the proxy itself. via, if not
// empty, is where it connects to in place of the proxy.
func (p *proxy) dial(t *testing.T, scheme, via string, header ...string) *client {
	t.Helper()
	address := p.tcp
	if scheme != "tcp" {
		address = p.ws
	}
	if via != "" {
		address = via
	}
	d := tls.Dialer{NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}, Timeout: waitLimit}, Config: p.trusted}
	conn, err := d.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if scheme == "tcp" {
		return &client{Client: &transporttest.Stream{Conn: conn}, t: t}
	}
	ws, response, err := transporttest.Upgrade(conn, "/sub", header...)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != 101 {
		t.Fatalf("the upgrade was answered %s", response.Status)
	}
	ws.Text = scheme == "text"
	return &client{Client: ws, t: t, text: ws.Text}
}

// TestProxies runs a node behind each proxy, with the configurations of docs/how-to/proxies.md.
func TestProxies(t *testing.T) {
	for name, startProxy := range map[string]func(*testing.T, *node) *proxy{"nginx": startNginx, "haproxy": startHAProxy} {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(name); err != nil {
				if os.Getenv("CI") == "true" {
					t.Fatalf("%s is not installed: run scripts/setup test", name)
				}
				t.Skipf("%s is not installed: scripts/setup test does that on Debian", name)
			}
			t.Parallel() // it mostly waits
			n := start(t, func(cfg *config.Config) {
				cfg.Auth.Mode = "token"
				cfg.Protocol.Heartbeat = proxyHeartbeat
				cfg.Comet.TrustedProxies, cfg.Comet.TCPProxyProtocol = []string{"127.0.0.1"}, true
			})
			p := startProxy(t, n)
			for _, test := range []struct {
				name string
				run  func(*testing.T, *node, *proxy)
			}{
				{"address", testProxyAddress}, {"cookies", testProxyCookies}, {"idle", testProxyIdle},
				{"out of reach", testProxyOutOfReach}, {"reload", testProxyReload},
			} {
				t.Run(test.name, func(t *testing.T) { test.run(t, n, p) })
			}
		})
	}
}

// TestEnvoyBounds checks that Envoy's defaults, 1,024 of each, do not bound the clients. No test runs Envoy.
func TestEnvoyBounds(t *testing.T) {
	var envoy struct {
		Resources struct {
			Clusters []struct {
				Name            string
				CircuitBreakers struct{ Thresholds []map[string]int } `yaml:"circuit_breakers"`
			}
		} `yaml:"static_resources"`
	}
	if err := yaml.Unmarshal([]byte(documented(t, "yaml")), &envoy); err != nil {
		t.Fatal(err)
	}
	if n := len(envoy.Resources.Clusters); n != 2 {
		t.Fatalf("Envoy has %d clusters", n)
	}
	for _, cluster := range envoy.Resources.Clusters {
		thresholds := cluster.CircuitBreakers.Thresholds
		for _, bound := range []string{"max_connections", "max_pending_requests", "max_requests"} {
			if len(thresholds) != 1 || thresholds[0][bound] < 65536 {
				t.Errorf("cluster %s has the thresholds %v, want %s for many clients", cluster.Name, thresholds, bound)
			}
		}
	}
}

// token makes a token of the same name for a user.
func (n *node) token(t *testing.T, user string) {
	t.Helper()
	n.call(t, "POST", "/v1/tokens", fmt.Sprintf(`{"user":%q,"token":%q}`, user, user)).want(t, 201)
}

// testProxyAddress checks that sessions have the address of the client, and not of the proxy.
func testProxyAddress(t *testing.T, n *node, p *proxy) {
	for _, scheme := range []string{"tcp", "ws"} {
		user := "address-" + scheme
		n.token(t, user)
		c := p.dial(t, scheme, "", "X-Forwarded-For: 192.0.2.66") // the client's own words
		c.login("v2", user, "")
		a := n.call(t, "GET", "/v1/users/"+user, "")
		if !strings.Contains(a.body, `"127.0.0.2`) || strings.Contains(a.body, "192.0.2.66") {
			t.Errorf("%s: the session is %s, want the address 127.0.0.2", scheme, a.body)
		}
	}
}

// testProxyCookies checks that a browser with 31 KiB of cookies gets in.
func testProxyCookies(t *testing.T, n *node, p *proxy) {
	n.token(t, "cookies")
	c := p.dial(t, "text", "", "Cookie: "+strings.Repeat("c", 31<<10))
	c.login("v2", "cookies", "")
}

// testProxyIdle checks that a client that gives its signs of life when the server says so stays for
// longer than the proxy's timeout, and that a silent one does not.
func testProxyIdle(t *testing.T, n *node, p *proxy) {
	n.token(t, "idle")
	n.token(t, "silent")
	var beats sync.WaitGroup
	defer beats.Wait()
	for _, scheme := range []string{"tcp", "ws", "text"} {
		silent := p.dial(t, scheme, "")
		silent.login("imgo", "silent", "") // version 1 may be silent for 8 minutes
		beats.Go(func() {
			began := time.Now()
			if b, err := silent.Next(); err == nil || time.Since(began) < proxyTimeout*2/3 {
				t.Errorf("%s: a silent client gets %q, %v after %s, want the proxy to end it", scheme, b, err, time.Since(began))
			}
		})
		c := p.dial(t, scheme, "")
		c.login("v2", "idle", fmt.Sprintf(`,"device":%q`, scheme))
		beats.Go(func() {
			for i := int32(1); i <= int32(2*proxyTimeout/proxyHeartbeat)+1; i++ {
				time.Sleep(proxyHeartbeat)
				if c.Send(c.Frame([]byte(c.encode(2, protocol.OpHeartbeat, i, "")))) != nil {
					break
				}
				if p, err := c.next(); err != nil || p.Op != protocol.OpHeartbeatReply {
					t.Errorf("%s: heartbeat %d is answered with %+v, %v", scheme, i, p, err)
					return
				}
			}
		})
	}
}

// testProxyReload checks that connections outlive a reload of the proxy, and that new ones are made.
func testProxyReload(t *testing.T, n *node, p *proxy) {
	n.token(t, "reload")
	var all []*client
	connect := func() {
		for _, scheme := range []string{"tcp", "ws", "text"} {
			c := p.dial(t, scheme, "")
			c.login("v2", "reload", fmt.Sprintf(`,"device":"%s%d"`, scheme, len(all)))
			all = append(all, c)
		}
	}
	connect()
	p.reload()
	for range 2 {
		time.Sleep(500 * time.Millisecond) // the time that a reload takes does not decide about the result
		for i, c := range all {
			c.send(2, protocol.OpHeartbeat, 1, "")
			if p := c.receive(); p.Op != protocol.OpHeartbeatReply {
				t.Fatalf("client %d gets %+v, want the reply to its heartbeat", i, p)
			}
		}
		connect()
	}
	n.push(t, "reload", `"after the reload"`)
	for i, c := range all {
		if p := c.receive(); string(p.Body) != `"after the reload"` {
			t.Errorf("client %d gets %+v %s", i, p, p.Body)
		}
	}
}

// cable is a connection between a client and a proxy that can be cut without either noticing.
type cable struct {
	net.Listener
	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

// newCable returns a cable to address.
func newCable(t *testing.T, address string) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{Listener: l}
	var copies sync.WaitGroup
	copies.Go(func() {
		near, err := l.Accept()
		if err != nil {
			return
		}
		far, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).Dial("tcp", address)
		if err != nil {
			_ = near.Close()
			return
		}
		c.mu.Lock()
		c.conns = []net.Conn{near, far}
		c.mu.Unlock()
		copies.Go(func() { c.copy(near, far) })
		c.copy(far, near)
	})
	t.Cleanup(func() {
		c.pull()
		copies.Wait()
	})
	return c
}

// copy copies until the cable is pulled. Once it is cut, what comes is lost.
func (c *cable) copy(to io.Writer, from io.Reader) {
	b := make([]byte, 16<<10)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		c.mu.Lock()
		if !c.cut {
			_, err = io.Copy(to, bytes.NewReader(b[:n]))
		}
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// sever makes the client unreachable: its side and the proxy's see an open connection.
func (c *cable) sever() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
}

// pull ends both connections.
func (c *cable) pull() {
	_ = c.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		_ = conn.Close()
	}
}

// testProxyOutOfReach pushes kept messages to a client of each generation that is out of reach. The
// proxy takes them and acknowledges them to the server's TCP. The client gets all of them at its next
// session.
func testProxyOutOfReach(t *testing.T, n *node, p *proxy) {
	const messages = 5
	for i, test := range []struct{ name, scheme, generation string }{
		{"imgo 2016 on TCP", "tcp", "imgo"}, {"imgo 2016 on WebSocket", "text", "imgo"},
		{"goim on TCP", "tcp", "goim"}, {"goim on WebSocket", "ws", "goim"},
		{"version 2 on TCP", "tcp", "v2"}, {"version 2 on WebSocket", "text", "v2"},
		{"version 2, acknowledging", "tcp", "acking"},
	} {
		t.Run(test.name, func(t *testing.T) {
			user := fmt.Sprint(1000 + i)
			n.token(t, user)
			login := func(c *client) {
				switch test.generation {
				case "goim":
					c.send(1, protocol.OpAuth, 1, fmt.Sprintf(`{"mid":%s,"token":%q}`, user, user))
					c.expect(protocol.OpAuthReply, "")
				case "acking":
					c.login("v2", user, `,"ack":true`)
				default:
					c.login(test.generation, user, "")
				}
			}
			address := p.tcp
			if test.scheme != "tcp" {
				address = p.ws
			}
			cable := newCable(t, address)
			away := p.dial(t, test.scheme, cable.Addr().String())
			login(away)
			cable.sever()
			written := func() float64 { return n.metric(t, "imgo_comet_messages_total", `outcome="written"`) }
			before := written()
			for m := range messages {
				n.push(t, user, fmt.Sprintf(`"kept %d"`, m))
			}
			eventually(t, "the proxy has got the messages", func() bool { return written() >= before+messages })
			cable.pull()
			eventually(t, "the session has ended", func() bool { return len(n.user(t, user).Sessions) == 0 })
			back := p.dial(t, test.scheme, "")
			login(back)
			for m := range messages {
				b, err := back.Next()
				if err != nil || !strings.Contains(string(b), fmt.Sprintf(`kept %d`, m)) {
					t.Fatalf("message %d: got %q, %v", m, b, err)
				}
			}
		})
	}
}
