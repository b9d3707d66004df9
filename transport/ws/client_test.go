package ws_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/rs/zerolog"

	"imgo/internal/wait/waittest"
	"imgo/transport"
	"imgo/transport/transporttest"
	"imgo/transport/ws"
)

// proxyHeader returns a header of the PROXY protocol for a client at 203.0.113.9:4711.
func proxyHeader(t *testing.T, version byte) string {
	t.Helper()
	h := proxyproto.HeaderProxyFromAddrs(version,
		&net.TCPAddr{IP: net.IPv4(203, 0, 113, 9), Port: 4711}, &net.TCPAddr{IP: net.IPv4(198, 51, 100, 1), Port: 443})
	b, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestClientAddress checks which address a connection counts as: that of the client if
// a trusted proxy tells it, by the PROXY protocol or in a header, and otherwise that of
// the peer. Admit and Released are called for it.
func TestClientAddress(t *testing.T) {
	certFile, keyFile := transporttest.WriteCert(t, t.TempDir(), "imgo")
	certificate, err := transport.ReloadingTLS(certFile, keyFile, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	here := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:1::/48")}
	elsewhere := here[1:]
	const peer = "127.0.0.1"
	for _, test := range []struct {
		name    string
		trusted []netip.Prefix
		header  string // Config.ClientHeader
		sent    []string
		want    string
	}{
		{"no header", here, "", nil, peer},
		{"one address", here, "", []string{"X-Forwarded-For: 203.0.113.9"}, "203.0.113.9"},
		{"with a port", here, "", []string{"X-Forwarded-For: 203.0.113.9:99"}, "203.0.113.9"},
		{"IPv6", here, "", []string{"X-Forwarded-For: 2001:db8::7"}, "2001:db8::7"},
		{"IPv6 in brackets", here, "", []string{"X-Forwarded-For: [2001:db8::7]"}, "2001:db8::7"},
		{"mapped IPv4", here, "", []string{"X-Forwarded-For: ::ffff:203.0.113.9"}, "203.0.113.9"},
		{"two proxies", here, "", []string{"X-Forwarded-For: 203.0.113.9, 10.1.2.3"}, "203.0.113.9"},
		{"two lines", here, "", []string{"X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: 2001:db8:1::5"}, "203.0.113.9"},
		{"what the client wrote itself", here, "", []string{"X-Forwarded-For: 192.0.2.66, 203.0.113.9, 10.1.2.3"}, "203.0.113.9"},
		{"proxies alone", here, "", []string{"X-Forwarded-For: 10.0.0.1, 10.1.2.3"}, "10.0.0.1"},
		{"no address", here, "", []string{"X-Forwarded-For: unknown"}, peer},
		{"no address behind a proxy", here, "", []string{"X-Forwarded-For: 192.0.2.66, unknown, 10.1.2.3"}, "10.1.2.3"},
		{"an empty one", here, "", []string{"X-Forwarded-For: "}, peer},
		{"not trusted", elsewhere, "", []string{"X-Forwarded-For: 203.0.113.9"}, peer},
		{"nobody is trusted", nil, "", []string{"X-Forwarded-For: 203.0.113.9"}, peer},
		{"the other header", here, "", []string{"Forwarded: for=203.0.113.9"}, peer},
		{"Forwarded", here, "Forwarded", []string{"Forwarded: for=203.0.113.9;proto=https"}, "203.0.113.9"},
		{"Forwarded, IPv6", here, "Forwarded", []string{`Forwarded: proto=https; For="[2001:db8::7]:4711"`}, "2001:db8::7"},
		{"Forwarded, two proxies", here, "Forwarded",
			[]string{"Forwarded: for=192.0.2.66, for=203.0.113.9", "Forwarded: for=10.1.2.3"}, "203.0.113.9"},
		{"Forwarded, hidden", here, "Forwarded", []string{"Forwarded: for=_hidden"}, peer},
		{"Forwarded, not the other header", here, "Forwarded", []string{"X-Forwarded-For: 203.0.113.9"}, peer},
	} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/TLS=%v", test.name, secure), func(t *testing.T) {
				cfg := ws.Config{ClientHeader: test.header, ListenConfig: transport.ListenConfig{TrustedProxies: test.trusted}}
				var clientTLS *tls.Config
				if secure {
					cfg.TLS, clientTLS = certificate, transporttest.ClientTLS(t, certFile)
				}
				l, addresses := addressed(t, cfg)
				c := dial(t, l, clientTLS, false, test.sent...)
				ping(t, c)
				addresses.are(t, test.want)
				_ = c.Close()
				addresses.areReleased(t)
			})
		}
	}
	for _, secure := range []bool{false, true} {
		for version := range byte(3) {
			t.Run(fmt.Sprintf("PROXY %d/TLS=%v", version, secure), func(t *testing.T) {
				cfg := ws.Config{ListenConfig: transport.ListenConfig{TrustedProxies: here, ProxyProtocol: true}}
				if secure {
					cfg.TLS = certificate
				}
				l, addresses := addressed(t, cfg)
				raw := transporttest.Dial(t, l, nil)
				head, want := "PROXY UNKNOWN\r\n", peer // version 0: the proxy itself
				if version > 0 {
					head, want = proxyHeader(t, version), "203.0.113.9"
				}
				for _, b := range []byte(head) {
					if _, err := raw.Write([]byte{b}); err != nil {
						t.Fatal(err)
					}
				}
				if secure {
					raw = tls.Client(raw, transporttest.ClientTLS(t, certFile))
				}
				c, _, err := transporttest.Upgrade(raw, "/sub", "X-Forwarded-For: 192.0.2.66")
				if err != nil {
					t.Fatal(err)
				}
				ping(t, c)
				if version == 0 {
					want = "192.0.2.66" // it is a trusted peer as before
				}
				addresses.are(t, want)
				_ = c.Close()
				addresses.areReleased(t)
			})
		}
	}
}

// addresses counts what Admit and Released are called with.
type addresses struct {
	mu     sync.Mutex
	open   map[netip.Addr]int
	remote []string
}

// addressed runs a server that echoes and notes addresses.
func addressed(t *testing.T, cfg ws.Config) (*ws.Listener, *addresses) {
	t.Helper()
	a := &addresses{open: map[netip.Addr]int{}}
	count := func(addr netip.Addr, n int) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.open[addr] += n; a.open[addr] == 0 {
			delete(a.open, addr)
		}
	}
	cfg.Admit = func(addr netip.Addr) error { count(addr, 1); return nil }
	cfg.Released = func(addr netip.Addr) { count(addr, -1) }
	l := listen(t, cfg)
	transporttest.Serve(t, l, func(c transport.Conn) {
		a.mu.Lock()
		a.remote = append(a.remote, c.Remote().Addr().String())
		a.mu.Unlock()
		echo(c)
	})
	return l, a
}

// are checks the address of the one connection.
func (a *addresses) are(t *testing.T, want string) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if got := strings.Join(a.remote, " "); got != want {
		t.Errorf("the client's address is %s, want %s", got, want)
	}
	if len(a.open) != 1 || a.open[netip.MustParseAddr(want)] != 1 {
		t.Errorf("connections are counted as %v, want one of %s", a.open, want)
	}
}

func (a *addresses) areReleased(t *testing.T) {
	t.Helper()
	waittest.Eventually(t, "the connection is released", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.open) == 0
	})
}

// TestClientAddressIsAdmitted checks that Admit decides about the address that a proxy tells.
func TestClientAddressIsAdmitted(t *testing.T) {
	var refused counter
	l := listen(t, ws.Config{ListenConfig: transport.ListenConfig{
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, Refused: refused.add, HandshakeTimeout: time.Minute,
		Admit: func(addr netip.Addr) error {
			if addr.String() == "203.0.113.9" {
				return fmt.Errorf("too many from %s", addr)
			}
			return nil
		},
	}})
	transporttest.Serve(t, l, echo)
	_, resp, err := transporttest.Upgrade(transporttest.Dial(t, l, nil), "/sub", "X-Forwarded-For: 203.0.113.9")
	if err != nil || resp.StatusCode != 503 || refused.of("admit") != 1 {
		t.Errorf("answered with %v, %v, and %d counted, want 503 and 1", resp, err, refused.of("admit"))
	}
	ping(t, dial(t, l, nil, false, "X-Forwarded-For: 203.0.113.10"))
}
