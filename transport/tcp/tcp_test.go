package tcp_test

import (
	"crypto/tls"
	"flag"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"imgo/transport"
	"imgo/transport/tcp"
	"imgo/transport/transporttest"
)

// goroutines runs all tests with one goroutine for each connection. make test runs them with epoll,
// make race without it.
var goroutines = flag.Bool("goroutines", false, "no epoll")

func TestMain(m *testing.M) {
	flag.Parse()
	goleak.VerifyTestMain(m)
}

// listen binds a loopback port, with short timeouts.
func listen(t testing.TB, cfg transport.ListenConfig) *tcp.Listener {
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
	l, err := tcp.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func harness(goroutines bool, server func(*testing.T) *tls.Config, client func(*testing.T) *tls.Config) transporttest.Harness {
	h := transporttest.Harness{Scheme: tcp.Scheme, Pieces: true}
	if server == nil {
		h.Framing = func(int) int { return 0 }
	}
	h.Start = func(t *testing.T, o transporttest.Options, handle func(transport.Conn)) func() transporttest.Client {
		cfg := transport.ListenConfig{Goroutines: goroutines, MaxBody: o.MaxBody, WriteBuffer: o.WriteBuffer}
		var clientTLS *tls.Config
		if server != nil {
			cfg.TLS, clientTLS = server(t), client(t)
		}
		l := listen(t, cfg)
		transporttest.Serve(t, l, handle)
		return func() transporttest.Client {
			return &transporttest.Stream{Conn: transporttest.Dial(t, l, clientTLS)}
		}
	}
	return h
}

// TestConformance tests epoll on systems that have it.
func TestConformance(t *testing.T) { transporttest.Run(t, harness(false, nil, nil)) }

func TestConformanceGoroutines(t *testing.T) { transporttest.Run(t, harness(true, nil, nil)) }

func TestConformanceTLS(t *testing.T) {
	certFile, keyFile := transporttest.WriteCert(t, t.TempDir(), "imgo")
	transporttest.Run(t, harness(false,
		func(t *testing.T) *tls.Config {
			cfg, err := transport.ReloadingTLS(certFile, keyFile, zerolog.Nop())
			if err != nil {
				t.Fatal(err)
			}
			return cfg
		},
		func(t *testing.T) *tls.Config { return transporttest.ClientTLS(t, certFile) },
	))
}
