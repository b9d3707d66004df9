package tcp_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/rs/zerolog"

	"imgo/internal/wait/waittest"
	"imgo/protocol"
	"imgo/transport"
	"imgo/transport/transporttest"
)

// TestProxyProtocol checks the address that a connection has behind a trusted proxy, and that a
// connection without a header, or with a broken one, is closed without a word: a client that was told
// to go away would not come back.
func TestProxyProtocol(t *testing.T) {
	certFile, keyFile := transporttest.WriteCert(t, t.TempDir(), "imgo")
	certificate, err := transport.ReloadingTLS(certFile, keyFile, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	header := func(version byte, source string) string {
		from := netip.MustParseAddrPort(source)
		to := "198.51.100.1:443"
		if from.Addr().Is6() {
			to = "[2001:db8::1]:443"
		}
		h := proxyproto.HeaderProxyFromAddrs(version, net.TCPAddrFromAddrPort(from), net.TCPAddrFromAddrPort(netip.MustParseAddrPort(to)))
		b, err := h.Format()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	auth := string(transport.AppendPacket(nil, 1, protocol.HeaderV1, protocol.OpAuth, 1, 0, []byte("token")))
	v2 := header(2, "203.0.113.9:4711")
	for _, test := range []struct {
		name, head string
		want       string // empty: closed
	}{
		{"version 1", header(1, "203.0.113.9:4711"), "203.0.113.9:4711"},
		{"version 1, IPv6", header(1, "[2001:db8::7]:4711"), "[2001:db8::7]:4711"},
		{"version 1, unknown", "PROXY UNKNOWN\r\n", "127.0.0.1"},
		{"version 1, unknown with addresses", "PROXY UNKNOWN 192.0.2.66 192.0.2.67 1 2\r\n", "127.0.0.1"},
		{"version 2", v2, "203.0.113.9:4711"},
		{"version 2, IPv6", header(2, "[2001:db8::7]:4711"), "[2001:db8::7]:4711"},
		{"version 2, local", v2[:12] + "\x20" + v2[13:], "127.0.0.1"},
		{"version 2, TLVs", v2[:15] + "\x10" + v2[16:] + "\x04\x00\x01x", "203.0.113.9:4711"},
		{"none", "", ""},
		{"broken", "PROXY TCP4 nonsense\r\n", ""},
		{"too long", "PROXY TCP4 " + strings.Repeat("1", 200) + "\r\n", ""},
		{"version 2, too long", v2[:14] + "\xff\xff" + v2[16:], ""},
		{"version 2, of another kind", v2[:12] + "\x31" + v2[13:], ""},
	} {
		for _, secure := range []bool{false, true} {
			for _, piece := range []int{1, 1 << 20} {
				t.Run(fmt.Sprintf("%s/TLS=%v/%d", test.name, secure, piece), func(t *testing.T) {
					remotes := make(chan string, 1)
					var refused, counted atomic.Int32
					cfg := transport.ListenConfig{
						ProxyProtocol: true, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
						Admit:    func(netip.Addr) error { counted.Add(1); return nil },
						Released: func(netip.Addr) { counted.Add(-1) },
						Refused: func(reason string) {
							if reason == "proxy_header" {
								refused.Add(1)
							}
						},
					}
					if secure {
						cfg.TLS = certificate
					}
					l := listen(t, cfg)
					transporttest.Serve(t, l, func(c transport.Conn) {
						p, err := transporttest.ReadPacket(c)
						remotes <- fmt.Sprintf("%s %s %v", c.Remote(), p.Body, err)
						_ = c.Write(time.Now().Add(transporttest.WaitLimit), transport.EncodeReply(transport.FormImgo, 1, 8, 1, 0, nil))
					})
					var c net.Conn = transporttest.Dial(t, l, nil)
					_ = c.SetDeadline(time.Now().Add(transporttest.WaitLimit))
					sent := test.head
					if !secure {
						sent += auth
					}
					for i := 0; i < len(sent); i += piece {
						if _, err := io.WriteString(c, sent[i:min(len(sent), i+piece)]); err != nil {
							break
						}
					}
					if secure {
						conn := tls.Client(c, transporttest.ClientTLS(t, certFile))
						_, _ = io.WriteString(conn, auth)
						c = conn
					}
					n, err := io.ReadFull(c, make([]byte, 16))
					if test.want == "" {
						if err == nil || n > 0 || errors.Is(err, transport.ErrOverBudget) {
							t.Errorf("%d bytes were answered, %v", n, err)
						}
						waittest.Eventually(t, "it is counted", func() bool { return refused.Load() == 1 })
					} else if got := <-remotes; !strings.HasPrefix(got, test.want) || !strings.HasSuffix(got, " token <nil>") {
						t.Errorf("the server sees %q, want the address %s", got, test.want)
					}
					_ = c.Close()
					waittest.Eventually(t, "it is released", func() bool { return counted.Load() == 0 })
				})
			}
		}
	}
}

// TestUnexpectedProxyProtocol checks a client behind a proxy that sends the PROXY protocol to a port
// that does not expect it. The client is told to come back, because the mistake is not the client's.
func TestUnexpectedProxyProtocol(t *testing.T) {
	for name, cfg := range map[string]transport.ListenConfig{
		"off":         {TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}},
		"not trusted": {TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, ProxyProtocol: true},
	} {
		for _, head := range []string{"PROXY TCP4 203.0.113.9 198.51.100.1 4711 443\r\n", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"} {
			t.Run(fmt.Sprintf("%s/%.5q", name, head), func(t *testing.T) {
				ended := make(chan error, 1)
				l := listen(t, cfg)
				transporttest.Serve(t, l, func(c transport.Conn) {
					_, err := transporttest.ReadPacket(c)
					ended <- err
				})
				c := transporttest.Dial(t, l, nil)
				if _, err := io.WriteString(c, head+strings.Repeat("x", 40)); err != nil {
					t.Fatal(err)
				}
				err, bad := <-ended, (*transport.ProtocolError)(nil)
				if !errors.As(err, &bad) || !bad.Code.Reconnect() || bad.Kind != "proxy_header" {
					t.Errorf("ReadPacket: %v, want a mistake of the proxy", err)
				}
			})
		}
	}
}
