package e2e_test

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"imgo/config"
	"imgo/transport/transporttest"
)

// stuckClient connects a client that stops reading, and sends it more bytes than the kernel
// buffers.
func (n *node) stuckClient(t *testing.T, user string) *client {
	t.Helper()
	c := &client{Client: &transporttest.Stream{Conn: slowDial(t, n.ClientAddr("tcp").String())}, t: t}
	c.login("v2", user, "")
	body := fmt.Sprintf(`{"user":%q,"kept":false,"body_text":%q}`, user, strings.Repeat("x", 60<<10))
	dropped := func() float64 { return n.metric(t, "imgo_comet_messages_total", `kind="live"`, `outcome="dropped"`) }
	before := dropped()
	eventually(t, "it is stuck", func() bool {
		for range 10 {
			n.call(t, "POST", "/v1/push", body).want(t, 202)
		}
		return dropped() >= before+20
	})
	return c
}

// TestStopDespiteStuckClients checks that clients and callers that no longer read or send cannot
// delay the stop beyond its timeout.
func TestStopDespiteStuckClients(t *testing.T) {
	t.Parallel()                  // it mostly waits
	const limit = 9 * time.Second // the stop takes two thirds of it by design
	n := start(t, func(cfg *config.Config) { cfg.Shutdown.Timeout = limit })
	healthy := n.tcp(t)
	healthy.login("v2", "healthy", "")
	n.stuckClient(t, "stuck")
	gone := n.stuckClient(t, "gone")
	if err := gone.End(); err != nil {
		t.Fatal(err)
	}
	for addr, half := range map[string]string{
		n.HTTPAddr().String():        "POST /v1/push HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{\"user",
		n.ClientAddr("ws").String():  "GET /sub HTTP/1.1\r\nHos",
		n.ClientAddr("tcp").String(): "\x00\x00\x00",
	} {
		if _, err := io.WriteString(dial(t, addr), half); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	stopped := make(chan error, 1)
	go func() { stopped <- n.stop() }()
	healthy.closedWith(3001, "stopping")
	if err := <-stopped; err != nil {
		t.Errorf("the node ended with: %v", err)
	}
	if took := time.Since(began); took > limit {
		t.Errorf("the stop took %s, shutdown.timeout is %s", took, limit)
	}
}

// TestClosingStuckClientIsFeltByNobody closes a client that does not read. During the wait for its
// close packet, the owner must not take the comet's session counts for wrong. Otherwise it would
// forget the comet's other sessions.
func TestClosingStuckClientIsFeltByNobody(t *testing.T) {
	t.Parallel() // it mostly waits
	n := start(t, func(cfg *config.Config) {
		cfg.Delivery.AnnounceInterval = 100 * time.Millisecond
	})
	w := n.witness(t)
	stuck := n.stuckClient(t, "stuck")
	n.call(t, "POST", "/v1/users/stuck/kick", "").is(t, 200, `{"sessions":1}`)
	if err := stuck.End(); err != nil { // it ends its side, but does not read
		t.Fatal(err)
	}
	for range 20 {
		a := n.call(t, "POST", "/v1/push", `{"user":"witness","body":0,"kept":false}`)
		a.want(t, 202)
		switch {
		case strings.Contains(a.body, `"sessions":1`):
			if got := <-w.messages; got != "0" {
				t.Fatalf("the witness received %q", got)
			}
		case !strings.Contains(n.log.String(), "comet is silent"): // this happens on a machine that pauses for long
			t.Fatalf("the witness's session is forgotten: %s", a.body)
		}
		time.Sleep(50 * time.Millisecond)
	}
	w.fine(t)
	if strings.Contains(n.log.String(), "counts other sessions") {
		t.Error("the owner marked the comet's counts as wrong")
	}
	eventually(t, "it is gone", func() bool { return !n.user(t, "stuck").Online })
}
