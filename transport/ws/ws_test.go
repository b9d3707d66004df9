package ws_test

import (
	"crypto/tls"
	"flag"
	"net/http"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"imgo/transport"
	"imgo/transport/transporttest"
	"imgo/transport/ws"
)

// goroutines runs all tests with one goroutine for each connection. make test runs them with epoll,
// make race without it.
var goroutines = flag.Bool("goroutines", false, "no epoll")

func TestMain(m *testing.M) {
	flag.Parse()
	goleak.VerifyTestMain(m)
}

// listen binds a loopback port, with short timeouts.
func listen(t *testing.T, cfg ws.Config) *ws.Listener {
	t.Helper()
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	if cfg.Grace == 0 {
		cfg.Grace = 2 * time.Second
	}
	if cfg.Linger == 0 {
		cfg.Linger = 200 * time.Millisecond
	}
	cfg.Goroutines = cfg.Goroutines || *goroutines
	l, err := ws.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// dial connects to l and upgrades the connection.
func dial(t *testing.T, l *ws.Listener, cfg *tls.Config, text bool, header ...string) *transporttest.WebSocket {
	t.Helper()
	w, resp, err := transporttest.Upgrade(transporttest.Dial(t, l, cfg), "/sub?from=test", header...)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %s", resp.Status)
	}
	w.Text = text
	return w
}

func harness(text, secure, goroutines bool) transporttest.Harness {
	h := transporttest.Harness{Scheme: ws.Scheme, Text: text, Pieces: true, CloseCodes: true}
	if !secure {
		h.Framing = func(n int) int {
			switch {
			case n <= 125:
				return 2
			case n <= 0xffff:
				return 4
			}
			return 10
		}
	}
	h.Start = func(t *testing.T, o transporttest.Options, handle func(transport.Conn)) func() transporttest.Client {
		cfg := ws.Config{ListenConfig: transport.ListenConfig{Goroutines: goroutines, MaxBody: o.MaxBody, WriteBuffer: o.WriteBuffer}}
		var clientTLS *tls.Config
		if secure {
			certFile, keyFile := transporttest.WriteCert(t, t.TempDir(), "imgo")
			var err error
			if cfg.TLS, err = transport.ReloadingTLS(certFile, keyFile, zerolog.Nop()); err != nil {
				t.Fatal(err)
			}
			clientTLS = transporttest.ClientTLS(t, certFile)
		}
		l := listen(t, cfg)
		transporttest.Serve(t, l, handle)
		return func() transporttest.Client { return dial(t, l, clientTLS, text) }
	}
	return h
}

// TestConformanceBinary and TestConformanceText test epoll on systems that have it.
func TestConformanceBinary(t *testing.T) { transporttest.Run(t, harness(false, false, false)) }
func TestConformanceText(t *testing.T)   { transporttest.Run(t, harness(true, false, false)) }

func TestConformanceBinaryGoroutines(t *testing.T) {
	transporttest.Run(t, harness(false, false, true))
}
func TestConformanceTextGoroutines(t *testing.T) { transporttest.Run(t, harness(true, false, true)) }
func TestConformanceTLS(t *testing.T)            { transporttest.Run(t, harness(false, true, false)) }
