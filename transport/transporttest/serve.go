package transporttest

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"time"

	"imgo/transport"
)

// Server is a listener of one of the network transports.
type Server interface {
	Addr() net.Addr
	Run(ctx context.Context, handle func(transport.Conn)) error
}

// Serve runs s until the test ends. It fails the test if Run returns an unexpected error or does
// not return.
func Serve(t testing.TB, s Server, handle func(transport.Conn)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, handle) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(WaitLimit):
			t.Error("Run does not return")
		}
	})
}

// Dial connects to s, with TLS if cfg is not nil. It closes the connection when the test ends.
func Dial(t testing.TB, s Server, cfg *tls.Config) net.Conn {
	t.Helper()
	d := net.Dialer{Timeout: WaitLimit}
	c, err := d.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if cfg != nil {
		c = tls.Client(c, cfg)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}
