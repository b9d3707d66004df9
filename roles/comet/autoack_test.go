package comet_test

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/comet"
	"imgo/transport/pipe"
)

// autoAcked connects the first session as a client that does not acknowledge.
func autoAcked(s *server, o pipe.Options) *client {
	c := s.dialPipe(o)
	c.send(1, protocol.OpAuth, 1, "ann")
	c.receive()
	s.push(s.backlog(0, 0, 0, false))
	return c
}

// TestAutoAckByTCP checks a client that does not acknowledge, where its TCP's acknowledgement counts. A
// kept message is acknowledged when the client's side has read all of its bytes, and not before.
func TestAutoAckByTCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, &fakeLogic{}, byTCP)
		c := autoAcked(s, pipe.Options{})
		s.push(s.kept(0, 1, 0), s.kept(0, 2, 1), s.live(0, protocol.OpMessage, "live"))
		time.Sleep(10 * time.Second)
		c.send(1, protocol.OpHeartbeat, 2, "") // A heartbeat is no proof, since the client may not have read the message.
		time.Sleep(time.Second)
		if ids := s.logic.acked(); len(ids) != 0 {
			t.Fatalf("acknowledged %v that nobody has read", ids)
		}
		c.receive()
		time.Sleep(time.Second)
		if ids := s.logic.acked(); slices.Contains(ids, 2) { // Message 1 may be acknowledged if the two were separate writes.
			t.Fatalf("acknowledged %v though only 1 was read", ids)
		}
		c.receive()
		c.receive()
		time.Sleep(time.Second)
		if ids := s.logic.acked(); fmt.Sprint(ids) != "[1 2]" {
			t.Fatalf("acknowledged %v, want [1 2]", ids)
		}
		if a := s.logic.firstAck(); a.User != "ann" || a.Device != "" || !a.Auto {
			t.Fatalf("acknowledged for %v", a)
		}
	})
}

func byTCP(cfg *comet.Config) { cfg.AutoAck = comet.AutoAckTCP }

// TestAutoAckByPacket checks that by default only a packet of the client acknowledges. What the
// client's side has read is no proof, since that may be a proxy. A packet that came soon after the
// message is none either, since the client may have sent it before. Bytes that its TCP does not have
// stay unacknowledged whatever the client sends.
func TestAutoAckByPacket(t *testing.T) {
	for _, unknown := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := start(t, &fakeLogic{}, nil)
			c := autoAcked(s, pipe.Options{NoUnacked: unknown})
			s.push(s.kept(0, 1, 0))
			c.receive()
			time.Sleep(time.Second)
			c.send(1, protocol.OpHeartbeat, 2, "")
			c.expect(protocol.OpHeartbeatReply, 0, "")
			s.push(s.kept(0, 2, 1))
			time.Sleep(time.Minute)
			if ids := s.logic.acked(); len(ids) != 0 {
				t.Fatalf("acknowledged %v without a packet that was sent after the message", ids)
			}
			c.send(1, protocol.OpHeartbeat, 3, "")
			time.Sleep(time.Second)
			want := "[1]"
			if unknown {
				want = "[1 2]"
			}
			if ids := s.logic.acked(); fmt.Sprint(ids) != want {
				t.Fatalf("acknowledged %v, want %s, for the client has not read 2", ids, want)
			}
			c.receive()
			c.receive()
			c.send(1, protocol.OpSend, 4, "any packet")
			time.Sleep(time.Second)
			if ids := s.logic.acked(); fmt.Sprint(ids) != "[1 2]" {
				t.Fatalf("acknowledged %v, want [1 2]", ids)
			}
		})
	}
}

// TestAutoAckBound checks that a session with very many messages that wait for a packet gets no more of
// them, and goes on after the packet.
func TestAutoAckBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, &fakeLogic{}, func(cfg *comet.Config) { cfg.PendingBytes = 1 << 20 })
		s.logic.catchUp = func(r *envelope.CatchUpRequest) error {
			s.push(s.backlog(0, r.After, 4097, false, 4097))
			return nil
		}
		c := autoAcked(s, pipe.Options{Buffer: 1 << 20})
		for id := uint64(1); id <= 4097; id++ {
			if id == 4097 {
				synctest.Wait() // The messages before are written.
			}
			s.push(s.kept(0, id, id-1))
		}
		for range 4096 {
			c.receive()
		}
		time.Sleep(time.Minute)
		if c.pipe.Unread() != 0 {
			t.Fatal("more was written than may wait")
		}
		c.send(1, protocol.OpHeartbeat, 2, "")
		c.expect(protocol.OpHeartbeatReply, 0, "")
		c.expect(protocol.OpMessage, 0, `"k4097"`)
	})
}

// TestAutoAckAtTheEnd checks that the end of the connection acknowledges nothing by default, since a
// proxy may have ended it for a client that is out of reach. Where TCP's acknowledgement counts,
// exactly the messages that had arrived are acknowledged.
func TestAutoAckAtTheEnd(t *testing.T) {
	for _, mode := range []string{comet.AutoAckPacket, comet.AutoAckTCP} {
		for _, read := range []int{0, 1} {
			synctest.Test(t, func(t *testing.T) {
				s := start(t, &fakeLogic{}, func(cfg *comet.Config) { cfg.AutoAck = mode })
				c := autoAcked(s, pipe.Options{})
				s.push(s.kept(0, 1, 0))
				synctest.Wait()
				s.push(s.kept(0, 2, 1))
				synctest.Wait()
				for range read {
					c.receive()
				}
				time.Sleep(time.Minute)
				_ = c.Close()
				time.Sleep(time.Second)
				want := []uint64{}
				if mode == comet.AutoAckTCP {
					want = []uint64{1, 2}[:read]
				}
				if ids := s.logic.acked(); !slices.Equal(ids, want) {
					t.Fatalf("%s: acknowledged %v, want %v", mode, ids, want)
				}
				if gone := s.logic.gone(); len(gone) != 1 || gone[0].User != "ann" {
					t.Fatalf("detached %v", gone)
				}
			})
		}
	}
}

// TestNoAutoAck checks that comet acknowledges nothing for a client that acknowledges.
func TestNoAutoAck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, &fakeLogic{}, nil)
		c := s.connected(0, "ann", 0)
		s.push(s.kept(0, 1, 0), s.kept(0, 2, 1))
		c.receive()
		c.receive()
		time.Sleep(time.Minute)
		c.send(2, protocol.OpAck, 0, "\x00\x00\x00\x00\x00\x00\x00\x02")
		time.Sleep(time.Second)
		if ids := s.logic.acked(); fmt.Sprint(ids) != "[2]" {
			t.Fatalf("acknowledged %v, want [2]", ids)
		}
	})
}

// TestAutoAckOverTCP checks that over a real socket the kernel reports what has arrived, if that counts.
func TestAutoAckOverTCP(t *testing.T) {
	s := start(t, &fakeLogic{}, func(cfg *comet.Config) {
		listening(cfg)
		byTCP(cfg)
	})
	for i, c := range []*client{s.dialTCP(), s.dialWS(false)} {
		c.send(1, protocol.OpAuth, 1, "ann")
		c.receive()
		s.push(s.backlog(i, 0, 0, false), s.kept(i, 1, 0))
		c.receive()
		eventually(t, "the message is acknowledged", func() bool { return len(s.logic.acked()) == i+1 })
	}
}

// TestAckBatches checks that acknowledgements are batched, and sent again until logic accepts them.
// The queue is bounded and drops the oldest first.
func TestAckBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		logic := &fakeLogic{}
		logic.ack = func(*envelope.AckRequest) error {
			if !up.Load() {
				return envelope.ErrUnavailable
			}
			return nil
		}
		s := start(t, logic, func(cfg *comet.Config) { cfg.AckQueue, cfg.AckBatch = 50, 20 })
		c := s.connected(0, "ann", 0)
		for id := range uint64(100) {
			s.push(s.kept(0, id+1, id))
			c.receive()
			c.send(2, protocol.OpAck, 0, fmt.Sprintf("\x00\x00\x00\x00\x00\x00\x00%c", id+1))
		}
		time.Sleep(time.Second)
		if n := s.metric("imgo_comet_lost_total", "queue=ack"); n < 30 || n > 60 {
			t.Fatalf("%v ids were lost", n)
		}
		up.Store(true)
		time.Sleep(5 * time.Second)
		ids := logic.acked()
		if len(ids) < 40 || ids[len(ids)-1] != 100 || !slices.IsSorted(ids) {
			t.Fatalf("acknowledged %v", ids)
		}
		if n := logic.ackCount(); n > 5 {
			t.Fatalf("%d ids took %d calls", len(ids), n)
		}
	})
}

// TestAckRefused checks that an acknowledgement that logic refuses does not affect the other clients
// of the same call.
func TestAckRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logic := &fakeLogic{}
		logic.ack = func(r *envelope.AckRequest) error {
			for _, a := range r.Acks {
				if a.User == "eve" {
					return envelope.Invalid("acks", "are not hers")
				}
			}
			return nil
		}
		s := start(t, logic, nil)
		for i, user := range []string{"ann", "eve", "bob"} {
			c := s.connected(i, user, 0)
			s.push(s.kept(i, uint64(i+1), 0))
			c.receive()
			c.send(2, protocol.OpAck, 0, fmt.Sprintf("\x00\x00\x00\x00\x00\x00\x00%c", i+1))
		}
		time.Sleep(time.Second)
		ids := logic.acked()
		slices.Sort(ids) // The packets of three clients arrive in any order.
		if fmt.Sprint(ids) != "[1 3]" {
			t.Fatalf("acknowledged %v, want [1 3]", ids)
		}
		if n := s.metric("imgo_comet_lost_total", "queue=ack"); n != 1 {
			t.Fatalf("%v ids were lost, want 1", n)
		}
	})
}
