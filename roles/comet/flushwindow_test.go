package comet_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/comet"
	"imgo/transport/pipe"
)

// TestFlushWindow checks that messages within the window are queued and written in order at its end. A
// reply is written at once, after the queued messages.
func TestFlushWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const window = 500 * time.Millisecond
		s := start(t, &fakeLogic{}, func(cfg *comet.Config) { cfg.FlushInterval = window })
		c := s.connected(0, "ann", 0)
		for round := range 5 {
			time.Sleep(time.Duration(round) * 30 * time.Millisecond)
			began := time.Now()
			for i := range 20 {
				s.push(s.live(0, protocol.OpMessage, fmt.Sprint(i)))
			}
			synctest.Wait()
			for i := range 20 {
				c.expect(protocol.OpMessage, 0, fmt.Sprint(i))
				if i == 0 && time.Since(began) > window {
					t.Fatalf("the first of them took %s", time.Since(began))
				}
			}
			took := time.Since(began)
			synctest.Wait() // a writer still under way would take the next message along
			if s.push(s.live(0, protocol.OpMessage, "late")); took > 0 {
				synctest.Wait()
				if n := c.pipe.Unread(); n > 0 {
					t.Fatalf("%d bytes of a message came right after the end of a window", n)
				}
			}
			began = time.Now()
			c.send(2, protocol.OpHeartbeat, 7, "")
			c.expect(protocol.OpMessage, 0, "late")
			c.expect(protocol.OpHeartbeatReply, 0, "")
			if took := time.Since(began); took > 0 {
				t.Fatalf("an answer took %s", took)
			}
		}
		// A kept message is queued too, and written before op 6.
		s.push(s.kept(0, 1, 0))
		s.push(s.kick(0, protocol.CloseKicked, "go"))
		c.expect(protocol.OpMessage, 1, `"k1"`)
		c.closedWith(protocol.CloseKicked)
	})
}

// TestFlushWindowOfMany checks that every session gets every message once.
func TestFlushWindowOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, &fakeLogic{}, func(cfg *comet.Config) { cfg.FlushInterval = 20 * time.Millisecond })
		clients := make([]*client, 300)
		for i := range clients {
			clients[i] = s.dialPipe(pipe.Options{Text: i%2 == 0})
			clients[i].login(fmt.Sprint("u", i), "")
		}
		for i := range 10 {
			s.push(&envelope.Delivery{Op: protocol.OpMessage, Body: []byte(fmt.Sprint(i)), All: true})
			time.Sleep(time.Duration(i) * time.Millisecond)
		}
		for _, c := range clients {
			for i := range 10 {
				c.expect(protocol.OpMessage, 0, fmt.Sprint(i))
			}
		}
		if n := s.metric("imgo_comet_pending_bytes"); n != 0 {
			t.Fatalf("%v bytes are pending", n)
		}
	})
}

// TestBatchOfBroadcasts checks that the messages of one call, of every kind, reach every session in
// order over every transport.
func TestBatchOfBroadcasts(t *testing.T) {
	s := start(t, &fakeLogic{}, listening)
	var clients []*client
	for i := range 300 {
		c := []func() *client{s.dialTCP, func() *client { return s.dialWS(false) }, func() *client { return s.dialWS(true) }}[i%3]()
		c.login(fmt.Sprint("u", i), `,"ack":true,"rooms":["r"]`)
		s.push(s.backlog(i, 0, 0, false))
		clients = append(clients, c)
	}
	for round := range uint64(5) {
		batch := []*envelope.Delivery{
			{Op: protocol.OpMessage, Body: []byte("1"), All: true},
			{Op: protocol.OpMessage, Body: []byte("2"), Room: "r"},
		}
		for i := range clients {
			batch = append(batch, s.kept(i, round+1, round))
		}
		batch = append(batch, &envelope.Delivery{Op: protocol.OpMessage, Body: []byte("3"), All: true})
		s.push(batch...)
		s.push(&envelope.Delivery{Op: protocol.OpMessage, Body: []byte("4"), All: true})
	}
	for _, c := range clients {
		for round := range uint64(5) {
			c.expect(protocol.OpMessage, 0, "1")
			c.expect(protocol.OpMessage, 0, "2")
			c.expect(protocol.OpMessage, round+1, fmt.Sprintf(`"k%d"`, round+1))
			c.expect(protocol.OpMessage, 0, "3")
			c.expect(protocol.OpMessage, 0, "4")
		}
	}
}
