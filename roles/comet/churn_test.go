package comet_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/comet"
)

// TestBroadcastsWhileClientsComeAndGo runs several callers that push to all sessions and to a room,
// one by one and in batches. Meanwhile other clients connect, join and leave the room, and disconnect.
// Clients that stay must get every message, those of each caller in order. The test runs with a flush
// window and without.
func TestBroadcastsWhileClientsComeAndGo(t *testing.T) {
	for _, window := range []time.Duration{0, 3 * time.Millisecond} {
		t.Run(window.String(), func(t *testing.T) {
			const callers, rounds = 4, 60
			s := start(t, &fakeLogic{}, func(cfg *comet.Config) {
				listening(cfg)
				cfg.FlushInterval, cfg.PendingBytes = window, 1<<20
			})
			dials := []func() *client{s.dialTCP, func() *client { return s.dialWS(false) }, func() *client { return s.dialWS(true) }}
			var stay []*client
			for i := range 9 {
				c := dials[i%3]()
				c.login(fmt.Sprint("stays", i), `,"rooms":["r"]`)
				stay = append(stay, c)
			}
			stop := make(chan struct{})
			var churn, pushing sync.WaitGroup
			for i := range 3 {
				churn.Go(func() {
					for n := 0; ; n++ {
						select {
						case <-stop:
							return
						default:
						}
						c := dials[i]()
						c.send(2, protocol.OpAuth, 1, `{"token":"goes","rooms":["r"]}`)
						if i != 2 {
							c.send(2, protocol.OpLeaveRoom, 2, "r")
							c.send(2, protocol.OpJoinRoom, 3, "r")
						}
						if n%2 == 0 { // Otherwise the client ends with messages in progress.
							_, _ = c.next()
						}
						_ = c.Close()
					}
				})
			}
			for k := range callers {
				pushing.Go(func() {
					one := func(n int) *envelope.Delivery {
						d := &envelope.Delivery{Op: protocol.OpMessage, Body: fmt.Appendf(nil, "%d%05d", k, n), All: n%2 == 0}
						if !d.All {
							d.Room = "r"
						}
						return d
					}
					for n := 0; n < rounds; n += 3 {
						s.push(one(n))
						s.push(one(n+1), one(n+2))
					}
				})
			}
			for i, c := range stay {
				var next [callers]int
				for range callers * rounds {
					p := c.receive()
					var k, n int
					text := string(p.Body)
					if c.text && len(text) > 2 && text[0] == '"' {
						text = text[1 : len(text)-1]
					}
					if _, err := fmt.Sscanf(text, "%1d%05d", &k, &n); err != nil || k >= callers || n != next[k] {
						t.Fatalf("client %d got %q, the next of that caller is %d", i, p.Body, next[k])
					}
					next[k]++
				}
			}
			pushing.Wait()
			close(stop)
			churn.Wait()
			eventually(t, "nothing is pending", func() bool { return s.metric("imgo_comet_pending_bytes") == 0 })
		})
	}
}
