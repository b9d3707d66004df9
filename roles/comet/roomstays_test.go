package comet_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"imgo/envelope"
	"imgo/internal/wait/waittest"
	"imgo/protocol"
	"imgo/transport/pipe"
)

// backend is a logic whose backend decides about the rooms that begin with "ask".
type backend struct {
	fakeLogic
	decide func(room string) (until time.Time, err error)
}

func newBackend(decide func(room string) (time.Time, error)) *backend {
	b := &backend{decide: decide}
	b.connect = func(r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
		reply, err := admit(r)
		if err != nil {
			return nil, err
		}
		reply.Access = &envelope.RoomAccess{Ruled: true}
		for _, room := range r.Session.Rooms {
			if strings.HasPrefix(room, "ask") {
				reply.ToAsk = append(reply.ToAsk, room)
			} else {
				reply.Joined = append(reply.Joined, room)
			}
		}
		return reply, nil
	}
	b.join = func(r *envelope.JoinRequest) (*envelope.JoinReply, error) {
		if !strings.HasPrefix(r.Room, "ask") {
			return &envelope.JoinReply{}, nil
		}
		until, err := b.decide(r.Room)
		if err != nil {
			return nil, err
		}
		reply := &envelope.JoinReply{}
		if !until.IsZero() {
			reply.UntilMs = until.UnixMilli()
		}
		return reply, nil
	}
	return b
}

func notIn(room string) error {
	return envelope.Errorf(envelope.CodeForbidden, "room %q may not be joined: not you", room)
}

var errAway = envelope.Errorf(envelope.CodeUnavailable, "the backend does not answer")

func changed(room string, joined bool, code, reason string) string {
	if code != "" {
		code = fmt.Sprintf(`"code":"%s",`, code)
	}
	return fmt.Sprintf(`{"room":"%s","joined":%t,%s"reason":%q}`, room, joined, code, reason)
}

const (
	letIn  = "the backend lets the client in"
	isOver = "the time that the backend gave is over"
)

// TestStaysEnd checks that a session leaves a room by itself when the time that the backend gave is
// over, is told, and may ask for more time before.
func TestStaysEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logic := newBackend(func(room string) (time.Time, error) {
			switch room {
			case "ask/short":
				return time.Now().Add(10 * time.Second), nil
			case "ask/long":
				return time.Time{}, nil
			}
			return time.Time{}, notIn(room)
		})
		s := start(t, &logic.fakeLogic, nil)
		c := s.dialPipe(pipe.Options{})
		c.login("ann", "")
		join := func(seq int32, room string) {
			t.Helper()
			c.send(2, protocol.OpJoinRoom, seq, room)
			c.expect(protocol.OpJoinRoomReply, 0, room)
		}
		join(1, "ask/short")
		join(2, "ask/long")
		c.send(2, protocol.OpJoinRoom, 3, "ask/no")
		c.expect(protocol.OpError, 0, `{"op":20,"code":"forbidden","reason":"room \"ask/no\" may not be joined: not you"}`)

		time.Sleep(8 * time.Second)
		join(4, "ask/short") // ten seconds more, from here
		time.Sleep(8 * time.Second)
		if got := s.members(); got != "map[ask/long:1 ask/short:1]" {
			t.Errorf("after more time was asked for, the rooms are %s", got)
		}
		c.expectAfter(3*time.Second, protocol.OpRoomChanged, changed("ask/short", false, "", isOver))
		if got := s.members(); got != "map[ask/long:1]" {
			t.Errorf("when the time was over, the rooms were %s", got)
		}
		// A room that was left and joined again has the new end alone.
		join(5, "ask/short")
		c.send(2, protocol.OpLeaveRoom, 6, "ask/short")
		c.expect(protocol.OpLeaveRoomReply, 0, "ask/short")
		time.Sleep(5 * time.Second)
		join(7, "ask/short")
		time.Sleep(7 * time.Second)
		if got := s.members(); got != "map[ask/long:1 ask/short:1]" {
			t.Errorf("the first end has ended the second stay: the rooms are %s", got)
		}
		// What the API grants has no end.
		s.follow(0, 10, "", "ask/short")
		c.expect(protocol.OpRoomChanged, 0, changed("ask/short", true, "", "the backend has put the user into the room"))
		time.Sleep(7 * time.Second)
		if got := s.members(); got != "map[ask/long:1 ask/short:1]" {
			t.Errorf("the end of a stay has ended a membership: the rooms are %s", got)
		}
	})
}

// expectAfter is expect for a packet that comes within d.
func (c *client) expectAfter(d time.Duration, op int32, body string) {
	time.Sleep(d)
	c.expect(op, 0, body)
}

// askedBackend is a backend that answers when the test says so.
type askedBackend struct {
	*backend
	asked   chan string
	answers chan error
}

func newAskedBackend() *askedBackend {
	b := &askedBackend{asked: make(chan string), answers: make(chan error)}
	b.backend = newBackend(func(room string) (time.Time, error) {
		b.asked <- room
		return time.Time{}, <-b.answers
	})
	return b
}

// awaitQuestion waits until the backend is asked about a room. An answer must follow.
func (b *askedBackend) awaitQuestion(t *testing.T, room string) {
	t.Helper()
	select {
	case got := <-b.asked:
		if got != room {
			t.Fatalf("the backend was asked about %s, want %s", got, room)
		}
	case <-time.After(waittest.Limit):
		t.Fatalf("the backend was not asked about %s", room)
	}
}

// answer answers the question about a room.
func (b *askedBackend) answer(t *testing.T, room string, err error) {
	t.Helper()
	b.awaitQuestion(t, room)
	b.answers <- err
}

// TestRoomsOfTheAuthPacketAreAskedLater checks that a client is let in before the backend has decided about its
// rooms, and is told of each decision. A backend that hangs holds up nobody.
func TestRoomsOfTheAuthPacketAreAskedLater(t *testing.T) {
	b := newAskedBackend()
	s := start(t, &b.fakeLogic, nil)
	c := s.dialPipe(pipe.Options{})
	c.send(2, protocol.OpAuth, 1, `{"token":"ann","rooms":["open","ask/1","ask/2","ask/3","ask/4"]}`)
	if p := c.receive(); p.Op != protocol.OpAuthReply || !strings.Contains(string(p.Body), `"undecided":["ask/1","ask/2","ask/3","ask/4"]`) {
		t.Fatalf("auth was answered with op %d %s", p.Op, p.Body)
	}
	// Neither this client nor another one waits for the backend.
	c.send(2, protocol.OpHeartbeat, 2, "")
	c.expect(protocol.OpHeartbeatReply, 0, "")
	other := s.dialPipe(pipe.Options{})
	other.login("bob", "")
	other.send(2, protocol.OpJoinRoom, 2, "open")
	other.expect(protocol.OpJoinRoomReply, 0, "open")

	b.answer(t, "ask/1", nil)
	c.expect(protocol.OpRoomChanged, 0, changed("ask/1", true, "", letIn))
	b.answer(t, "ask/2", notIn("ask/2"))
	c.expect(protocol.OpRoomChanged, 0, changed("ask/2", false, "forbidden", `room "ask/2" may not be joined: not you`))
	b.answer(t, "ask/3", errAway)
	c.expect(protocol.OpRoomChanged, 0,
		changed("ask/3", false, "unavailable", "the server cannot do this now; try again later"))
	// A room that the client has left meanwhile is not joined.
	b.awaitQuestion(t, "ask/4")
	c.send(2, protocol.OpLeaveRoom, 3, "ask/4")
	c.expect(protocol.OpLeaveRoomReply, 0, "ask/4")
	b.answers <- nil
	c.send(2, protocol.OpAuth, 4, `{"token":"ann"}`) // which a later question follows
	c.receive()
	if got := s.members(); got != "map[ask/1:1 open:2]" {
		t.Errorf("the rooms are %s", got)
	}
	s.push(roomPush("ask/2", `"secret"`), roomPush("ask/1", `"hello"`))
	c.expect(protocol.OpMessage, 0, `"hello"`)
}

// TestGoimsRoomIsAskedLater checks the same for a client of goim: it gets its auth reply at once, and is in the
// room when the backend has said so, unless it has changed its room meanwhile.
func TestGoimsRoomIsAskedLater(t *testing.T) {
	b := newAskedBackend()
	s := start(t, &b.fakeLogic, nil)
	for i, changes := range []bool{false, true} {
		c := s.dialPipe(pipe.Options{})
		c.send(1, protocol.OpAuth, 1, fmt.Sprintf(`{"mid":"%d","room_id":"ask/1"}`, 7+i))
		c.expect(protocol.OpAuthReply, 0, "")
		want := "map[ask/1:1]"
		b.awaitQuestion(t, "ask/1")
		if changes {
			c.send(1, protocol.OpChangeRoom, 2, "open")
			c.expect(protocol.OpChangeRoomReply, 0, "open")
			want = "map[open:1]"
		}
		b.answers <- nil
		if changes { // this question comes after the answer to the first
			c.send(1, protocol.OpChangeRoom, 3, "ask/2")
			b.answer(t, "ask/2", notIn("ask/2"))
			c.expect(protocol.OpChangeRoomReply, 0, `{"op":12,"code":"forbidden","reason":"room \"ask/2\" may not be joined: not you"}`)
		}
		eventually(t, "the client is in "+want, func() bool { return s.members() == want })
		_ = c.Close()
		eventually(t, "the session has left its rooms", func() bool { return s.members() == "map[]" })
	}
}

// TestNewTokenAsksAgain checks that the backend is asked again about a session's rooms when the client brings a
// new token: a no takes it out, a new end counts, and a backend that is away changes nothing.
func TestNewTokenAsksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refuse := map[string]error{}
		logic := newBackend(func(room string) (time.Time, error) { return time.Now().Add(time.Minute), refuse[room] })
		logic.refresh = func(r *envelope.RefreshRequest) (*envelope.RefreshReply, error) {
			return &envelope.RefreshReply{Access: &envelope.RoomAccess{Ruled: true}, Rooms: []string{"given"}, ToAsk: r.Session.Rooms}, nil
		}
		s := start(t, &logic.fakeLogic, nil)
		c := s.dialPipe(pipe.Options{})
		c.login("ann", "")
		for i, room := range []string{"ask/1", "ask/2", "ask/3"} {
			c.send(2, protocol.OpJoinRoom, int32(i), room)
			c.expect(protocol.OpJoinRoomReply, 0, room)
		}
		time.Sleep(30 * time.Second)
		refuse["ask/2"], refuse["ask/3"] = notIn("ask/2"), errAway
		c.send(2, protocol.OpAuth, 9, `{"token":"ann"}`)
		c.expect(protocol.OpRoomChanged, 0, changed("given", true, "", letIn))
		if p := c.receive(); p.Op != protocol.OpAuthReply {
			t.Fatalf("got op %d %s", p.Op, p.Body)
		}
		c.expect(protocol.OpRoomChanged, 0, changed("ask/2", false, "forbidden", `room "ask/2" may not be joined: not you`))
		synctest.Wait()
		if got := s.members(); got != "map[ask/1:1 ask/3:1 given:1]" {
			t.Errorf("the rooms are %s", got)
		}
		time.Sleep(29 * time.Second)
		c.send(2, protocol.OpHeartbeat, 10, "")
		c.expect(protocol.OpHeartbeatReply, 0, "")
		c.expectAfter(3*time.Second, protocol.OpRoomChanged, changed("ask/3", false, "", isOver))
		if got := s.members(); got != "map[ask/1:1 given:1]" {
			t.Errorf("after the first end the rooms are %s", got)
		}
	})
}

// TestLateRefusalHasNoEffect checks a late refusal of a room that was asked about for a new token. It does not remove a
// session that has left the room meanwhile, asked again, and joined.
func TestLateRefusalHasNoEffect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := make(chan error, 3)
		answers <- nil
		logic := newBackend(func(string) (time.Time, error) { return time.Time{}, <-answers })
		logic.refresh = func(r *envelope.RefreshRequest) (*envelope.RefreshReply, error) {
			return &envelope.RefreshReply{Access: &envelope.RoomAccess{Ruled: true}, ToAsk: r.Session.Rooms}, nil
		}
		s := start(t, &logic.fakeLogic, nil)
		c := s.dialPipe(pipe.Options{})
		c.login("ann", "")
		c.send(2, protocol.OpJoinRoom, 1, "ask/1")
		c.expect(protocol.OpJoinRoomReply, 0, "ask/1")

		inner, late := logic.join, make(chan error)
		first := true
		logic.join = func(r *envelope.JoinRequest) (*envelope.JoinReply, error) {
			if first {
				first = false
				return nil, <-late
			}
			return inner(r)
		}
		c.send(2, protocol.OpAuth, 2, `{"token":"ann"}`)
		if p := c.receive(); p.Op != protocol.OpAuthReply {
			t.Fatalf("got op %d %s", p.Op, p.Body)
		}
		synctest.Wait() // the question is under way
		c.send(2, protocol.OpLeaveRoom, 3, "ask/1")
		c.expect(protocol.OpLeaveRoomReply, 0, "ask/1")
		answers <- nil
		c.send(2, protocol.OpJoinRoom, 4, "ask/1")
		c.expect(protocol.OpJoinRoomReply, 0, "ask/1")
		late <- notIn("ask/1")
		synctest.Wait()
		if got := s.members(); got != "map[ask/1:1]" {
			t.Errorf("after the late refusal the rooms are %s", got)
		}
		c.send(2, protocol.OpHeartbeat, 5, "")
		c.expect(protocol.OpHeartbeatReply, 0, "")
	})
}
