package comet_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/comet"
	"imgo/transport/pipe"
)

// ruled admits a client into the rooms whose names begin with "open", as a logic with
// rules does.
func ruled(granted ...string) func(*envelope.ConnectRequest) (*envelope.ConnectReply, error) {
	return func(r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
		reply, err := admit(r)
		if err != nil {
			return nil, err
		}
		reply.Access = &envelope.RoomAccess{Ruled: true, Rooms: []string{"private/" + reply.User}}
		for _, room := range r.Session.Rooms {
			if strings.HasPrefix(room, "open") {
				reply.Joined = append(reply.Joined, room)
			} else {
				reply.Refused = append(reply.Refused, &envelope.RoomRefusal{Room: room, Code: "forbidden", Reason: "no " + room})
			}
		}
		if len(granted) > 0 {
			reply.Memberships = &envelope.Memberships{At: 10, Rooms: granted}
		}
		return reply, nil
	}
}

func onlyOpen(r *envelope.JoinRequest) (*envelope.JoinReply, error) {
	if strings.HasPrefix(r.Room, "open") || r.Room == r.Access.Rooms[0] {
		return &envelope.JoinReply{}, nil
	}
	return nil, &envelope.Error{Code: envelope.CodeForbidden, Field: "room", Message: fmt.Sprintf("%q may not be joined", r.Room)}
}

// roomPush is a message for a room's members.
func roomPush(room, body string) *envelope.Delivery {
	return &envelope.Delivery{Op: protocol.OpMessage, Room: room, Body: []byte(body)}
}

// members lists the rooms that have members.
func (s *server) members() string {
	s.t.Helper()
	reply, err := s.Rooms(context.Background(), &envelope.RoomsRequest{})
	if err != nil {
		s.t.Fatal(err)
	}
	return fmt.Sprint(reply.Counts)
}

// TestRefusedJoins checks that a join which is not allowed is answered, and does not
// end the session. Nothing of the room reaches the client.
func TestRefusedJoins(t *testing.T) {
	for name, text := range map[string]bool{"binary": false, "text": true} {
		t.Run(name, func(t *testing.T) {
			logic := &fakeLogic{connect: ruled(), join: onlyOpen}
			s := start(t, logic, func(cfg *comet.Config) { cfg.RoomsPerSession = 2 })
			c := s.dialPipe(pipe.Options{Text: text})
			c.login("ann", "")
			body := func(room string) string {
				if text {
					return fmt.Sprintf("%q", room)
				}
				return room
			}
			join := func(seq int32, room string, op int32, want string) {
				t.Helper()
				c.send(2, protocol.OpJoinRoom, seq, body(room))
				if p := c.expect(op, 0, want); p.Seq != seq {
					t.Fatalf("the answer has seq %d, want %d", p.Seq, seq)
				}
			}
			join(5, "private/bob", protocol.OpError, `{"op":20,"code":"forbidden","reason":"room \"private/bob\" may not be joined"}`)
			join(6, "private/ann", protocol.OpJoinRoomReply, body("private/ann"))
			join(7, "open", protocol.OpJoinRoomReply, body("open"))
			join(8, "open", protocol.OpJoinRoomReply, body("open"))
			join(9, "open2", protocol.OpError, `{"op":20,"code":"too_many","reason":"a session may be in at most 2 rooms"}`)
			if got := s.members(); got != "map[open:1 private/ann:1]" {
				t.Errorf("the rooms are %s", got)
			}
			s.push(roomPush("private/bob", `"secret"`), roomPush("open2", `"x"`), roomPush("open", `"hello"`))
			c.expect(protocol.OpMessage, 0, `"hello"`)
			logic.join = func(*envelope.JoinRequest) (*envelope.JoinReply, error) {
				return nil, fmt.Errorf("ask the owner at 10.0.0.1: %w", context.DeadlineExceeded)
			}
			c.send(2, protocol.OpLeaveRoom, 10, body("open"))
			c.expect(protocol.OpLeaveRoomReply, 0, body("open"))
			join(11, "open", protocol.OpError, `{"op":20,"code":"unavailable","reason":"the server cannot do this now; try again later"}`)
		})
	}
}

// TestRoomsOfTheAuthPacket checks that rooms of the auth packet go by the same rules.
func TestRoomsOfTheAuthPacket(t *testing.T) {
	s := start(t, &fakeLogic{connect: ruled("granted")}, func(cfg *comet.Config) { cfg.RoomsPerSession = 2 })
	c := s.dialPipe(pipe.Options{})
	c.send(2, protocol.OpAuth, 1, `{"token":"ann","rooms":["open1","private/bob","open3"]}`)
	p := c.receive()
	for _, part := range []string{
		`"rooms":["granted"]`,
		`"refused":[{"room":"open3","code":"too_many","reason":"a session may be in at most 2 rooms"},` +
			`{"room":"private/bob","code":"forbidden","reason":"no private/bob"}]`,
	} {
		if !strings.Contains(string(p.Body), part) {
			t.Errorf("auth was answered with %s, want %s", p.Body, part)
		}
	}
	if got := s.members(); got != "map[granted:1 open1:1]" {
		t.Errorf("the rooms are %s", got)
	}
	// A client of an older protocol is in what it may be in, and is told nothing new.
	old := s.dialPipe(pipe.Options{})
	old.send(1, protocol.OpAuth, 1, `{"mid":"7","room_id":"private/bob","accepts":[1000]}`)
	old.expect(protocol.OpAuthReply, 0, "")
	if got := s.members(); got != "map[granted:2 open1:1]" {
		t.Errorf("the rooms are %s", got)
	}
}

// TestGoimChangesRooms checks that a refused change of the room leaves a client of
// goim where it was. It gets the reason as the body of the reply that it knows.
func TestGoimChangesRooms(t *testing.T) {
	s := start(t, &fakeLogic{connect: ruled("granted"), join: onlyOpen}, nil)
	c := s.dialPipe(pipe.Options{})
	c.send(1, protocol.OpAuth, 1, `{"mid":"7","room_id":"open1"}`)
	c.expect(protocol.OpAuthReply, 0, "")
	c.send(1, protocol.OpChangeRoom, 2, "private/bob")
	c.expect(protocol.OpChangeRoomReply, 0, `{"op":12,"code":"forbidden","reason":"room \"private/bob\" may not be joined"}`)
	if got := s.members(); got != "map[granted:1 open1:1]" {
		t.Errorf("after a refused change the rooms are %s", got)
	}
	c.send(1, protocol.OpChangeRoom, 3, "open2")
	c.expect(protocol.OpChangeRoomReply, 0, "open2")
	if got := s.members(); got != "map[granted:1 open2:1]" {
		t.Errorf("after a change the rooms are %s", got)
	}
}

// follow tells session number n a list of rooms, as logic does.
func (s *server) follow(n int, at uint64, leave string, rooms ...string) {
	s.t.Helper()
	_, err := s.Members(context.Background(), &envelope.MembersRequest{
		Sessions: []uint64{s.logic.session(n)}, Rooms: &envelope.Memberships{At: at, Rooms: rooms}, Leave: leave,
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// TestMemberships checks that a session follows the newest list of the rooms that its
// user was put into, whatever way and order the lists come in.
func TestMemberships(t *testing.T) {
	s := start(t, &fakeLogic{join: onlyOpen, connect: ruled("a")}, nil)
	c := s.dialPipe(pipe.Options{})
	c.login("ann", "")
	s.follow(0, 12, "", "a", "b")
	c.expect(protocol.OpRoomChanged, 0, `{"room":"b","joined":true,"reason":"the backend has put the user into the room"}`)
	s.push(roomPush("b", `"hello"`))
	c.expect(protocol.OpMessage, 0, `"hello"`)
	s.follow(0, 11, "") // an older list that comes late
	s.follow(0, 12, "") // and one that was told before
	if got := s.members(); got != "map[a:1 b:1]" {
		t.Errorf("the rooms are %s", got)
	}
	// What is lost on the way comes by the log.
	s.push(&envelope.Delivery{SessionRooms: &envelope.SessionRooms{
		To:    []*envelope.Address{{Comet: "c1", Session: s.logic.session(0)}},
		Rooms: &envelope.Memberships{At: 13, Rooms: []string{"b"}},
	}})
	c.expect(protocol.OpRoomChanged, 0, `{"room":"a","joined":false,"reason":"the backend has taken the user out of the room"}`)
	// The client may leave such a room, and come back without asking.
	c.send(2, protocol.OpLeaveRoom, 5, "b")
	c.expect(protocol.OpLeaveRoomReply, 0, "b")
	s.follow(0, 14, "", "b", "c")
	c.expect(protocol.OpRoomChanged, 0, `{"room":"c","joined":true,"reason":"the backend has put the user into the room"}`)
	if got := s.members(); got != "map[c:1]" {
		t.Errorf("the rooms are %s", got)
	}
	c.send(2, protocol.OpJoinRoom, 6, "b")
	c.expect(protocol.OpJoinRoomReply, 0, "b")
	// A room that the session joined by itself is left, too, if the backend says so.
	c.send(2, protocol.OpJoinRoom, 7, "open")
	c.expect(protocol.OpJoinRoomReply, 0, "open")
	s.follow(0, 15, "open", "b", "c")
	c.expect(protocol.OpRoomChanged, 0, `{"room":"open","joined":false,"reason":"the backend has taken the user out of the room"}`)
	_ = c.Close()
	eventually(t, "the session has left its rooms", func() bool { return s.members() == "map[]" })
	s.follow(0, 16, "", "a") // of a session that is over
	if got := s.members(); got != "map[]" {
		t.Errorf("the rooms are %s", got)
	}
}

// TestMembershipsOneWorker checks that the lists of a session that come by the log have one worker at a time, and that it
// skips those that are no longer the newest.
func TestMembershipsOneWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, most, opened int
		var mu sync.Mutex
		logic := &fakeLogic{opened: func(ctx context.Context, r *envelope.RoomOpened) error {
			if r.Room == "" {
				return nil
			}
			mu.Lock()
			running++
			opened++
			most = max(most, running)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			running--
			mu.Unlock()
			return nil
		}}
		s := start(t, logic, nil)
		c := s.connected(0, "ann", 0)
		for i := range uint64(20) {
			room := fmt.Sprint("room", i)
			s.push(roomPush(room, `"x"`)) // nobody is there: the room is denied
			s.push(&envelope.Delivery{SessionRooms: &envelope.SessionRooms{
				To:    []*envelope.Address{{Comet: "c1", Session: s.logic.session(0)}},
				Rooms: &envelope.Memberships{At: i + 1, Rooms: []string{room}},
			}})
			synctest.Wait()
		}
		time.Sleep(10 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		if most != 1 || opened != 2 {
			t.Errorf("%d rooms were opened, %d at a time; want the first and the last one, one at a time", opened, most)
		}
		if got := s.members(); got != "map[room19:1]" {
			t.Errorf("the rooms are %s", got)
		}
		c.expect(protocol.OpRoomChanged, 0, `{"room":"room0","joined":true,"reason":"the backend has put the user into the room"}`)
		c.expect(protocol.OpRoomChanged, 0, `{"room":"room19","joined":true,"reason":"the backend has put the user into the room"}`)
		c.expect(protocol.OpRoomChanged, 0, `{"room":"room0","joined":false,"reason":"the backend has taken the user out of the room"}`)
	})
}

// TestMembershipsBeforeTheAnswer checks that a session follows a list that came while
// logic was asked who the client is, if it is newer than that of the answer.
func TestMembershipsBeforeTheAnswer(t *testing.T) {
	logic := &fakeLogic{}
	s := start(t, logic, nil)
	for i, tt := range []struct {
		at   uint64
		want string
	}{{9, "map[granted:1]"}, {11, "map[early:1]"}} {
		logic.connect = func(r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
			s.follow(i, tt.at, "", "early")
			return ruled("granted")(r)
		}
		c := s.dialPipe(pipe.Options{})
		c.login("ann", "")
		if got := s.members(); got != tt.want {
			t.Errorf("with a list of %d the rooms are %s, want %s", tt.at, got, tt.want)
		}
		_ = c.Close()
		eventually(t, "the session has left its rooms", func() bool { return s.members() == "map[]" })
	}
}

// TestMembershipsOfBusySessions checks that lists from several goroutines, joins of
// the client and its end leave nothing behind in a room.
func TestMembershipsOfBusySessions(t *testing.T) {
	s := start(t, &fakeLogic{}, func(cfg *comet.Config) { cfg.UpstreamRate = 0 })
	for n := range 20 {
		c := s.dialPipe(pipe.Options{})
		c.login("ann", "")
		var busy sync.WaitGroup
		for i := range 4 {
			busy.Go(func() {
				for j := range uint64(20) {
					s.follow(n, j*4+uint64(i), "", fmt.Sprint("room", j%3), fmt.Sprint("room", i))
				}
			})
		}
		busy.Go(func() {
			for j := range int32(20) {
				c.send(2, protocol.OpJoinRoom+2*(j%2), 0, fmt.Sprint("room", j%3))
			}
			_ = c.Close()
		})
		busy.Wait()
		eventually(t, "nobody is left in a room", func() bool { return s.members() == "map[]" })
	}
}

// TestRefresh checks that a session goes on with a new token of its user, and that any
// other token changes nothing.
func TestRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logic := &fakeLogic{join: onlyOpen}
		end := time.Now().Add(10 * time.Second)
		logic.connect = func(r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
			reply, err := ruled("granted")(r)
			reply.ExpiresMs = end.UnixMilli()
			return reply, err
		}
		refused := envelope.Errorf(envelope.CodeForbidden, "the new token is another user's or device's than the session's")
		logic.refresh = func(r *envelope.RefreshRequest) (*envelope.RefreshReply, error) {
			if r.Token != "ann" {
				return nil, refused
			}
			if got := fmt.Sprint(r.Session.User, " ", r.Session.Device, r.Session.Rooms); got != "ann phone[open private/ann]" {
				t.Errorf("logic is asked for %s", got)
			}
			return &envelope.RefreshReply{
				ExpiresMs: time.Now().Add(20 * time.Second).UnixMilli(), Lost: []string{"private/ann"},
				Access: &envelope.RoomAccess{Ruled: true, Rooms: []string{"private/new"}},
			}, nil
		}
		s := start(t, logic, func(cfg *comet.Config) { cfg.CloseExpired = true })
		c := s.dialPipe(pipe.Options{})
		c.send(2, protocol.OpAuth, 1, `{"token":"ann","device":"phone","rooms":["open"]}`)
		if p := c.receive(); !strings.Contains(string(p.Body), `"expires_in":10`) {
			t.Fatalf("auth was answered with %s", p.Body)
		}
		c.send(2, protocol.OpJoinRoom, 2, "private/ann")
		c.expect(protocol.OpJoinRoomReply, 0, "private/ann")

		time.Sleep(8 * time.Second)
		c.send(2, protocol.OpAuth, 3, `{"token":"bob"}`)
		p := c.expect(protocol.OpError, 0,
			`{"op":7,"code":"forbidden","reason":"the new token is another user's or device's than the session's"}`)
		if p.Seq != 3 {
			t.Fatalf("the answer has seq %d", p.Seq)
		}
		c.send(2, protocol.OpAuth, 4, `{"token":5}`)
		c.expect(protocol.OpError, 0, `{"op":7,"code":"invalid","reason":"auth token must be a string"}`)
		c.send(2, protocol.OpAuth, 5, `{"token":"ann"}`)
		c.expect(protocol.OpRoomChanged, 0, `{"room":"private/ann","joined":false,"reason":"the new token does not have the room"}`)
		if p := c.receive(); p.Op != protocol.OpAuthReply || p.Seq != 5 || !strings.Contains(string(p.Body), `"expires_in":20`) {
			t.Fatalf("the new token was answered with %+v %s", p, p.Body)
		}
		c.send(2, protocol.OpJoinRoom, 6, "private/new")
		c.expect(protocol.OpJoinRoomReply, 0, "private/new")

		time.Sleep(15 * time.Second) // past the end of the first token
		c.send(2, protocol.OpHeartbeat, 7, "")
		c.expect(protocol.OpHeartbeatReply, 0, "")
		time.Sleep(6 * time.Second)
		c.closedWith(protocol.CloseTokenExpired)
	})
}

// TestUpstreamIsRefused checks that a client of version 2 is told that nobody takes
// its messages. The ancestors' clients get what they always got: see golden_test.go.
func TestUpstreamIsRefused(t *testing.T) {
	s := start(t, &fakeLogic{}, nil)
	c := s.connected(0, "ann", 0)
	for _, op := range []int32{protocol.OpSend, 1000} {
		c.send(2, op, 9, `{"order":1}`)
		p := c.expect(protocol.OpError, 0,
			fmt.Sprintf(`{"op":%d,"code":"unsupported","reason":"this server takes no messages from clients: this one went nowhere"}`, op))
		if p.Seq != 9 {
			t.Errorf("the answer has seq %d", p.Seq)
		}
	}
}
