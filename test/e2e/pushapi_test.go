package e2e_test

import (
	"context"
	"errors"
	"testing"
	"time"

	imgoclient "imgo/clients/go"
	"imgo/clients/go/pushapi"
	"imgo/clients/go/raw"
	"imgo/config"
)

// TestPushAPI makes every call of the Go client for backends, beside a client of the SDK.
func TestPushAPI(t *testing.T) {
	n := start(t, func(c *config.Config) { c.Auth.Mode = "token" })
	api, err := pushapi.New(pushapi.Config{Servers: []string{n.Base}})
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	ctx := t.Context()
	token, err := api.NewToken(ctx, "ann", pushapi.TokenOptions{TTL: time.Hour, Single: true, Rooms: []string{"a*"}})
	if err != nil || token.User != "ann" || token.ExpiresMS <= time.Now().UnixMilli() {
		t.Fatalf("token: %+v, %v", token, err)
	}
	messages, states := make(chan imgoclient.Message, 10), make(chan imgoclient.StateChange, 10)
	rooms := make(chan imgoclient.RoomChange, 10)
	client, err := imgoclient.New(imgoclient.Config{
		Address: n.ClientAddr("tcp").String(), Token: token.Token, Device: "d", Rooms: []string{"lobby"},
		OnMessage: func(_ context.Context, m imgoclient.Message) error { messages <- m; return nil },
		OnState:   func(to imgoclient.StateChange) { states <- to },
		OnRoom:    func(change imgoclient.RoomChange) { rooms <- change },
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()
	for to := range states {
		if to.State == imgoclient.Live {
			if to.Session.User != "ann" {
				t.Errorf("the session is %+v", to.Session)
			}
			break
		}
	}
	apiPushes(t, api, messages)
	apiRooms(t, api, rooms)
	apiUsers(t, api)

	if kicked, err := api.Kick(ctx, "ann", pushapi.KickOptions{Reason: "enough"}); err != nil || kicked != 1 {
		t.Errorf("kick: %d, %v", kicked, err)
	}
	var failed *imgoclient.Error
	if err := <-done; !errors.Is(err, imgoclient.ErrRefused) || !errors.As(err, &failed) || failed.CloseCode != raw.CloseKicked {
		t.Errorf("the client ended with: %v", err)
	}
	if n, err := api.RevokeTokens(ctx, "ann", true); err != nil || n != 1 {
		t.Errorf("revoke the tokens: %d, %v", n, err)
	}
	if err := api.RevokeToken(ctx, token.Token, true); err != nil {
		t.Errorf("revoke a token again: %v", err)
	}
	var refused *pushapi.Error
	if err := api.RevokeToken(ctx, "unknown", true); !errors.As(err, &refused) || refused.Code != "not_found" {
		t.Errorf("revoke a token that is not there: %v", err)
	}
	if err := client.Run(ctx); !errors.Is(err, imgoclient.ErrRefused) {
		t.Errorf("a client with a revoked token ended with: %v", err)
	}
}

// apiPushes pushes to ann, whose client sends what it gets to messages.
func apiPushes(t *testing.T, api *pushapi.Client, messages <-chan imgoclient.Message) {
	t.Helper()
	ctx := t.Context()
	receive := func(what string) imgoclient.Message {
		t.Helper()
		select {
		case m := <-messages:
			return m
		case <-time.After(waitLimit):
			t.Fatalf("%s did not come", what)
			return imgoclient.Message{}
		}
	}
	push := &pushapi.Push{User: "ann", Body: map[string]int{"n": 1}, TTL: "1h", IdempotencyKey: "key"}
	first, err := api.Push(ctx, push)
	if err != nil || len(first) != 1 || first[0].ID == 0 || first[0].Sessions != 1 || first[0].Duplicate {
		t.Fatalf("push: %+v, %v", first, err)
	}
	if m := receive("the push"); m.ID != first[0].ID || string(m.Body) != `{"n":1}` {
		t.Errorf("received %+v", m)
	}
	if again, err := api.Push(ctx, push); err != nil || !again[0].Duplicate || again[0].ID != first[0].ID {
		t.Errorf("the push again: %+v, %v", again, err)
	}
	batch, err := api.PushBatch(ctx, []*pushapi.Push{
		{Users: []string{"ann", "bob"}, BodyText: "two"}, {Room: "lobby", BodyBase64: "/w=="}, {User: "ann"},
	})
	var refused *pushapi.Error
	if err != nil || len(batch) != 3 || len(batch[0].Results) != 2 || batch[1].Err != nil || !errors.As(batch[2].Err, &refused) ||
		refused.Status != 400 {
		t.Fatalf("batch: %+v, %v", batch, err)
	}
	bodies := map[string]bool{string(receive("a push of the batch").Body): true, string(receive("a push of the batch").Body): true}
	if !bodies["two"] || !bodies["\xff"] {
		t.Errorf("the batch brought %v", bodies)
	}
}

// apiRooms puts ann into a room and out again. Her client sends the changes to rooms.
func apiRooms(t *testing.T, api *pushapi.Client, rooms <-chan imgoclient.RoomChange) {
	t.Helper()
	ctx := t.Context()
	added, err := api.AddToRoom(ctx, "live://team", "ann")
	if err != nil || !added.Member || added.Sessions != 1 {
		t.Errorf("add to a room: %+v, %v", added, err)
	}
	if change := <-rooms; change.Room != "live://team" || !change.Joined {
		t.Errorf("the client was told %+v", change)
	}
	room, err := api.Room(ctx, "live://team", 10)
	if err != nil || room.Sessions != 1 || len(room.Members) != 1 || room.Members[0].User != "ann" || room.Members[0].Generation != "v2" {
		t.Errorf("the room: %+v, %v", room, err)
	}
	removed, err := api.RemoveFromRoom(ctx, "live://team", "ann")
	if err != nil || removed.Member || removed.Sessions != 1 {
		t.Errorf("remove from a room: %+v, %v", removed, err)
	}
}

// apiUsers looks at two users: ann has all messages, and one waits for bob.
func apiUsers(t *testing.T, api *pushapi.Client) {
	t.Helper()
	ctx := t.Context()
	eventually(t, "the mailbox is empty", func() bool {
		user, err := api.User(ctx, "ann")
		return err == nil && user.Online && user.Pending == 0 && len(user.Devices) == 1 && user.Sessions[0].Device == "d"
	})
	bob, err := api.User(ctx, "bob")
	if err != nil || bob.Online || bob.Pending != 1 || bob.OldestID == 0 || bob.OldestID != bob.NewestID {
		t.Errorf("bob: %+v, %v", bob, err)
	}
	if nodes, _, err := api.Nodes(ctx); err != nil || len(nodes) != 1 || !nodes[0].Ready {
		t.Errorf("nodes: %+v, %v", nodes, err)
	}
}
