package comet_test

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/comet"
	"imgo/transport"
	"imgo/transport/pipe"
	"imgo/transport/transporttest"
)

// drainPipe reads all packets that the server has written. It returns their ids.
func (c *client) drainPipe() []uint64 {
	c.t.Helper()
	ids := []uint64{}
	for {
		synctest.Wait()
		if c.pipe.Unread() == 0 {
			return ids
		}
		ids = append(ids, c.receive().ID)
	}
}

// afters lists the positions from which catch-ups were requested.
func (l *fakeLogic) afters() []uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := []uint64{}
	for _, r := range l.catchUps {
		list = append(list, r.After)
	}
	return list
}

// TestRule tests the delivery rule of comet, one delivery after another. The clock stands still, so no
// catch-up is repeated.
func TestRule(t *testing.T) {
	type push func(*server) *envelope.Delivery
	kept := func(id, prev uint64) push {
		return func(s *server) *envelope.Delivery { return s.kept(0, id, prev) }
	}
	backlog := func(after, upTo uint64, more bool, ids ...uint64) push {
		return func(s *server) *envelope.Delivery { return s.backlog(0, after, upTo, more, ids...) }
	}
	nudge := func(newest uint64) push {
		return func(s *server) *envelope.Delivery { return s.nudge(0, newest) }
	}
	other := func(id uint64, op int32) push {
		return func(s *server) *envelope.Delivery {
			d := s.kept(0, id, 0)
			d.Op = op
			return d
		}
	}
	live := backlog(0, 10, false)
	for _, test := range []struct {
		name   string
		faults comet.Faults
		pushes []push
		ids    []uint64 // ids that were written
		afters []uint64 // requested catch-ups
	}{
		{name: "a new session is behind until its backlog came", pushes: []push{kept(11, 0)}},
		{name: "the first backlog is written in order",
			pushes: []push{backlog(0, 9, false, 3, 5, 9), kept(10, 9)},
			ids:    []uint64{3, 5, 9, 10}},
		{name: "a session that is behind requests the messages that it missed",
			pushes: []push{kept(11, 9), backlog(0, 9, false, 9)},
			ids:    []uint64{9}, afters: []uint64{9}},
		{name: "an answer up to the newest missed message ends the catch-up",
			pushes: []push{kept(11, 9), backlog(0, 9, false, 9), backlog(9, 12, false, 11), kept(13, 11)},
			ids:    []uint64{9, 11, 13}, afters: []uint64{9}},
		{name: "a live session gets new messages", pushes: []push{live, kept(11, 0), kept(12, 11)}, ids: []uint64{11, 12}},
		{name: "an id that was written is a duplicate", pushes: []push{live, kept(11, 0), kept(11, 0), kept(9, 0)}, ids: []uint64{11}},
		{name: "a gap puts the session behind", pushes: []push{live, kept(12, 11), kept(13, 12)}, afters: []uint64{10}},
		{name: "the catch-up fills the gap",
			pushes: []push{live, kept(12, 11), backlog(10, 13, false, 11, 12), kept(14, 12)},
			ids:    []uint64{11, 12, 14}, afters: []uint64{10}},
		{name: "a nudge with an old id has no effect", pushes: []push{live, kept(11, 0), nudge(11), nudge(3)}, ids: []uint64{11}},
		{name: "a nudge with a new id puts the session behind",
			pushes: []push{live, nudge(11), kept(12, 11), backlog(10, 12, false, 11, 12)},
			ids:    []uint64{11, 12}, afters: []uint64{10}},
		{name: "a backlog with more to come requests the next one",
			pushes: []push{backlog(0, 20, true, 1, 2), backlog(2, 20, true, 3, 4), backlog(4, 20, false), kept(21, 0)},
			ids:    []uint64{1, 2, 3, 4, 21}, afters: []uint64{2, 4}},
		{name: "a duplicate answer has no effect",
			pushes: []push{backlog(0, 20, true, 1, 2), backlog(0, 20, true, 1, 2)},
			ids:    []uint64{1, 2}, afters: []uint64{2}},
		{name: "an old answer has no effect",
			pushes: []push{live, kept(11, 0), backlog(0, 9, false, 4, 5), kept(12, 11)},
			ids:    []uint64{11, 12}},
		{name: "an answer from beyond the session's position is not written",
			pushes: []push{live, backlog(15, 20, false, 17), kept(18, 17)},
			afters: []uint64{10}},
		{name: "an operation that is not accepted is skipped", pushes: []push{live, other(11, 1000), kept(12, 11)}, ids: []uint64{12}},

		{name: "without prev", faults: comet.Faults{NoPrev: true}, pushes: []push{live, kept(12, 11)}, ids: []uint64{12}},
		{name: "without duplicate", faults: comet.Faults{NoDuplicate: true},
			pushes: []push{live, kept(11, 0), kept(11, 0)},
			ids:    []uint64{11, 11}},
		{name: "without behind-first", faults: comet.Faults{NoBehindFirst: true}, pushes: []push{kept(11, 0)}, ids: []uint64{11}},
		{name: "without seen", faults: comet.Faults{NoSeen: true},
			pushes: []push{kept(11, 9), backlog(0, 9, false, 9), kept(12, 0)},
			ids:    []uint64{9, 12}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := start(t, &fakeLogic{}, func(cfg *comet.Config) { cfg.Faults = test.faults })
				c := s.dialPipe(pipe.Options{})
				c.login("ann", `,"ack":true`)
				ids := []uint64{}
				for _, p := range test.pushes {
					s.push(p(s))
					ids = append(ids, c.drainPipe()...)
				}
				if fmt.Sprint(ids) != fmt.Sprint(append([]uint64{}, test.ids...)) {
					t.Errorf("written: %v, want %v", ids, test.ids)
				}
				if got := s.logic.afters(); fmt.Sprint(got) != fmt.Sprint(append([]uint64{}, test.afters...)) {
					t.Errorf("catch-ups asked after %v, want %v", got, test.afters)
				}
			})
		})
	}
}

// TestHeldUntilAuthReply checks that deliveries between Attach and the auth reply are written after
// the auth reply.
func TestHeldUntilAuthReply(t *testing.T) {
	var s *server
	logic := &fakeLogic{}
	logic.connect = func(r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
		s.push(s.backlog(0, 0, 5, false, 4, 5), s.kept(0, 6, 5), s.live(0, protocol.OpMessage, "live"), s.live(0, 1000, "other"))
		return admit(r)
	}
	s = start(t, logic, nil)
	c := s.dialPipe(pipe.Options{})
	c.login("ann", `,"ack":true`)
	for _, id := range []uint64{4, 5, 6} {
		c.expect(protocol.OpMessage, id, fmt.Sprintf(`"k%d"`, id))
	}
	c.expect(protocol.OpMessage, 0, "live")
}

// TestFirstBacklogInTheConnectReply checks that the first backlog follows the auth reply in order, each
// message in its own frame. It covers each transport and each way to acknowledge. If the backlog does
// not fit into the queue, the session requests the rest.
func TestFirstBacklogInTheConnectReply(t *testing.T) {
	const messages = 1000
	backlog := &envelope.Backlog{UpTo: messages}
	for id := uint64(1); id <= messages; id++ {
		body, err := json.Marshal(fmt.Sprint(id, strings.Repeat("x", int(id*7%300))))
		if err != nil {
			t.Fatal(err)
		}
		backlog.Messages = append(backlog.Messages, &envelope.Kept{Id: id, Op: protocol.OpMessage, Body: body})
	}
	for _, pending := range []int{20 << 10, 1 << 20} {
		logic := &fakeLogic{}
		logic.connect = func(r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
			reply, err := admit(r)
			reply.Backlog = backlog
			return reply, err
		}
		s := start(t, logic, func(cfg *comet.Config) {
			listening(cfg)
			cfg.PendingBytes = pending
		})
		logic.catchUp = func(r *envelope.CatchUpRequest) error {
			rest := backlog.Messages[r.After:min(messages, r.After+50)]
			s.push(&envelope.Delivery{Backlog: &envelope.Backlog{
				To: r.To, After: r.After, UpTo: messages, More: r.After+50 < messages, Messages: rest}})
			return nil
		}
		for name, dial := range map[string]func() *client{
			"tcp": s.dialTCP, "ws": func() *client { return s.dialWS(false) }, "ws text": func() *client { return s.dialWS(true) },
			"pipe": func() *client { return s.dialPipe(pipe.Options{}) },
		} {
			for _, ack := range []bool{false, true} {
				t.Run(fmt.Sprintf("pending=%d %s ack=%v", pending, name, ack), func(t *testing.T) {
					before := logic.asked()
					c := dial()
					c.t = t
					c.login("ann", fmt.Sprintf(`,"ack":%v`, ack))
					for _, k := range backlog.Messages {
						c.expect(protocol.OpMessage, k.Id, string(k.Body))
					}
					if asked := logic.asked() - before; (asked > 0) != (pending < 1<<20) {
						t.Errorf("it was asked %d times for more", asked)
					}
				})
			}
		}
	}
}

// TestBacklogsDoNotMix checks that the memory of a backlog is reused only after the kernel has taken all
// of it.
func TestBacklogsDoNotMix(t *testing.T) {
	const messages, rounds, clients = 800, 4, 12
	logic := &fakeLogic{}
	logic.connect = func(r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
		reply, err := admit(r)
		reply.Backlog = &envelope.Backlog{UpTo: messages}
		for id := uint64(1); id <= messages; id++ {
			body := fmt.Append(nil, reply.User, " ", id, " ", strings.Repeat(reply.User, 20))
			reply.Backlog.Messages = append(reply.Backlog.Messages, &envelope.Kept{Id: id, Op: protocol.OpMessage, Body: body})
		}
		return reply, err
	}
	s := start(t, logic, listening)
	for round := range rounds {
		var wg sync.WaitGroup
		for i := range clients {
			user := fmt.Sprintf("u%03d", round*clients+i)
			c := s.dialTCP()
			if i%2 == 0 {
				c = s.dialWS(false)
			} else if err := c.Client.(*transporttest.Stream).Conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
				t.Fatal(err) // The poller writes the rest later.
			}
			wg.Go(func() {
				defer c.Close()
				auth := fmt.Sprintf(`{"token":%q,"ack":%v}`, user, i%3 > 0)
				if err := c.Send(c.Frame(transport.AppendPacket(nil, 2, protocol.HeaderV1, protocol.OpAuth, 1, 0, []byte(auth)))); err != nil {
					t.Error(err)
					return
				}
				if _, err := c.next(); err != nil { // This is the auth reply.
					t.Error(err)
					return
				}
				for id := uint64(1); id <= messages; id++ {
					if i%4 == 3 && id == messages/2 {
						return // Its queue is discarded.
					}
					want := fmt.Sprint(user, " ", id, " ", strings.Repeat(user, 20))
					if p, err := c.next(); err != nil || p.ID != id || string(p.Body) != want {
						t.Errorf("%s: got id %d body %.100q, %v; want id %d", user, p.ID, p.Body, err, id)
						return
					}
				}
			})
		}
		wg.Wait()
	}
}

// TestBacklogInTheConnectReply checks that a session with nothing pending is not behind after its auth
// reply. It requests a catch-up only if it missed a message meanwhile.
func TestBacklogInTheConnectReply(t *testing.T) {
	for _, passed := range []bool{false, true} {
		t.Run(fmt.Sprintf("passed=%v", passed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s *server
				logic := &fakeLogic{}
				logic.connect = func(r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
					if passed {
						s.push(s.kept(0, 11, 0))
					}
					reply, err := admit(r)
					reply.Backlog = &envelope.Backlog{UpTo: 10}
					return reply, err
				}
				s = start(t, logic, nil)
				c := s.dialPipe(pipe.Options{})
				c.login("ann", `,"ack":true`)
				want, afters := []uint64{12}, []uint64{}
				if passed {
					want, afters = []uint64{11, 12}, []uint64{10}
					synctest.Wait() // The session requests what it missed.
					s.push(s.backlog(0, 10, 11, false, 11))
				}
				s.push(s.kept(0, 12, 11*uint64(len(want)-1)))
				if got := c.drainPipe(); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("written: %v, want %v", got, want)
				}
				if got := s.logic.afters(); fmt.Sprint(got) != fmt.Sprint(afters) {
					t.Errorf("catch-ups asked after %v, want %v", got, afters)
				}
			})
		})
	}
}

// TestAskAgain checks that a catch-up without an answer is repeated after growing pauses. After an
// error it is repeated soon.
func TestAskAgain(t *testing.T) {
	for _, test := range []struct {
		name   string
		faults comet.Faults
		fail   int // the first calls that fail
		within time.Duration
		asked  int
	}{
		{name: "answers that do not come", within: 15 * time.Second, asked: 3}, // at 2, 6 and 14 s
		{name: "errors", fail: 3, within: 3 * time.Second, asked: 4},           // at 2 s, and three more soon after
		{name: "without ask-again", faults: comet.Faults{NoAskAgain: true}, within: time.Minute, asked: 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				failed := 0
				logic := &fakeLogic{catchUp: func(*envelope.CatchUpRequest) error {
					if failed++; failed <= test.fail {
						return envelope.ErrUnavailable
					}
					return nil
				}}
				s := start(t, logic, func(cfg *comet.Config) {
					cfg.Faults, cfg.CatchUpMessages, cfg.CatchUpBytes = test.faults, 7, 700
					cfg.Heartbeat = 2 * time.Hour
				})
				c := s.dialPipe(pipe.Options{})
				c.login("ann", `,"device":"phone"`)
				time.Sleep(test.within)
				synctest.Wait()
				if n := logic.asked(); n != test.asked {
					t.Fatalf("asked %d times in %s, want %d", n, test.within, test.asked)
				}
				if test.asked == 0 {
					return
				}
				if r := logic.lastAsked(); r.User != "ann" || r.Device != "phone" || r.After != 0 || r.MaxMessages != 7 || r.MaxBytes != 700 ||
					r.To.Comet != "c1" || r.To.Session != logic.session(0) {
					t.Fatalf("asked %v", r)
				}
			})
		})
	}
}

// TestCatchUpOfOtherPartitions checks that a session is asked for at once though hundreds of sessions are behind whose
// partitions have an owner that does not answer. When it answers again, all of them are asked for soon.
func TestCatchUpOfOtherPartitions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const behind, partitions = 400, 3
		var healed atomic.Bool
		var mu sync.Mutex
		asked := map[string]time.Time{}
		logic := &fakeLogic{
			connect: func(r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
				reply, err := admit(r)
				if n, failing := strings.CutPrefix(r.Token, "bad"); failing {
					reply.Partition = uint32(n[0]) % partitions
				}
				return reply, err
			},
			catchUp: func(r *envelope.CatchUpRequest) error {
				if strings.HasPrefix(r.User, "bad") && !healed.Load() {
					time.Sleep(5 * time.Second) // the deadline of comet's call
					return envelope.ErrUnavailable
				}
				mu.Lock()
				defer mu.Unlock()
				asked[r.User] = time.Now()
				return nil
			},
		}
		s := start(t, logic, func(cfg *comet.Config) { cfg.Heartbeat = time.Hour })
		s.dialPipe(pipe.Options{}).login("ann", "")
		s.push(s.backlog(0, 0, 10, false))
		for i := range behind {
			s.dialPipe(pipe.Options{}).login(fmt.Sprintf("bad%d", i), "")
		}
		time.Sleep(10 * time.Second)
		for id := uint64(12); id < 52; id += 2 {
			s.push(s.kept(0, id, id-1)) // the message before it has not come
			pushed := time.Now()
			time.Sleep(time.Second)
			mu.Lock()
			if at := asked["ann"]; at.Before(pushed) || at.Sub(pushed) > 100*time.Millisecond {
				t.Fatalf("ann fell behind at %v and was asked for at %v", pushed, at)
			}
			mu.Unlock()
			s.push(s.backlog(0, id-2, id, false, id-1, id))
		}
		healed.Store(true)
		time.Sleep(10 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		if n := len(asked); n != behind+1 {
			t.Fatalf("%d sessions were asked for, want %d", n, behind+1)
		}
	})
}

// TestCatchUpsOfManyPartitions checks that partitions that fail, with many sessions each, take turns. A partition that is
// back is found when each of the others was tried about once, though all but one of its sessions have left.
func TestCatchUpsOfManyPartitions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const partitions, each, back = 100, 20, 10
		const call = 5 * time.Second
		partition := func(user string) (p uint32, err error) {
			_, err = fmt.Sscanf(user, "p%d-", &p)
			return p, err
		}
		var healed atomic.Bool
		var mu sync.Mutex
		found := make(map[uint32]bool)
		logic := &fakeLogic{
			connect: func(r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
				reply, err := admit(r)
				if err == nil {
					reply.Partition, err = partition(r.Token)
				}
				return reply, err
			},
			catchUp: func(r *envelope.CatchUpRequest) error {
				p, err := partition(r.User)
				if healed.Load() && p < back {
					mu.Lock()
					defer mu.Unlock()
					found[p] = true
					return err
				}
				time.Sleep(call) // the deadline of comet's call
				return envelope.ErrUnavailable
			},
		}
		s := start(t, logic, func(cfg *comet.Config) { cfg.Heartbeat = time.Hour })
		var left []*client
		for p := range partitions {
			for i := range each {
				c := s.dialPipe(pipe.Options{})
				c.login(fmt.Sprintf("p%d-%d", p, i), "")
				if p < back && i > 0 {
					left = append(left, c)
				}
			}
		}
		time.Sleep(time.Minute)
		for _, c := range left {
			_ = c.Close()
		}
		healed.Store(true)
		time.Sleep((partitions/24 + 4) * call) // 24 at a time, after the calls under way, and with the pauses
		mu.Lock()
		defer mu.Unlock()
		if len(found) != back {
			t.Errorf("%d of %d partitions that are back have been found", len(found), back)
		}
	})
}

// TestAnswerWithoutProgress checks an owner that has not yet read what the session missed. It is asked
// again at once, and then after growing pauses.
func TestAnswerWithoutProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *server
		logic := &fakeLogic{}
		logic.catchUp = func(r *envelope.CatchUpRequest) error {
			s.push(s.backlog(0, r.After, 10, false))
			return nil
		}
		s = start(t, logic, nil)
		c := s.dialPipe(pipe.Options{})
		c.login("ann", "")
		s.push(s.backlog(0, 0, 10, false), s.kept(0, 12, 11))
		time.Sleep(10 * time.Second)
		if n := logic.asked(); n < 5 || n > 40 {
			t.Fatalf("asked %d times in 10 s", n)
		}
		s.push(s.backlog(0, 10, 12, false, 11, 12), s.kept(0, 13, 12))
		if ids := c.drainPipe(); fmt.Sprint(ids) != "[11 12 13]" {
			t.Fatalf("written: %v", ids)
		}
	})
}

// TestLiveOnce checks that an entry of the live topic reaches a session once. A job may deliver it
// twice, or the log may contain it twice.
func TestLiveOnce(t *testing.T) {
	s := start(t, &fakeLogic{}, nil)
	c := s.dialPipe(pipe.Options{})
	c.login("ann", "")
	entry := func(id, body string) *envelope.Delivery {
		d := s.live(0, protocol.OpMessage, body)
		d.LiveId = []byte(id)
		return d
	}
	s.push(entry("1", "first"), entry("2", "second"), entry("1", "first"))
	s.push(entry("2", "second"), entry("3", "third"))
	// An entry without an id is never a duplicate.
	s.push(entry("", "fourth"), entry("", "fourth"))
	for _, want := range []string{"first", "second", "third", "fourth", "fourth"} {
		c.expect(protocol.OpMessage, 0, want)
	}
}

// TestBacklogCounts checks that imgo_comet_messages_total counts the messages of a backlog, and not the backlogs, whatever
// becomes of them.
func TestBacklogCounts(t *testing.T) {
	s := start(t, &fakeLogic{}, func(cfg *comet.Config) { cfg.PendingBytes = 400 })
	count := func(outcome string) float64 {
		return s.metric("imgo_comet_messages_total", "kind=backlog", "outcome="+outcome)
	}
	c := s.connected(0, "ann", 0)
	ids := make([]uint64, 40)
	for i := range ids {
		ids[i] = uint64(i + 1)
	}
	// These are more than the session's queue has room for. The auth reply may still be in it.
	s.push(s.backlog(0, 0, 40, false, ids...))
	if written := count("written"); written < 2 || written == 40 || written+count("behind") != 40 {
		t.Errorf("%v were counted as written and %v as behind, want 40 in all", written, count("behind"))
	}
	s.push(s.backlog(0, 0, 2, true, 1, 2))
	if n := count("duplicate"); n != 2 {
		t.Errorf("%v were counted as duplicate, want 2", n)
	}
	_ = c.Close()
	eventually(t, "the session has ended", func() bool { return len(s.logic.gone()) == 1 })
	s.push(s.backlog(0, 0, 40, false, ids...))
	if n := count("gone"); n != 40 {
		t.Errorf("%v were counted as gone, want 40", n)
	}
}
