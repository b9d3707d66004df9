package e2e_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"imgo/roles"
	"imgo/transport"
	"imgo/transport/transporttest"
)

// drip sends bytes one at a time until the server ends the connection, or
// there are none left, and returns how long that took.
func drip(t *testing.T, c io.Writer, b []byte, each time.Duration, ended <-chan struct{}) time.Duration {
	t.Helper()
	began := time.Now()
	for i := range b {
		if _, err := c.Write(b[i : i+1]); err != nil {
			break
		}
		select {
		case <-ended:
			return time.Since(began)
		case <-time.After(each):
		}
	}
	select {
	case <-ended:
	default:
		t.Errorf("all %d bytes were taken in %s", len(b), time.Since(began))
	}
	return time.Since(began)
}

// TestSlowloris: clients that send a byte now and then buy no time with it:
// not before auth, not within the upgrade, not within a packet or frame, and
// not in a session either.
func TestSlowloris(t *testing.T) {
	t.Parallel() // it waits more than it works
	n := start(t, func(cfg *roles.Config) {
		cfg.Protocol.HandshakeTimeout = roles.Duration{Duration: 700 * time.Millisecond}
		cfg.Protocol.Heartbeat = roles.Duration{Duration: time.Second}
	})
	w := n.witness(t)
	moved := n.grows(t, refused("listener_http"))
	handshakes := n.metric(t, "imgo_comet_refused_total", `reason="handshake_timeout"`)
	stale := n.metric(t, "imgo_comet_closed_total", `code="3004"`)

	long := strings.Repeat("x", 10_000)
	t.Run("slow", func(t *testing.T) {
		// slow runs one client: dial connects it, send is what it means to send.
		slow := func(name string, least, most time.Duration, dial func(t *testing.T) *client, send func(c *client) string, code int) {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c := dial(t)
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					if code != 0 {
						p, err := c.next()
						if err == nil && p.Op == transport.OpDisconnect && !strings.Contains(string(p.Body), "in time") && code == 3509 {
							t.Errorf("it is told %s", p.Body)
						}
						var closed *transporttest.Closed
						if err != nil && (!errors.As(err, &closed) || int(closed.Code) != code) {
							t.Errorf("it ends with %v", err)
						}
						return
					}
					_, _ = io.Copy(io.Discard, c.Client.(*transporttest.Stream))
				}()
				took := drip(t, c.Client.(io.Writer), []byte(send(c)), 20*time.Millisecond, ended)
				if took < least || took > most {
					t.Errorf("the server waited %s, want %s to %s", took, least, most)
				}
				<-ended
			})
		}
		// On a busy machine a deadline is kept late, never early.
		const early, late = 500 * time.Millisecond, 6 * time.Second
		tcp := func(t *testing.T) *client { return n.tcp(t) }
		ws := func(t *testing.T) *client { return n.ws(t, false) }
		slow("packet over TCP", early, late, tcp, func(*client) string { return packet(1, transport.OpAuth, 1, long) }, 3509)
		slow("frame", early, late, ws, func(c *client) string { return string(c.Frame([]byte(packet(1, transport.OpAuth, 1, long)))) }, 3509)
		slow("fragments", early, late, ws, func(*client) string {
			return string(transporttest.RawFrame(2, true, nil)) + strings.Repeat(string(transporttest.RawFrame(0, true, nil)), 1000) // never a message
		}, 3509)
		slow("upgrade", early, late, func(t *testing.T) *client { return tcpTo(t, n.WSAddr().String()) },
			func(*client) string { return "GET /sub HTTP/1.1\r\nHost: x\r\nX-Long: " + long }, 0)
		// A session that begins a packet and never ends it has given no sign
		// of life: closed after 2.5 heartbeats.
		login := func(dial func(t *testing.T) *client) func(t *testing.T) *client {
			return func(t *testing.T) *client {
				c := dial(t)
				c.login("v2", "slow", "")
				return c
			}
		}
		slow("packet of a session", 2*time.Second, late, login(tcp), func(*client) string { return packet(2, transport.OpSend, 1, long) }, 3004)
		slow("frame of a session", 2*time.Second, late, login(ws), func(c *client) string {
			return string(c.Frame([]byte(packet(2, transport.OpSend, 1, long))))
		}, 3004)
		t.Run("meanwhile", func(t *testing.T) {
			for range 10 {
				w.fine(t)
				time.Sleep(100 * time.Millisecond)
			}
		})
	})
	moved()
	if now := n.metric(t, "imgo_comet_refused_total", `reason="handshake_timeout"`); now != handshakes+3 {
		t.Errorf("handshake_timeout went from %v to %v, want 3 more", handshakes, now)
	}
	if now := n.metric(t, "imgo_comet_closed_total", `code="3004"`); now != stale+2 {
		t.Errorf("code 3004 went from %v to %v, want 2 more", stale, now)
	}
	w.fine(t)
}
