package logic_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/logic"
)

func forgetOnly(t *testing.T, comet string) func(context.Context, *envelope.ForgetRequest) (*envelope.ForgetReply, error) {
	return func(_ context.Context, r *envelope.ForgetRequest) (*envelope.ForgetReply, error) {
		if r.Comet != comet {
			t.Errorf("forget %q", r.Comet)
		}
		return &envelope.ForgetReply{Sessions: 7}, nil
	}
}

func TestUser(t *testing.T) {
	w := newWorld(t)
	w.owner("ann").user = func(_ context.Context, r *envelope.UserRequest) (*envelope.UserReply, error) {
		return &envelope.UserReply{Pending: 3, LastSeenMs: 9}, nil
	}
	if reply, err := w.User(t.Context(), "ann"); err != nil || reply.Pending != 3 {
		t.Errorf("%v, %v", reply, err)
	}
	if _, err := w.User(t.Context(), ""); field(err) != "user" {
		t.Errorf("got %v", err)
	}
}

func TestOnline(t *testing.T) {
	w := newWorld(t)
	w.connect("ann", "", "c1", 1)
	w.connect("ann", "", "c1", 2)
	got, err := w.Online(t.Context(), []string{"ann", "bob", "ann"})
	if err != nil || len(got) != 2 || got["ann"] != 2 || got["bob"] != 0 {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := w.Online(t.Context(), nil); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := w.Online(t.Context(), []string{"ann", ""}); field(err) != "users[1]" {
		t.Errorf("got %v", err)
	}
	if _, err := w.Online(t.Context(), make([]string, 100_001)); field(err) != "users" {
		t.Errorf("got %v", err)
	}
}

func TestKick(t *testing.T) {
	w := newWorld(t)
	w.connect("ann", "phone", "c1", 1)
	w.connect("ann", "phone", "c2", 2)
	w.connect("ann", "laptop", "c2", 3)
	w.owner("ann").connect("ann", "", "c1", 4, "own key")
	tests := []struct {
		name   string
		filter logic.KickFilter
		n      int
		code   protocol.CloseCode
	}{
		{"all", logic.KickFilter{}, 4, protocol.CloseKicked},
		{"device", logic.KickFilter{Device: "phone", Code: 3999, Reason: "sold"}, 2, 3999},
		{"session's name", logic.KickFilter{Session: "c2~0000000000000003"}, 1, protocol.CloseKicked},
		{"session's key", logic.KickFilter{Session: "own key"}, 1, protocol.CloseKicked},
		{"name of a session with a key", logic.KickFilter{Session: "c1~0000000000000004"}, 1, protocol.CloseKicked},
		{"device and session", logic.KickFilter{Device: "phone", Session: "c2~0000000000000003"}, 0, 0},
		{"no such device", logic.KickFilter{Device: "watch"}, 0, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := len(w.envelopes())
			n, err := w.Kick(t.Context(), "ann", test.filter)
			if err != nil || n != test.n {
				t.Fatalf("%d, %v", n, err)
			}
			kicked := 0
			for _, e := range w.envelopes()[before:] {
				kicked += len(e.Kick.To)
				if e.Kick.Code != int32(test.code) || e.Kick.Reason == "" || (test.filter.Reason != "" && e.Kick.Reason != test.filter.Reason) {
					t.Errorf("kick %v", e.Kick)
				}
			}
			if kicked != test.n {
				t.Errorf("%d kicked", kicked)
			}
		})
	}
	for want, filter := range map[string]logic.KickFilter{
		"code": {Code: 1000}, "reason": {Reason: strings.Repeat("x", 124)},
	} {
		if _, err := w.Kick(t.Context(), "ann", filter); field(err) != want {
			t.Errorf("%s: %v", want, err)
		}
	}
	if n, err := w.Kick(t.Context(), "nobody", logic.KickFilter{}); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

func TestTake(t *testing.T) {
	w := newWorld(t)
	tries := 0
	w.owner("ann").take = func(_ context.Context, r *envelope.TakeRequest) (*envelope.TakeReply, error) {
		if tries++; tries == 1 {
			return nil, envelope.ErrUnavailable
		}
		if r.AfterMs != 5 || r.MaxMessages != 20 {
			t.Errorf("request %v", r)
		}
		return &envelope.TakeReply{Messages: []*envelope.Kept{{Id: 1, TimeMs: 6}}}, nil
	}
	if _, err := w.Take(t.Context(), "ann", 5, 20); !errors.Is(err, envelope.ErrUnavailable) || tries != 1 {
		t.Errorf("got %v after %d tries", err, tries)
	}
	if reply, err := w.Take(t.Context(), "ann", 5, 20); err != nil || len(reply.Messages) != 1 {
		t.Errorf("%v, %v", reply, err)
	}
	if _, err := w.Take(t.Context(), "ann", 0, -1); field(err) != "max" {
		t.Errorf("got %v", err)
	}
}

func roomsComet(counts map[string]uint32, sessions uint32, members ...uint64) fakeComet {
	return func(_ context.Context, r *envelope.RoomsRequest) (*envelope.RoomsReply, error) {
		if r.Room == "" {
			return &envelope.RoomsReply{Counts: counts, Sessions: sessions}, nil
		}
		reply := &envelope.RoomsReply{Counts: map[string]uint32{r.Room: counts[r.Room]}, Sessions: sessions}
		for _, m := range members {
			reply.Members = append(reply.Members, &envelope.SessionInfo{User: "u", Address: &envelope.Address{Session: m}})
		}
		return reply, nil
	}
}

func hungComet(ctx context.Context, _ *envelope.RoomsRequest) (*envelope.RoomsReply, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestRooms(t *testing.T) {
	w := newWorld(t)
	w.comets["c1"] = roomsComet(map[string]uint32{"a": 2, "b": 1, "empty": 0}, 10, 3, 1)
	w.comets["c2"] = roomsComet(map[string]uint32{"a": 5}, 20, 9, 8, 7, 6, 5)
	w.comets["hung"] = fakeComet(hungComet)
	counts, err := w.Rooms(t.Context())
	if err != nil || len(counts) != 2 || counts["a"] != 7 || counts["b"] != 1 {
		t.Errorf("%v, %v", counts, err)
	}
	members, total, err := w.Room(t.Context(), "a", 4)
	if err != nil || total != 7 || len(members) != 4 || members[0].Address.Session != 1 || members[2].Address.Session != 5 {
		t.Errorf("%v, %d, %v", members, total, err)
	}
	if members, total, err := w.Room(t.Context(), "a", 0); err != nil || total != 7 || len(members) != 0 {
		t.Errorf("%v, %d, %v", members, total, err)
	}
	by, err := w.CountByComet(t.Context())
	if err != nil || len(by) != 2 || by["c1"] != 10 || by["c2"] != 20 {
		t.Errorf("%v, %v", by, err)
	}
	w.push(logic.PushCommand{Room: "a"})
	w.clock.Add(time.Second)
	stats, err := w.Stats(t.Context())
	if err != nil || stats.Sessions != 30 || stats.Rooms != 2 || stats.Pushes["room"] != 1 || stats.UptimeMS != 1000 {
		t.Errorf("%+v, %v", stats, err)
	}
	if _, _, err := w.Room(t.Context(), "", 1); field(err) != "room" {
		t.Errorf("got %v", err)
	}
	if _, _, err := w.Room(t.Context(), "a", -1); field(err) != "limit" {
		t.Errorf("got %v", err)
	}
	// A page of members has nothing to do with the bound of users that a push names.
	if _, _, err := w.Room(t.Context(), "a", logic.DefaultConfig().MaxUsers+1); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestRoomsWhenNoCometAnswers(t *testing.T) {
	w := newWorld(t)
	w.comets["hung"] = fakeComet(hungComet)
	if _, err := w.Rooms(t.Context()); !errors.Is(err, envelope.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestForgetCometFails(t *testing.T) {
	w := newWorld(t)
	w.routers.routers[0].forget = forgetOnly(t, "c1")
	w.routers.routers[1].forget = func(context.Context, *envelope.ForgetRequest) (*envelope.ForgetReply, error) {
		return nil, errors.New("broken")
	}
	if n, err := w.ForgetComet(t.Context(), "c1"); err == nil || n != 7 {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := w.ForgetComet(t.Context(), ""); field(err) != "comet" {
		t.Errorf("got %v", err)
	}
}
