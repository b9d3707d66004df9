package comet_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/comet"
)

// TestConcurrentPushes runs callers that push to the same sessions at once, each in another order. So
// the batch of one caller has sessions that other callers wait for. No caller may wait forever. Each
// client that is not closed gets each caller's messages in order, although it does not read for a while.
func TestConcurrentPushes(t *testing.T) {
	const clients, callers, rounds = 80, 4, 40
	s := start(t, &fakeLogic{}, func(cfg *comet.Config) {
		listening(cfg)
		cfg.SendBuffer, cfg.PendingBytes = 8<<10, 16<<20
	})
	var all []*client
	for i := range clients {
		c := s.dialTCP()
		if i%2 == 1 {
			c = s.dialWS(false)
		}
		c.login(fmt.Sprint("user", i), `,"rooms":["r"]`)
		all = append(all, c)
	}
	order := func(k int) []*envelope.Target {
		to := make([]*envelope.Target, clients)
		for i := range to {
			to[i] = &envelope.Target{Session: s.logic.session(i)}
		}
		if k%2 == 1 {
			slices.Reverse(to)
		}
		return append(to[k:], to[:k]...)
	}
	padding := strings.Repeat("x", 2000)
	var pushing sync.WaitGroup
	for k := range callers {
		to := order(k)
		pushing.Go(func() {
			for n := range rounds {
				d := &envelope.Delivery{Op: protocol.OpMessage, Body: fmt.Appendf(nil, "%d %d %s", k, n, padding)}
				switch n % 4 {
				case 0:
					d.All = true
				case 1:
					d.Room = "r"
				default:
					d.To = to
				}
				req := &envelope.PushRequest{Deliveries: []*envelope.Delivery{d}}
				if n == rounds/2 && k == 0 { // The last two sessions are closed in the meantime.
					req.Deliveries = append(req.Deliveries, s.kick(clients-1, protocol.CloseKicked, "go"), s.kick(clients-2, protocol.CloseKicked, "go"))
				}
				if _, err := s.Push(context.Background(), req); err != nil {
					t.Error(err)
				}
			}
		})
	}
	pushing.Wait() // The pushes end although no client reads.
	for i, c := range all[:clients-2] {
		var next [callers]int
		for range callers * rounds {
			var k, n int
			p := c.receive()
			_, err := fmt.Sscanf(string(p.Body), "%d %d", &k, &n)
			if err != nil || k >= callers || n != next[k] || !strings.HasSuffix(string(p.Body), padding) {
				t.Fatalf("client %d got %.40q, of caller %d it wants %d", i, p.Body, k, next[min(k, callers-1)])
			}
			next[k]++
		}
	}
}

// TestKeptToMany checks that each of many sessions gets its kept messages in order. They may be
// written at once, or the session may fall behind.
func TestKeptToMany(t *testing.T) {
	const clients = 20
	s := start(t, &fakeLogic{}, listening)
	var all []*client
	for i := range clients {
		c := s.dialTCP()
		c.login(fmt.Sprint("user", i), `,"ack":true`)
		s.push(s.backlog(i, 0, 0, false))
		all = append(all, c)
	}
	kept := func(id, prev uint64) *envelope.Delivery {
		d := s.kept(0, id, prev)
		for i := 1; i < clients; i++ {
			d.To = append(d.To, &envelope.Target{Session: s.logic.session(i), Prev: prev})
		}
		return d
	}
	s.push(kept(1, 0))
	s.push(kept(1, 0))             // A duplicate: no client sees it.
	s.push(kept(2, 1), kept(3, 2)) // These are queued, and written at the end of the call.
	s.push(kept(5, 4))             // Message 4 is missing, so the session is behind.
	s.push(kept(6, 5))
	eventually(t, "all ask for what is missing", func() bool { return s.logic.asked() == clients })
	for i := range clients {
		s.push(s.backlog(i, 3, 6, false, 4, 5, 6))
	}
	for _, c := range all {
		for want := uint64(1); want <= 6; want++ {
			if p := c.receive(); p.ID != want {
				t.Fatalf("got %d, want %d", p.ID, want)
			}
		}
	}
}
