package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	imgoclient "imgo/clients/go"
	"imgo/config"
	"imgo/protocol"
	"imgo/roles/logic"
)

// withRules turns authentication on, and gives rooms rules.
func withRules(c *config.Config) {
	c.Auth.Mode = "token"
	c.Rooms = []logic.RoomRule{
		{Pattern: "private/*", Join: logic.JoinToken}, {Pattern: "staff", Join: logic.JoinBackend}, {Pattern: "*", Join: logic.JoinAny},
	}
}

// roomToken makes a token of a user with some rooms, as "token of USER".
func (n *node) roomToken(t *testing.T, user string, rooms ...string) {
	t.Helper()
	list := `"` + strings.Join(rooms, `","`) + `"`
	if len(rooms) == 0 {
		list = ""
	}
	n.call(t, "POST", "/v1/tokens", fmt.Sprintf(`{"user":%q,"token":"token of %s","rooms":[%s]}`, user, user, list)).want(t, 201)
}

// member puts a user into a room (PUT) or takes it out (DELETE), and returns how many sessions followed.
func (n *node) member(t *testing.T, method, room, user string, sessions int) {
	t.Helper()
	n.call(t, method, fmt.Sprintf("/v1/memberships?room=%s&user=%s", room, user), "").
		is(t, 200, fmt.Sprintf(`{"room":%q,"user":%q,"member":%t,"sessions":%d,"late":0}`, room, user, method == "PUT", sessions))
}

// pushRoom pushes to a room.
func (n *node) pushRoom(t *testing.T, room, body string) {
	t.Helper()
	n.call(t, "POST", "/v1/push", fmt.Sprintf(`{"room":%q,"body_text":%q}`, room, body)).is(t, 202, `{"sessions":null}`)
}

// Rules decide who joins which room, in the auth packet and later.
func TestRulesForRooms(t *testing.T) {
	n := start(t, withRules)
	n.roomToken(t, "ann", "private/ann", "private/team-*")
	c := n.tcp(t)
	c.send(2, protocol.OpAuth, 1, `{"token":"token of ann","rooms":["lobby","private/ann","private/bob","staff"]}`)
	p := c.receive()
	for _, room := range []string{"private/bob", "staff"} {
		if !strings.Contains(string(p.Body), fmt.Sprintf(`{"room":%q,"code":"forbidden","reason":"room \"%s\" may not be joined: `, room, room)) {
			t.Errorf("auth was answered with %s", p.Body)
		}
	}
	for room, op := range map[string]int32{
		"private/team-1": protocol.OpJoinRoomReply, "live://7": protocol.OpJoinRoomReply,
		"private/team": protocol.OpError, "staff": protocol.OpError,
	} {
		c.send(2, protocol.OpJoinRoom, 5, room)
		if p := c.receive(); p.Op != op {
			t.Errorf("joining %s was answered with op %d %s", room, p.Op, p.Body)
		}
	}
	for _, room := range []string{"private/bob", "staff", "private/team", "lobby", "private/ann", "private/team-1"} {
		n.pushRoom(t, room, room)
	}
	// Messages of different rooms may change places.
	var got []string
	for range 3 {
		p := c.receive()
		got = append(got, fmt.Sprint(p.Op, " ", string(p.Body)))
	}
	slices.Sort(got)
	if want := []string{"5 lobby", "5 private/ann", "5 private/team-1"}; !slices.Equal(got, want) {
		t.Errorf("the client got %q, want %q", got, want)
	}
	// goim's clients go by the same rules.
	n.call(t, "POST", "/v1/tokens", `{"user":"77","token":"token of 77"}`).want(t, 201)
	goim := n.tcp(t)
	goim.login("goim", `77,"token":"token of 77"`, `,"room_id":"private/77"`)
	goim.send(1, protocol.OpChangeRoom, 2, "staff")
	if p := goim.receive(); p.Op != protocol.OpChangeRoomReply || !strings.Contains(string(p.Body), "forbidden") {
		t.Errorf("the change was answered with op %d %s", p.Op, p.Body)
	}
	n.call(t, "GET", "/v1/room?room=staff", "").is(t, 200, `{"members":[],"room":"staff","sessions":0}`)
}

// The backend puts users into rooms. That holds for live sessions, later ones, and after a restart.
func TestMembershipsByTheBackend(t *testing.T) {
	n := start(t, withRules)
	n.roomToken(t, "ann")
	early := n.tcp(t)
	early.login("v2", "token of ann", "")
	n.member(t, "PUT", "staff", "ann", 1)
	n.pushRoom(t, "staff", "one") // a member gets every message from the answer on
	early.expect(protocol.OpRoomChanged, `{"room":"staff","joined":true,"reason":"the backend has put the user into the room"}`)
	early.expect(protocol.OpMessage, "one")
	n.member(t, "PUT", "live://1", "ann", 1)
	n.call(t, "GET", "/v1/users/ann/rooms", "").is(t, 200, `{"user":"ann","rooms":["live://1","staff"],"limit":100}`)

	n = n.restart(t)
	late, goim := n.tcp(t), n.tcp(t)
	late.send(2, protocol.OpAuth, 1, `{"token":"token of ann"}`)
	if p := late.receive(); !strings.Contains(string(p.Body), `"rooms":["staff","live://1"]`) {
		t.Errorf("after a restart auth was answered with %s", p.Body)
	}
	goim.login("goim", `0,"token":"token of ann"`, "")
	n.pushRoom(t, "staff", "two")
	late.expect(protocol.OpMessage, "two")
	goim.expect(protocol.OpMessage, "two")
	n.member(t, "DELETE", "staff", "ann", 2)
	late.expect(protocol.OpRoomChanged, `{"room":"staff","joined":false,"reason":"the backend has taken the user out of the room"}`)
	n.pushRoom(t, "staff", "three")
	n.pushRoom(t, "live://1", "four")
	late.expect(protocol.OpMessage, "four")
	goim.expect(protocol.OpMessage, "four") // and nothing that it would not know before it
	late.send(2, protocol.OpJoinRoom, 7, "staff")
	if p := late.receive(); p.Op != protocol.OpError {
		t.Errorf("a user that was taken out came back: op %d %s", p.Op, p.Body)
	}
}

// A user may be in so many rooms, and not in one more.
func TestMembershipsHaveABound(t *testing.T) {
	n := start(t, func(c *config.Config) { c.Limits.RoomsPerUser = 2 })
	n.member(t, "PUT", "a", "ann", 0)
	n.member(t, "PUT", "b", "ann", 0)
	n.call(t, "PUT", "/v1/rooms/c/users/ann", "").want(t, 409, `"conflict"`, "limits.rooms_per_user")
	n.member(t, "DELETE", "a", "ann", 0)
	n.member(t, "PUT", "c", "ann", 0)
	n.call(t, "GET", "/v1/users/ann/rooms", "").is(t, 200, `{"user":"ann","rooms":["b","c"],"limit":2}`)
}

// A client of the SDK stays connected past the end of its token.
func TestTokensAreReplacedOnTheConnection(t *testing.T) {
	n := start(t, func(c *config.Config) { c.Auth.Mode, c.Auth.CloseExpired = "token", true })
	var made atomic.Int32
	connected := make(chan struct{}, 10)
	messages := make(chan string, 10)
	c, err := imgoclient.New(imgoclient.Config{
		Address: n.ClientAddr("tcp").String(),
		TokenSource: func(context.Context) (string, error) {
			token := fmt.Sprintf("token %d", made.Add(1))
			a, err := n.try("POST", "/v1/tokens", strings.NewReader(fmt.Sprintf(`{"user":"ann","ttl":3,"token":%q}`, token)))
			if err == nil && a.status != 201 {
				err = fmt.Errorf("answered %d %s", a.status, a.body)
			}
			return token, err
		},
		OnState: func(to imgoclient.StateChange) {
			switch to.State {
			case imgoclient.Live:
				connected <- struct{}{}
			case imgoclient.Waiting:
				t.Errorf("lost its connection: %v", to.Err)
			}
		},
		OnMessage: func(_ context.Context, m imgoclient.Message) error {
			messages <- string(m.Body)
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	<-connected
	eventually(t, "three tokens were used, each after the other", func() bool { return made.Load() >= 4 })
	n.push(t, "ann", "still here")
	if got := <-messages; got != "still here" || len(connected) > 0 {
		t.Errorf("received %q after %d more connections", got, len(connected))
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A backend decides about rooms: of the auth packet, of op 20 and of goim's op 12. Its yes may have an end, its failure is a no
// for now, and it holds up nobody.
func TestBackendDecidesAboutRooms(t *testing.T) {
	var down atomic.Bool
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var call struct{ Type, Room, User, Address string }
		if err := json.NewDecoder(r.Body).Decode(&call); err != nil || call.Type != "join" || !strings.HasPrefix(call.Address, "127.0.0.1:") {
			t.Errorf("the backend got %+v, %v", call, err)
		}
		switch {
		case down.Load():
			w.WriteHeader(http.StatusServiceUnavailable)
		case call.Room == "private/"+call.User:
			fmt.Fprint(w, `{"allow":true}`)
		case call.Room == "private/soon":
			fmt.Fprintf(w, `{"allow":true,"expires_ms":%d}`, time.Now().Add(time.Second).UnixMilli())
		default:
			fmt.Fprint(w, `{"refuse":"members only"}`)
		}
	}))
	defer backend.Close()
	n := start(t, func(c *config.Config) {
		c.Auth.Mode, c.Auth.RoomsWebhookURL = "token", backend.URL
		c.Auth.WebhookSecrets = []string{"whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}
		c.Rooms = []logic.RoomRule{{Pattern: "private/*", Join: logic.JoinWebhook}}
	})
	n.roomToken(t, "ann")
	c := n.tcp(t)
	c.send(2, protocol.OpAuth, 1, `{"token":"token of ann","rooms":["lobby","private/ann","private/bob"]}`)
	if p := c.receive(); p.Op != protocol.OpAuthReply || !strings.Contains(string(p.Body), `"undecided":["private/ann","private/bob"]`) {
		t.Fatalf("auth was answered with op %d %s", p.Op, p.Body)
	}
	c.expect(protocol.OpRoomChanged, `{"room":"private/ann","joined":true,"reason":"the backend lets the client in"}`)
	c.expect(protocol.OpRoomChanged,
		`{"room":"private/bob","joined":false,"code":"forbidden","reason":"room \"private/bob\" may not be joined: members only"}`)
	c.send(2, protocol.OpJoinRoom, 2, "private/bob")
	c.expect(protocol.OpError, `{"op":20,"code":"forbidden","reason":"room \"private/bob\" may not be joined: members only"}`)
	c.send(2, protocol.OpJoinRoom, 3, "private/soon")
	c.expect(protocol.OpJoinRoomReply, "private/soon")
	c.expect(protocol.OpRoomChanged, `{"room":"private/soon","joined":false,"reason":"the time that the backend gave is over"}`)
	n.pushRoom(t, "private/soon", "nobody's")
	n.pushRoom(t, "private/bob", "bob's")
	n.pushRoom(t, "private/ann", "ann's")
	c.expect(protocol.OpMessage, "ann's")

	n.call(t, "POST", "/v1/tokens", `{"user":"7","token":"{\"mid\":7,\"room_id\":\"private/7\"}"}`).want(t, 201)
	goim := n.tcp(t)
	goim.send(1, protocol.OpAuth, 1, `{"mid":7,"room_id":"private/7"}`)
	goim.expect(protocol.OpAuthReply, "")
	goim.send(1, protocol.OpChangeRoom, 2, "private/ann")
	goim.expect(protocol.OpChangeRoomReply, `{"op":12,"code":"forbidden","reason":"room \"private/ann\" may not be joined: members only"}`)
	goim.send(1, protocol.OpChangeRoom, 3, "private/7")
	goim.expect(protocol.OpChangeRoomReply, "private/7")

	down.Store(true)
	c.send(2, protocol.OpJoinRoom, 4, "private/bob")
	c.expect(protocol.OpError, `{"op":20,"code":"unavailable","reason":"the server cannot do this now; try again later"}`)
	c.send(2, protocol.OpJoinRoom, 5, "lobby2")
	c.expect(protocol.OpJoinRoomReply, "lobby2")
	n.pushRoom(t, "private/ann", "still ann's")
	c.expect(protocol.OpMessage, "still ann's")
}
