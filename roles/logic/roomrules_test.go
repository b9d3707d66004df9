package logic_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/logic"
)

// withRules gives a logic three rules, of which the first that fits counts.
func withRules(c *logic.Config, _ *world) {
	c.Rooms = []logic.RoomRule{
		{Pattern: "private/open", Join: logic.JoinAny},
		{Pattern: "private/*", Join: logic.JoinToken},
		{Pattern: "staff", Join: logic.JoinBackend},
	}
}

func TestRulesDecideAboutJoins(t *testing.T) {
	w := newWorld(t, withRules)
	for room, want := range map[string]envelope.Code{
		"lobby": "", "private/open": "", "private/a": "", "private/team-1/x": "",
		"private/b": envelope.CodeForbidden, "private/": envelope.CodeForbidden, "private/team": envelope.CodeForbidden,
		"staff": envelope.CodeForbidden, "staff2": "", "": envelope.CodeInvalid,
	} {
		access := &envelope.RoomAccess{Ruled: true, Rooms: []string{"private/a", "private/team-*", "staff"}}
		_, err := w.Join(t.Context(), &envelope.JoinRequest{Room: room, Access: access})
		if code := envelope.CodeOf(err); code != want {
			t.Errorf("%q: %v, want %q", room, err, want)
		}
		if want == envelope.CodeForbidden && !strings.Contains(err.Error(), fmt.Sprintf("%q", room)) {
			t.Errorf("%q: the error does not name the room: %v", room, err)
		}
	}
}

// comet accepts rooms of up to protocol.MaxRoomBytes, so rules do too.
func TestJoinTakesLongRooms(t *testing.T) {
	w := newWorld(t, withRules)
	for length, want := range map[int]envelope.Code{
		protocol.MaxNameBytes + 1: "", protocol.MaxRoomBytes: "", protocol.MaxRoomBytes + 1: envelope.CodeInvalid,
	} {
		access := &envelope.RoomAccess{Ruled: true}
		_, err := w.Join(t.Context(), &envelope.JoinRequest{Room: strings.Repeat("r", length), Access: access})
		if code := envelope.CodeOf(err); code != want {
			t.Errorf("%d bytes: %v, want %q", length, err, want)
		}
	}
}

func TestConnectJoinsOnlyWhatTheRulesAllow(t *testing.T) {
	jwtOf := func(t *testing.T, w *world, rooms any) string {
		claims := jwt.MapClaims{"sub": "ann", "exp": time.Now().Add(time.Hour).Unix()}
		if rooms != nil {
			claims["rooms"] = rooms
		}
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	opaque := func(t *testing.T, w *world, rooms any) string {
		list, _ := rooms.([]string)
		made, err := w.NewToken(t.Context(), logic.TokenRequest{User: "ann", Rooms: list})
		if err != nil {
			t.Fatal(err)
		}
		return made.Token
	}
	for name, tt := range map[string]struct {
		token   func(*testing.T, *world, any) string
		rooms   any
		joined  string
		refused string
	}{
		"JWT":                   {jwtOf, []string{"private/a"}, "[lobby private/a]", "[private/b staff]"},
		"JWT with a pattern":    {jwtOf, []string{"private/*", "staff"}, "[lobby private/a private/b]", "[staff]"},
		"JWT without rooms":     {jwtOf, nil, "[lobby]", "[private/a private/b staff]"},
		"opaque":                {opaque, []string{"private/a"}, "[lobby private/a]", "[private/b staff]"},
		"opaque with a pattern": {opaque, []string{"*"}, "[lobby private/a private/b]", "[staff]"},
		"opaque without rooms":  {opaque, nil, "[lobby]", "[private/a private/b staff]"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, withRules, func(c *logic.Config, w *world) {
				c.Auth.Secret = secret
				w.clock.now = time.Now()
			})
			r := connectRequest(tt.token(t, w, tt.rooms))
			r.Session.Rooms = []string{"lobby", "private/a", "private/b", "staff"}
			reply, err := w.Connect(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			var refused []string
			for _, refusal := range reply.Refused {
				refused = append(refused, refusal.Room)
				if refusal.Code != "forbidden" || !strings.Contains(refusal.Reason, refusal.Room) {
					t.Errorf("refused with %v", refusal)
				}
			}
			if fmt.Sprint(reply.Joined) != tt.joined || fmt.Sprint(refused) != tt.refused || !reply.Access.GetRuled() {
				t.Errorf("joined %v, refused %v, access %v", reply.Joined, refused, reply.Access)
			}
			if got := fmt.Sprint(w.owner("ann").attached[0].Session.Rooms); got != tt.joined {
				t.Errorf("attached in the rooms %s", got)
			}
		})
	}
}

func TestBadRoomsOfTokensAreRefused(t *testing.T) {
	w := newWorld(t, withRules, func(c *logic.Config, _ *world) { c.Auth.Secret = secret })
	w.clock.now = time.Now()
	for name, rooms := range map[string]any{
		"text": "private/a", "a number": []any{"a", 5}, "an empty name": []string{""}, "an object": map[string]any{"a": 1},
		"too many": strings.Split(strings.Repeat("r ", 101), " "),
	} {
		claims := jwt.MapClaims{"sub": "ann", "rooms": rooms, "exp": time.Now().Add(time.Hour).Unix()}
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Connect(t.Context(), connectRequest(token))
		if !errors.Is(err, envelope.ErrUnauthorized) || !strings.Contains(err.Error(), "rooms") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, rooms := range map[string][]string{"an empty name": {"a", ""}, "too many": make([]string, 101)} {
		_, err := w.NewToken(t.Context(), logic.TokenRequest{User: "ann", Rooms: rooms})
		if !errors.Is(err, envelope.ErrInvalid) || !strings.HasPrefix(field(err), "rooms") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRefreshTakesOnlyTheUsersOwnToken(t *testing.T) {
	w := newWorld(t, withRules)
	token := func(r logic.TokenRequest) string {
		made, err := w.NewToken(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return made.Token
	}
	session := &envelope.SessionInfo{User: "ann", Device: "phone", Rooms: []string{"lobby", "private/a", "private/b", "private/open", "staff"}}
	reply, err := w.Refresh(t.Context(), &envelope.RefreshRequest{
		Session: session, Token: token(logic.TokenRequest{User: "ann", TTL: time.Hour, Rooms: []string{"private/b"}}),
	})
	// Only rooms that ask for a token are lost with it.
	if err != nil || fmt.Sprint(reply.Lost) != "[private/a]" || reply.ExpiresMs != w.clock.Now().Add(time.Hour).UnixMilli() {
		t.Errorf("%v, %v", reply, err)
	}
	for name, tt := range map[string]struct {
		token string
		want  error
	}{
		"another user's": {token(logic.TokenRequest{User: "bob"}), envelope.ErrForbidden},
		"unknown":        {"unknown", envelope.ErrUnauthorized},
		"none":           {"", envelope.ErrUnauthorized},
	} {
		if _, err := w.Refresh(t.Context(), &envelope.RefreshRequest{Session: session, Token: tt.token}); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

// membersComet is a comet that notes what it is told of memberships.
type membersComet struct {
	told []*envelope.MembersRequest
	err  error
}

func (c *membersComet) Rooms(context.Context, *envelope.RoomsRequest) (*envelope.RoomsReply, error) {
	return &envelope.RoomsReply{}, nil
}

func (c *membersComet) Members(_ context.Context, r *envelope.MembersRequest) (*envelope.MembersReply, error) {
	c.told = append(c.told, r)
	return &envelope.MembersReply{Sessions: uint32(len(r.Sessions))}, c.err
}

func TestMembershipsAreLoggedAndTold(t *testing.T) {
	c1, c2 := &membersComet{}, &membersComet{err: envelope.ErrUnavailable}
	w := newWorld(t, func(_ *logic.Config, w *world) { w.comets["c1"], w.comets["c2"] = c1, c2 })
	w.connect("ann", "phone", "c1", 1)
	w.connect("ann", "laptop", "c1", 2)
	w.connect("ann", "tv", "c2", 3)
	w.connect("ann", "watch", "gone", 4)
	result, err := w.SetMember(t.Context(), "team", "ann", true)
	if err != nil || result != (logic.MemberResult{Sessions: 2, Late: 2}) {
		t.Errorf("%+v, %v", result, err)
	}
	rec := w.records()[0].Membership
	if rec.GetUser() != "ann" || rec.GetRoom() != "team" || !rec.GetMember() {
		t.Errorf("logged %v", rec)
	}
	if len(c1.told) != 1 || len(c2.told) != 1 || c1.told[0].Leave != "" ||
		fmt.Sprint(c1.told[0].Sessions, c1.told[0].Rooms.Rooms) != "[1 2] [team]" {
		t.Errorf("told %v and %v", c1.told, c2.told)
	}
	rooms, limit, err := w.UserRooms(t.Context(), "ann")
	if fmt.Sprint(rooms, limit) != fmt.Sprintf("[team] %d", fakeRoomLimit) || err != nil {
		t.Errorf("%v, %d, %v", rooms, limit, err)
	}
	if _, err := w.SetMember(t.Context(), "team", "ann", false); err != nil {
		t.Error(err)
	}
	if last := c1.told[len(c1.told)-1]; len(last.Rooms.Rooms) != 0 || last.Leave != "team" {
		t.Errorf("told %v", last)
	}
}

func TestMembershipsHaveABoundAndGoodNames(t *testing.T) {
	w := newWorld(t)
	for i := range fakeRoomLimit {
		if _, err := w.SetMember(t.Context(), fmt.Sprint("room", i), "ann", true); err != nil {
			t.Fatal(err)
		}
	}
	_, err := w.SetMember(t.Context(), "more", "ann", true)
	if !errors.Is(err, envelope.ErrConflict) || !strings.Contains(err.Error(), "limits.rooms_per_user") {
		t.Errorf("one room too many: %v", err)
	}
	// Into a room that it is in it may be put again.
	if _, err := w.SetMember(t.Context(), "room0", "ann", true); err != nil {
		t.Error(err)
	}
	n := len(w.records())
	for _, bad := range [][2]string{{"", "ann"}, {"room", ""}, {"a\x00", "ann"}, {strings.Repeat("x", 129), "ann"}, {"room", "\xff"}} {
		if _, err := w.SetMember(t.Context(), bad[0], bad[1], true); !errors.Is(err, envelope.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if len(w.records()) != n {
		t.Error("a refused change was logged")
	}
	// A full disk refuses a new membership, and lets one go.
	w.kept.fail = func(essential bool) error {
		if essential {
			return nil
		}
		return envelope.ErrDiskFull
	}
	if _, err := w.SetMember(t.Context(), "room1", "ann", true); !errors.Is(err, envelope.ErrDiskFull) {
		t.Errorf("with a full disk: %v", err)
	}
	if _, err := w.SetMember(t.Context(), "room1", "ann", false); err != nil {
		t.Errorf("with a full disk: %v", err)
	}
}
