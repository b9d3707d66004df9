package e2e_test

import (
	"context"
	"crypto/tls"
	"net/http"
	"testing"
	"time"

	imgoclient "imgo/clients/go"
	"imgo/config"
	"imgo/roles"
	"imgo/test/harness"
	"imgo/transport/transporttest"
)

// TestTLS uses TLS on all three ports, with certificates from files. A replaced certificate is used
// for the next connection without a restart.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := transporttest.WriteCert(t, dir, "first")
	n := startTLS(t, func(c *config.Config) {
		c.Comet.TLSCert, c.Comet.TLSKey, c.HTTP.TLSCert, c.HTTP.TLSKey = cert, key, cert, key
	}, transporttest.ClientTLS(t, cert))

	got := make(chan string, 10)
	for _, address := range []string{"tls://" + n.ClientAddr("tcp").String(), "wss://" + n.ClientAddr("ws").String()} {
		n.listen(t, address, transporttest.ClientTLS(t, cert), got)
	}
	n.push(t, "u", `"over TLS"`)
	for range 2 {
		select {
		case body := <-got:
			if body != `"over TLS"` {
				t.Errorf("got %s", body)
			}
		case <-time.After(waitLimit):
			t.Fatal("a push did not arrive over TLS")
		}
	}

	// Replace the certificate files.
	newCert, _ := transporttest.WriteCert(t, dir, "second")
	trusted := transporttest.ClientTLS(t, newCert)
	for _, address := range []string{n.ClientAddr("tcp").String(), n.ClientAddr("ws").String(), n.HTTPAddr().String()} {
		eventually(t, "the new certificate is used at "+address, func() bool {
			conn, err := (&tls.Dialer{Config: trusted}).DialContext(t.Context(), "tcp", address)
			if err == nil {
				_ = conn.Close()
			}
			return err == nil
		})
	}
}

// startTLS is like start, for a node whose HTTP side uses TLS.
func startTLS(t *testing.T, change func(*config.Config), trusted *tls.Config) *node {
	t.Helper()
	cfg := settings(t)
	change(&cfg)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: trusted}}
	return wrap(harness.Start(t, cfg, roles.RunOptions{}, client))
}

// listen connects user u by the Go SDK and sends the messages to got.
func (n *node) listen(t *testing.T, address string, trusted *tls.Config, got chan<- string) {
	t.Helper()
	connected := make(chan struct{}, 10)
	c, err := imgoclient.New(imgoclient.Config{
		Address: address, Token: "u", Device: address, TLS: trusted,
		OnState: func(to imgoclient.StateChange) {
			if to.State == imgoclient.Live {
				connected <- struct{}{}
			}
		},
		OnMessage: func(_ context.Context, m imgoclient.Message) error {
			got <- string(m.Body)
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
		<-done
	})
	select {
	case <-connected:
	case err := <-done:
		t.Fatalf("%s: %v", address, err)
	case <-time.After(waitLimit):
		t.Fatalf("%s: not connected", address)
	}
}
