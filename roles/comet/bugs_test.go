package comet_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/comet"
	"imgo/transport/pipe"
)

// The tests of this file cover bugs of the two ancestors in the part that is comet today. The
// migration guide lists all of these bugs.

// Bug 4: a full connection queue dropped silently, and in goim v2 also the
// rest of the batch.
func TestAncestorBug04_FullQueueIsCountedAndCostsNobodyElse(t *testing.T) {
	s := start(t, &fakeLogic{}, func(cfg *comet.Config) { cfg.PendingBytes = 1200 })
	full := s.dialPipe(pipe.Options{Buffer: 512})
	full.login("ann", `,"ack":true`)
	s.push(s.backlog(0, 0, 0, false))
	other := s.connected(1, "bob", 0)
	s.push(s.live(0, protocol.OpMessage, strings.Repeat("x", 1150))) // is being written from now on
	body := strings.Repeat("x", 1000)
	var batch []*envelope.Delivery
	for id := uint64(1); id <= 10; id++ {
		batch = append(batch, s.live(0, protocol.OpMessage, body), s.kept(0, id, id-1), s.kept(1, id, id-1))
	}
	s.push(batch...)
	for id := uint64(1); id <= 10; id++ {
		other.expect(protocol.OpMessage, id, fmt.Sprintf(`"k%d"`, id))
	}
	if n := s.metric("imgo_comet_messages_total", "kind=live", "outcome=dropped"); n < 7 {
		t.Errorf("%v messages were counted as dropped", n)
	}
	// The kept messages are not lost: the session asks for them when its client has
	// read.
	eventually(t, "the session asks for the rest", func() bool {
		for full.pipe.Unread() > 0 {
			full.receive()
		}
		return s.logic.asked() > 0
	})
	r := s.logic.lastAsked()
	s.push(s.backlog(0, r.After, 10, false, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10))
	for got := r.After; got < 10; {
		if p := full.receive(); p.ID != 0 {
			got = p.ID
		}
	}
}

// Bug 6, comet's part: a failed auth reply left a ghost session.
func TestAncestorBug06_ClientThatLeavesBeforeItsAuthReply(t *testing.T) {
	release := make(chan struct{})
	logic := &fakeLogic{connect: func(r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
		<-release
		return admit(r)
	}}
	s := start(t, logic, nil)
	c := s.dialPipe(pipe.Options{})
	c.send(1, protocol.OpAuth, 1, "ann")
	eventualSession(t, s, 0)
	_ = c.Close()
	close(release)
	eventually(t, "it is detached", func() bool { return len(logic.gone()) == 1 })
	eventually(t, "and gone here", func() bool { return s.Sessions() == 0 })
}

// Bug 10: a late disconnect erased the mapping of a newer session.
func TestAncestorBug10_LateDetachNamesItsOwnSession(t *testing.T) {
	s := start(t, &fakeLogic{}, nil)
	dial := func() *client {
		c := s.dialPipe(pipe.Options{})
		c.login("ann", `,"key":"k","rooms":["r"]`)
		return c
	}
	older := dial()
	newer := dial() // The newer session takes the key over.
	older.closedWith(protocol.CloseReplacedByKey)
	eventually(t, "the older one is detached", func() bool { return len(s.logic.gone()) == 1 })
	if d := s.logic.gone()[0]; d.Session.Session != s.logic.session(0) {
		t.Fatalf("detached session %x, want %x", d.Session.Session, s.logic.session(0))
	}
	s.push(s.live(1, protocol.OpMessage, "1"), &envelope.Delivery{Op: 5, Body: []byte("2"), Room: "r"})
	newer.expect(protocol.OpMessage, 0, "1")
	newer.expect(protocol.OpMessage, 0, "2")
	// The newer session still has the key: a third session finds and closes it.
	dial()
	newer.closedWith(protocol.CloseReplacedByKey)
}

// Bug 14: there were no write deadlines, and a full channel blocked under the bucket's lock. Here a
// client that reads nothing must not block a push.
func TestAncestorBug14_StuckClientHoldsNobodyUp(t *testing.T) {
	s := start(t, &fakeLogic{}, func(cfg *comet.Config) {
		listening(cfg)
		cfg.SlowTimeout = time.Second
		cfg.PendingBytes = 64 << 20
	})
	stuck, other := s.dialTCP(), s.dialTCP()
	stuck.login("ann", `,"rooms":["r"]`)
	other.login("bob", `,"rooms":["r"]`)
	body := []byte(strings.Repeat("x", 60<<10))
	for range 400 { // 24 MB exceeds every socket buffer.
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err := s.Push(ctx, &envelope.PushRequest{Deliveries: []*envelope.Delivery{{Op: 5, Body: body, Room: "r"}}})
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		if p := other.receive(); len(p.Body) != len(body) {
			t.Fatalf("got %d bytes", len(p.Body))
		}
	}
	eventually(t, "the stuck one is closed", func() bool { return s.metric("imgo_comet_closed_total", "code=3002") == 1 })
	eventually(t, "and gone", func() bool { return s.Sessions() == 1 })
}

// Bug 16: a broadcast body that is not JSON disconnected every WebSocket client.
func TestAncestorBug16_BroadcastThatIsNotJSON(t *testing.T) {
	s := start(t, &fakeLogic{}, listening)
	old, v2 := s.dialWS(true), s.dialWS(true)
	old.send(1, protocol.OpAuth, 1, `"ann"`)
	old.receive()
	v2.login("bob", "")
	for _, body := range []string{"not JSON", `{"broken":`, "\xff\xfe\x00", "", strings.Repeat("[", 20000)} {
		s.push(&envelope.Delivery{Op: 5, Body: []byte(body), All: true})
		for _, c := range []*client{old, v2} {
			if p := c.receive(); p.Op != 5 {
				t.Fatalf("body %.20q: got op %d", body, p.Op)
			}
		}
	}
	old.send(1, protocol.OpHeartbeat, 1, "")
	old.expect(protocol.OpHeartbeatReply, 0, "{}")
}

// Bug 19, comet's part: the process exited without cleaning up. TestDrain tests the whole shutdown.
func TestAncestorBug19_StopDetachesItsSessions(t *testing.T) {
	s := start(t, &fakeLogic{}, listening)
	c := s.dialTCP()
	c.login("ann", "")
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	c.closedWith(protocol.CloseShutdown)
	if n := len(s.logic.gone()); n != 1 {
		t.Fatalf("%d sessions were detached", n)
	}
}

// Bug 20: the server listened on IPv4 only.
func TestAncestorBug20_IPv6(t *testing.T) {
	s := start(t, &fakeLogic{}, func(cfg *comet.Config) { listenOn(cfg, ":0", ":0") })
	for _, host := range []string{"127.0.0.1", "::1"} {
		conn := dialHost(t, host, s.Addr("tcp"))
		if conn == nil {
			t.Skip("no IPv6 on this machine")
		}
		c := &client{Client: stream(conn), t: t}
		c.login("ann", "")
	}
}
