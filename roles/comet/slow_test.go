package comet_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/comet"
	"imgo/transport/pipe"
)

// mailbox is a fake owner. It answers catch-ups from a list of kept messages.
type mailbox struct {
	s      *server
	ids    []uint64
	window int
	body   string
}

func (m *mailbox) catchUp(r *envelope.CatchUpRequest) error {
	b := &envelope.Backlog{To: r.To, After: r.After, UpTo: 1 << 20}
	for _, id := range m.ids {
		if id <= r.After {
			continue
		}
		if len(b.Messages) == m.window {
			b.More = true
			break
		}
		b.Messages = append(b.Messages, &envelope.Kept{Id: id, Op: protocol.OpMessage, Body: []byte(m.body)})
	}
	m.s.push(&envelope.Delivery{Backlog: b})
	return nil
}

// TestSlowClient checks a client that does not read. Its kept messages wait in the mailbox, and other
// messages are dropped and counted. Another client sees no difference. Once the slow client reads, it
// gets every kept message in order.
func TestSlowClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := strings.Repeat("x", 1000)
		logic := &fakeLogic{}
		box := &mailbox{window: 5, body: body}
		logic.catchUp = box.catchUp
		s := start(t, logic, func(cfg *comet.Config) {
			cfg.PendingBytes, cfg.CatchUpBytes, cfg.SlowTimeout = 8<<10, 8<<10, time.Minute
		})
		box.s = s
		slow := s.dialPipe(pipe.Options{Buffer: 2 << 10})
		slow.login("ann", `,"ack":true`)
		s.push(s.backlog(0, 0, 0, false))
		healthy := s.dialPipe(pipe.Options{Buffer: 1 << 20})
		healthy.login("bob", `,"ack":true`)
		s.push(s.backlog(1, 0, 0, false))

		const kept = 100
		for id := uint64(1); id <= kept; id++ {
			box.ids = append(box.ids, id)
			for n := range 2 {
				k, l := s.kept(n, id, id-1), s.live(n, protocol.OpMessage, body)
				k.Body = []byte(body)
				s.push(k, l)
			}
			synctest.Wait()
		}
		if ids := healthy.drainPipe(); len(ids) != 2*kept {
			t.Fatalf("the healthy client got %d packets, want %d", len(ids), 2*kept)
		}
		if n := s.metric("imgo_comet_pending_bytes"); n > 9<<10 {
			t.Fatalf("%v bytes are pending, the bound is 8 KiB", n)
		}
		if n := s.metric("imgo_comet_messages_total", "kind=live", "outcome=dropped"); n < kept/2 {
			t.Fatalf("%v messages were counted as dropped", n)
		}
		if n := s.metric("imgo_comet_behind_sessions"); n != 1 {
			t.Fatalf("%v sessions are behind", n)
		}
		if n := logic.asked(); n != 0 {
			t.Fatalf("the slow session asked %d times before it drained", n)
		}
		want := uint64(1)
		for want <= kept {
			p := slow.receive()
			switch {
			case p.ID == 0:
			case p.ID != want:
				t.Fatalf("got id %d, want %d", p.ID, want)
			default:
				want++
			}
		}
		synctest.Wait()
		if n := s.metric("imgo_comet_behind_sessions"); n != 0 {
			t.Fatalf("%v sessions are behind after all was read", n)
		}
		// The backlogs were requested one by one, as the client read them.
		if n := logic.asked(); n < 10 {
			t.Fatalf("%d messages came in %d backlogs of 5", kept, n)
		}
	})
}

// TestFastClientWithHeldFrames checks that a client that takes everything at once is not taken for slow because
// comet holds more for it than fits into the outbox.
func TestFastClientWithHeldFrames(t *testing.T) {
	const pending = 8 << 10
	body := strings.Repeat("x", 1000)
	type deliveries func(s *server) []*envelope.Delivery
	live := func(n int) deliveries {
		return func(s *server) (list []*envelope.Delivery) {
			for range n {
				list = append(list, s.live(0, protocol.OpMessage, body))
			}
			return list
		}
	}
	kept := func(s *server) (list []*envelope.Delivery) {
		for id := range uint64(20) {
			d := s.kept(0, id+1, id)
			d.Body = []byte(body)
			list = append(list, d)
		}
		return list
	}
	for name, c := range map[string]struct {
		window     time.Duration
		deliveries deliveries
	}{
		"live": {0, live(20)},
		"kept": {0, kept},
		"large": {0, func(s *server) []*envelope.Delivery {
			return append(live(1)(s), s.live(0, protocol.OpMessage, strings.Repeat("x", pending)))
		}},
		"live in a window": {time.Second, live(20)},
		"kept in a window": {time.Second, kept},
		"broadcasts in a window": {time.Second, func(s *server) (list []*envelope.Delivery) {
			list = live(7)(s)
			for range 3 {
				list = append(list, &envelope.Delivery{Op: protocol.OpMessage, Body: []byte(body), All: true})
			}
			return list
		}},
	} {
		for _, polled := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, polled %v", name, polled), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := start(t, &fakeLogic{}, func(cfg *comet.Config) {
						cfg.PendingBytes, cfg.CatchUpBytes, cfg.FlushInterval = pending, pending, c.window
					})
					var frames atomic.Int64
					conn := &polledSink{sink: sink{closed: make(chan struct{}), frames: &frames}}
					if polled {
						s.Serve(conn)
					} else {
						s.Serve(&conn.sink)
					}
					synctest.Wait()
					s.push(s.backlog(0, 0, 0, false))
					synctest.Wait()
					before := frames.Load()
					deliveries := c.deliveries(s)
					s.push(deliveries...)
					time.Sleep(2 * c.window)
					synctest.Wait()
					if n := frames.Load() - before; n != int64(len(deliveries)) {
						t.Errorf("%d of %d messages were written", n, len(deliveries))
					}
					if n := s.logic.asked(); n != 0 {
						t.Errorf("the session asked for a catch-up %d times", n)
					}
				})
			})
		}
	}
}

// TestCatchUpAtClientsPace checks that the next backlog is requested only after the one before was
// written.
func TestCatchUpAtClientsPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, &fakeLogic{}, func(cfg *comet.Config) { cfg.SlowTimeout = time.Hour })
		c := s.dialPipe(pipe.Options{Buffer: 1 << 10})
		c.login("ann", "")
		big := s.backlog(0, 0, 2, true, 1, 2)
		for _, k := range big.Backlog.Messages {
			k.Body = []byte(strings.Repeat("x", 4<<10))
		}
		s.push(big)
		synctest.Wait()
		if n := s.logic.asked(); n != 0 {
			t.Fatalf("asked %d times while the backlog is on its way", n)
		}
		if ids := c.drainPipe(); fmt.Sprint(ids) != "[1 2]" {
			t.Fatalf("written: %v", ids)
		}
		if got := s.logic.afters(); fmt.Sprint(got) != "[2]" {
			t.Fatalf("asked after %v", got)
		}
	})
}

// TestBacklogOverPendingBytes checks that a backlog that does not fit is written in part. The session
// then requests the rest.
func TestBacklogOverPendingBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, &fakeLogic{}, func(cfg *comet.Config) { cfg.PendingBytes = 100 })
		c := s.dialPipe(pipe.Options{})
		c.login("ann", "")
		synctest.Wait()                                              // The bytes of the auth reply count until its write has returned.
		s.push(s.backlog(0, 0, 9, false, 1, 2, 3, 4, 5, 6, 7, 8, 9)) // 28 bytes each
		if ids := c.drainPipe(); fmt.Sprint(ids) != "[1 2 3]" {
			t.Fatalf("written: %v", ids)
		}
		if got := s.logic.afters(); fmt.Sprint(got) != "[3]" {
			t.Fatalf("asked after %v", got)
		}
		// A single message over the bound is written alone.
		big := s.backlog(0, 3, 4, false, 4)
		big.Backlog.Messages[0].Body = []byte(strings.Repeat("x", 1000))
		s.push(big)
		if ids := c.drainPipe(); fmt.Sprint(ids) != "[4]" {
			t.Fatalf("written: %v", ids)
		}
	})
}

// TestSlowClientIsClosed checks that a client that reads nothing for the slow timeout is closed.
func TestSlowClientIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, &fakeLogic{}, func(cfg *comet.Config) { cfg.SlowTimeout = 3 * time.Second })
		c := s.dialPipe(pipe.Options{Buffer: 1 << 10})
		c.login("ann", "")
		s.push(s.live(0, protocol.OpMessage, strings.Repeat("x", 4<<10)))
		time.Sleep(2900 * time.Millisecond)
		synctest.Wait()
		if s.Sessions() != 1 {
			t.Fatal("closed too soon")
		}
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		if code, _, _ := c.pipe.Closed(); code != protocol.CloseSlow {
			t.Fatalf("closed with %d", code)
		}
		if n := s.metric("imgo_comet_closed_total", "code=3002"); n != 1 {
			t.Fatalf("counted %v times", n)
		}
		if n := s.metric("imgo_comet_pending_bytes"); n != 0 {
			t.Fatalf("%v bytes are pending for nobody", n)
		}
	})
}

// TestRepliesAreBounded checks that the replies to a client that does not read stay within the
// session's memory bound.
func TestRepliesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, &fakeLogic{}, func(cfg *comet.Config) {
			cfg.PendingBytes, cfg.SlowTimeout = 4<<10, time.Hour
		})
		c := s.dialPipe(pipe.Options{Buffer: 1 << 10})
		c.put(wire("00000013 0010 0001 00000007 00000001", "tok"))
		c.want(wire("00000010 0010 0001 00000008 00000001", ""))
		for range 50 {
			c.send(1, protocol.OpSend, 1, strings.Repeat("x", 500))
		}
		synctest.Wait()
		if n := s.metric("imgo_comet_pending_bytes"); n > 4<<10 || n == 0 {
			t.Fatalf("%v bytes are pending", n)
		}
		if n := s.metric("imgo_comet_messages_total", "kind=reply", "outcome=dropped"); n < 20 {
			t.Fatalf("%v replies were dropped", n)
		}
	})
}

// TestOrderOfOneCaller checks that the messages of one caller reach a session in order, kept or not,
// however slowly the client reads.
func TestOrderOfOneCaller(t *testing.T) {
	s := start(t, &fakeLogic{}, listening)
	c := s.dialTCP()
	c.login("ann", `,"ack":true`)
	s.push(s.backlog(0, 0, 0, false))
	const n = 5000
	go func() {
		for i := uint64(1); i <= n; i++ {
			s.push(s.kept(0, i, i-1))
		}
	}()
	for i := uint64(1); i <= n; i++ {
		c.expect(protocol.OpMessage, i, fmt.Sprintf(`"k%d"`, i))
	}
}
