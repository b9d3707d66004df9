package comet_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/transport/pipe"
)

// received is a packet and when it arrived, counted from the auth reply.
type received struct {
	op   int32
	body string
	at   time.Duration
}

// receiveTimed reads n packets of a client as they come.
func (c *client) receiveTimed(n int) []received {
	c.t.Helper()
	var list []received
	var first time.Time
	for range n {
		p := c.receive()
		if first.IsZero() {
			first = time.Now()
		}
		list = append(list, received{p.Op, string(p.Body), time.Since(first)})
	}
	return list
}

// TestPacedBacklog checks that a client of an old server on TCP gets the auth reply alone. Then it gets
// each kept message in a write of its own, with a pause before it. Such an SDK may lose what arrives
// with another packet.
func TestPacedBacklog(t *testing.T) {
	for _, auth := range []string{"ann", `{"mid":7,"room_id":"live://1","accepts":[]}`} {
		for _, inReply := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				var s *server
				logic := &fakeLogic{}
				logic.connect = func(r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
					reply, err := admit(r)
					first := s.backlog(0, 0, 3, true, 1, 2, 3)
					if inReply {
						reply.Backlog = first.GetBacklog()
					} else {
						s.push(first)
					}
					return reply, err
				}
				logic.catchUp = func(r *envelope.CatchUpRequest) error {
					if r.MaxMessages > 64 {
						t.Errorf("asked for %d messages, more than may wait", r.MaxMessages)
					}
					s.push(s.backlog(0, r.After, 6, false, 4, 5, 6))
					return nil
				}
				s = start(t, logic, nil)
				c := s.dialPipe(pipe.Options{Stream: true})
				c.send(1, protocol.OpAuth, 1, auth)
				got := c.receiveTimed(7)
				if got[0].op != protocol.OpAuthReply {
					t.Fatalf("first came op %d", got[0].op)
				}
				for i, a := range got[1:] {
					if a.body != fmt.Sprintf(`"k%d"`, i+1) {
						t.Fatalf("packet %d is %q", i+1, a.body)
					}
					pause := 20 * time.Millisecond
					if i == 0 {
						pause = 100 * time.Millisecond
					}
					if a.at-got[i].at < pause {
						t.Errorf("packet %d came %v after the one before, want at least %v", i+1, a.at-got[i].at, pause)
					}
				}
			})
		}
	}
}

// TestPacedAmongOthers checks that a kept message keeps its distance from the packets before it, and is
// written all the same where there is never a pause.
func TestPacedAmongOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, &fakeLogic{}, nil)
		c := s.dialPipe(pipe.Options{Stream: true})
		c.send(1, protocol.OpAuth, 1, "ann")
		c.receive()
		s.push(s.backlog(0, 0, 0, false))
		time.Sleep(time.Second)
		s.push(s.live(0, protocol.OpMessage, "room"), s.kept(0, 1, 0), s.kept(0, 2, 1))
		got := c.receiveTimed(3)
		if got[0].body != "room" || got[1].at < 20*time.Millisecond || got[2].at-got[1].at < 20*time.Millisecond {
			t.Fatalf("arrived: %v", got)
		}
		time.Sleep(time.Second)
		s.push(s.kept(0, 3, 2))
		begin := time.Now()
		if c.expect(protocol.OpMessage, 0, `"k3"`); time.Since(begin) > 20*time.Millisecond {
			t.Errorf("on a quiet connection a message took %v", time.Since(begin))
		}
		// Now there is a packet every 5 ms.
		s.push(s.kept(0, 4, 3))
		for n := 0; ; n++ {
			s.push(s.live(0, protocol.OpMessage, "busy"))
			time.Sleep(5 * time.Millisecond)
			if string(c.receive().Body) == `"k4"` {
				break
			}
			if n > 200 {
				t.Fatal("the kept message waits for ever")
			}
		}
	})
}

// TestPacedAndClosed checks that messages that wait for a pause go out when the server closes the
// session, and that none of them counts as delivered.
func TestPacedAndClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, &fakeLogic{}, nil)
		c := s.dialPipe(pipe.Options{Stream: true})
		c.send(1, protocol.OpAuth, 1, "ann")
		c.receive()
		s.push(s.backlog(0, 0, 3, false, 1, 2, 3))
		s.push(s.kick(0, protocol.CloseKicked, "away"))
		for id := 1; id <= 3; id++ {
			c.expect(protocol.OpMessage, 0, fmt.Sprintf(`"k%d"`, id))
		}
		_ = c.Close()
		time.Sleep(10 * time.Second)
		if ids := s.logic.acked(); len(ids) != 0 {
			t.Errorf("acknowledged %v", ids)
		}
	})
}

// TestPacedBound checks that few messages wait for a pause. The session asks for the others later.
func TestPacedBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *server
		logic := &fakeLogic{}
		logic.catchUp = func(r *envelope.CatchUpRequest) error {
			var ids []uint64
			for id := r.After + 1; id <= min(r.After+uint64(r.MaxMessages), 300); id++ {
				ids = append(ids, id)
			}
			s.push(s.backlog(0, r.After, 300, r.After+uint64(r.MaxMessages) < 300, ids...))
			return nil
		}
		s = start(t, logic, nil)
		c := s.dialPipe(pipe.Options{Stream: true})
		c.send(1, protocol.OpAuth, 1, "ann")
		c.receive()
		s.push(s.backlog(0, 0, 0, false))
		for id := uint64(1); id <= 300; id++ {
			s.push(s.kept(0, id, id-1))
		}
		for id := 1; id <= 300; id++ {
			c.expect(protocol.OpMessage, 0, fmt.Sprintf(`"k%d"`, id))
		}
		if n := logic.asked(); n < 3 {
			t.Errorf("asked %d times for what did not fit", n)
		}
	})
}

// TestNotPaced checks that neither WebSocket clients nor those of version 2 wait for a pause.
func TestNotPaced(t *testing.T) {
	for name, o := range map[string]pipe.Options{"framed": {}, "version 2": {Stream: true}} {
		synctest.Test(t, func(t *testing.T) {
			s := start(t, &fakeLogic{}, nil)
			c := s.dialPipe(o)
			if o.Stream {
				c.login("ann", "")
			} else {
				c.send(1, protocol.OpAuth, 1, "ann")
				c.receive()
			}
			s.push(s.backlog(0, 0, 3, false, 1, 2, 3))
			if got := c.receiveTimed(3); got[2].at > 0 {
				t.Errorf("%s: the messages came after %v", name, got)
			}
		})
	}
}
