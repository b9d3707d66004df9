package logic_test

import (
	"errors"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/roles/logic"
)

// Ancestors' bug 1: a push to many stored nothing for users who were offline.
func TestAncestorBug01_MultiPushIsKeptForOfflineUsers(t *testing.T) {
	w := newWorld(t)
	w.connect("on", "", "c1", 1)
	got := w.push(logic.PushCommand{Users: []string{"on", "off-1", "off-2"}, Kept: true})
	reached := make(map[string]bool)
	for _, rec := range w.records() {
		for _, user := range rec.Push.Users {
			reached[user] = true
		}
	}
	for _, u := range got.Users {
		if !reached[u.User] || u.ID == 0 {
			t.Errorf("%s is not kept: %+v", u.User, u)
		}
	}
}

// Ancestors' bug 2: HTTP said ok before the log had it.
func TestAncestorBug02_FailedAppendIsNotAccepted(t *testing.T) {
	w := newWorld(t)
	lost := errors.New("the broker did not acknowledge")
	w.kept.fail = func(bool) error { return lost }
	w.live.fail = w.kept.fail
	for _, c := range []logic.PushCommand{
		{Op: 5, Users: []string{"ann"}, Kept: true},
		{Op: 5, Users: []string{"ann"}, Kept: true, IdempotencyKey: "k"},
		{Op: 5, Room: "r"},
		{Op: 5, All: true, IdempotencyKey: "k"},
	} {
		if result, err := w.Push(t.Context(), &c); !errors.Is(err, lost) || result != nil {
			t.Errorf("%+v: %+v, %v", c, result, err)
		}
	}
}

// Ancestors' bug 8: deleting a server dropped users' sessions on others too.
func TestAncestorBug08_ForgetNamesOneComet(t *testing.T) {
	w := newWorld(t)
	for _, r := range w.routers.routers {
		r.forget = forgetOnly(t, "c2")
	}
	if n, err := w.ForgetComet(t.Context(), "c2"); err != nil || n != 14 {
		t.Errorf("%d sessions, %v", n, err)
	}
}

// Ancestors' bug 9: identical messages in one millisecond became one.
func TestAncestorBug09_IdenticalMessagesStayTwo(t *testing.T) {
	w := newWorld(t) // whose clock stands still
	c := logic.PushCommand{Users: []string{"ann"}, Kept: true, Body: []byte("same")}
	first, second := w.push(c), w.push(c)
	if first.Users[0].ID == second.Users[0].ID || second.Duplicate {
		t.Errorf("one message: %+v and %+v", first.Users[0], second.Users[0])
	}
	records := w.records()
	if len(records) != 2 || string(records[0].Id) == string(records[1].Id) {
		t.Errorf("records %v", records)
	}
}

// Ancestors' bug 11: /1/push?uid=-1 killed the router.
func TestAncestorBug11_MinusOneIsAUser(t *testing.T) {
	w := newWorld(t)
	w.connect("-1", "", "c1", 1)
	if got := w.push(logic.PushCommand{Users: []string{"-1"}, Kept: true}); got.Users[0].ID == 0 || got.Sessions != 1 {
		t.Errorf("result %+v", got)
	}
	if got := w.push(logic.PushCommand{Users: []string{"-1"}}); got.Sessions != 1 {
		t.Errorf("result %+v", got)
	}
}

// Ancestors' bug 12: a broadcast with no comets divided by zero.
func TestAncestorBug12_BroadcastWithoutComets(t *testing.T) {
	w := newWorld(t)
	w.push(logic.PushCommand{All: true})
	w.push(logic.PushCommand{Room: "r"})
	if rooms, err := w.Rooms(t.Context()); err != nil || len(rooms) != 0 {
		t.Errorf("rooms %v, %v", rooms, err)
	}
	if stats, err := w.Stats(t.Context()); err != nil || stats.Sessions != 0 || stats.Pushes["all"] != 1 {
		t.Errorf("stats %+v, %v", stats, err)
	}
}

// Ancestors' bug 17: a token that was replaced by another stayed valid.
func TestAncestorBug17_ReplacedTokenIsInvalid(t *testing.T) {
	w := newWorld(t)
	for _, token := range []string{"old", "new"} {
		if _, err := w.NewToken(t.Context(), logic.TokenRequest{User: "7", TTL: time.Hour, Token: token, Single: true}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Connect(t.Context(), connectRequest("old")); !errors.Is(err, envelope.ErrUnauthorized) {
		t.Errorf("the old token: %v", err)
	}
	if reply, err := w.Connect(t.Context(), connectRequest("new")); err != nil || reply.User != "7" {
		t.Errorf("the new token: %v, %v", reply, err)
	}
}
