package roles_test

import (
	"context"
	"net"
	"net/http"
	"testing"
	"time"

	"imgo/config"
	"imgo/roles"
)

// TestStopsWithConnectionsInReserve checks that unused connections of callers do not delay the stop.
// net/http alone would wait seconds for them.
func TestStopsWithConnectionsInReserve(t *testing.T) {
	cfg := config.Default()
	cfg.DataDir = t.TempDir()
	cfg.HTTP.Listen, cfg.Comet.TCP, cfg.Comet.WS = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Shutdown.Timeout = time.Minute // A quarter of this is more than net/http waits.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n, err := roles.New(ctx, cfg, roles.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() { result <- n.Run(ctx) }()
	address := n.HTTPAddr().String()
	reserve, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer reserve.Close()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		// The unused connection was accepted before this one is answered.
		if resp, err := client.Get("http://" + address + "/readyz"); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Now().After(end) {
			t.Fatal("the node was not ready within a minute")
		}
	}
	began := time.Now()
	cancel()
	if err := <-result; err != nil {
		t.Error(err)
	}
	// net/http treats unused connections as idle after 5 s.
	if took := time.Since(began); took > 4500*time.Millisecond {
		t.Errorf("the node took %s to stop", took)
	}
}
