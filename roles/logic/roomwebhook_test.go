package logic_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"imgo/envelope"
	"imgo/roles/logic"
	"imgo/roles/logic/auth"
)

const webhookSecret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="

// askBackend gives a logic a backend that decides about rooms.
func askBackend(t *testing.T, handle http.HandlerFunc) option {
	server := httptest.NewServer(handle)
	t.Cleanup(server.Close)
	return func(c *logic.Config, _ *world) {
		c.Rooms = []logic.RoomRule{
			{Pattern: "private/*", Join: logic.JoinWebhook}, {Pattern: "team", Join: logic.JoinToken}, {Pattern: "staff", Join: logic.JoinBackend},
		}
		c.Auth.RoomsWebhookURL, c.Auth.WebhookSecrets = server.URL, []string{webhookSecret}
	}
}

// joinSession is a session that asks for a room.
func joinSession() *envelope.SessionInfo {
	address := envelope.AddressKey{Comet: "c1", Session: 7}
	return &envelope.SessionInfo{
		Address: address.Address(), User: "ann", Device: "phone", Platform: "web", Remote: "192.0.2.1:99",
		Transport: "ws", Generation: "v2",
	}
}

// TestBackendIsAskedAboutRooms checks what the backend gets, that it can verify it, and that it is asked about no
// other room.
func TestBackendIsAskedAboutRooms(t *testing.T) {
	var calls []string
	w := newWorld(t, askBackend(t, func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		receiver, err := standardwebhooks.NewWebhook(webhookSecret)
		if err == nil {
			err = receiver.Verify(body, r.Header)
		}
		if err != nil || !strings.HasPrefix(r.Header.Get("webhook-id"), "join_") {
			t.Errorf("the call cannot be verified: %v, %v", err, r.Header)
		}
		calls = append(calls, string(body))
		_, _ = io.WriteString(rw, `{"allow":true,"expires_ms":1800000001000}`)
	}))
	session := joinSession()
	reply, err := w.Join(t.Context(), &envelope.JoinRequest{Session: session, Room: "private/7", Access: &envelope.RoomAccess{Ruled: true}})
	if err != nil || reply.UntilMs != 1_800_000_001_000 {
		t.Errorf("%v, %v", reply, err)
	}
	var got, want map[string]any
	if err := json.Unmarshal([]byte(calls[0]), &got); err != nil {
		t.Fatal(err)
	}
	want = map[string]any{
		"type": "join", "room": "private/7", "user": "ann", "device": "phone", "session": session.Address.AsKey().Name(), "platform": "web",
		"address": "192.0.2.1:99", "transport": "ws", "generation": "v2",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the backend got %v, want %v", got, want)
	}
	for room, want := range map[string]error{"lobby": nil, "team": envelope.ErrForbidden, "staff": envelope.ErrForbidden} {
		if _, err := w.Join(t.Context(), &envelope.JoinRequest{Session: session, Room: room}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", room, err, want)
		}
	}
	// Connect leaves such rooms to later: it does not wait for the backend.
	made, err := w.NewToken(t.Context(), logic.TokenRequest{User: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	r := connectRequest(made.Token)
	r.Session.Rooms = []string{"lobby", "private/a", "private/b", "staff"}
	connected, err := w.Connect(t.Context(), r)
	if err != nil || fmt.Sprint(connected.Joined, connected.ToAsk, len(connected.Refused)) != "[lobby] [private/a private/b] 1" {
		t.Errorf("joined %v, to ask %v, refused %v, %v", connected.GetJoined(), connected.GetToAsk(), connected.GetRefused(), err)
	}
	refreshed, err := w.Refresh(t.Context(), &envelope.RefreshRequest{
		Session: &envelope.SessionInfo{User: "ann", Rooms: []string{"lobby", "private/a", "team", "staff"}}, Token: made.Token,
	})
	if err != nil || fmt.Sprint(refreshed.Lost, refreshed.ToAsk) != "[team] [private/a]" {
		t.Errorf("lost %v, to ask %v, %v", refreshed.GetLost(), refreshed.GetToAsk(), err)
	}
	if len(calls) != 1 {
		t.Errorf("the backend got %d calls: %v", len(calls), calls)
	}
}

// TestRoomsOfTheConnectAreNotRefused checks that a client is not told of a refusal of a room that the backend has put it into.
func TestRoomsOfTheConnectAreNotRefused(t *testing.T) {
	answer := func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(rw, `{"user":"ann","rooms":["staff","private/a"]}`)
	}
	w := newWorld(t, askBackend(t, answer), func(c *logic.Config, _ *world) {
		c.Auth.Mode, c.Auth.WebhookURL = auth.ModeWebhook, c.Auth.RoomsWebhookURL
	})
	r := connectRequest("")
	r.Session.Rooms = []string{"lobby", "private/a", "staff", "team"}
	reply, err := w.Connect(t.Context(), r)
	if err != nil || fmt.Sprint(reply.Joined, reply.ToAsk) != "[lobby staff private/a] []" {
		t.Fatalf("joined %v, to ask %v, %v", reply.GetJoined(), reply.GetToAsk(), err)
	}
	if len(reply.Refused) != 1 || reply.Refused[0].Room != "team" {
		t.Errorf("refused %v", reply.Refused)
	}
}

// TestAnswersAboutRooms checks that only a clear yes lets a session in, and only a clear no is final.
func TestAnswersAboutRooms(t *testing.T) {
	for name, tt := range map[string]struct {
		status int
		body   string
		want   error
		says   string
	}{
		"yes":                      {200, `{"allow":true}`, nil, ""},
		"yes, with more":           {201, `{"allow":true,"more":1}`, nil, ""},
		"no":                       {200, `{"refuse":"members only"}`, envelope.ErrForbidden, "members only"},
		"both":                     {200, `{"allow":true,"refuse":"members only"}`, envelope.ErrForbidden, "members only"},
		"401":                      {401, ``, envelope.ErrForbidden, "private/7"},
		"403 with a reason":        {403, `{"refuse":"not today"}`, envelope.ErrForbidden, "not today"},
		"over":                     {200, `{"allow":true,"expires_ms":1}`, envelope.ErrForbidden, "over"},
		"nothing said":             {200, `{}`, envelope.ErrAuthUnavailable, ""},
		"false":                    {200, `{"allow":false}`, envelope.ErrAuthUnavailable, ""},
		"an answer about a client": {200, `{"user":"ann"}`, envelope.ErrAuthUnavailable, ""},
		"another type":             {200, `{"allow":"true"}`, envelope.ErrAuthUnavailable, ""},
		"negative end":             {200, `{"allow":true,"expires_ms":-1}`, envelope.ErrAuthUnavailable, ""},
		"empty":                    {200, ``, envelope.ErrAuthUnavailable, ""},
		"a page":                   {200, `<html>`, envelope.ErrAuthUnavailable, ""},
		"404":                      {404, `{"allow":true}`, envelope.ErrAuthUnavailable, ""},
		"500":                      {500, `{"allow":true}`, envelope.ErrAuthUnavailable, ""},
		"redirect":                 {302, ``, envelope.ErrAuthUnavailable, ""},
		"too large":                {200, `{"allow":true,"x":"` + strings.Repeat("x", 64<<10) + `"}`, envelope.ErrAuthUnavailable, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, askBackend(t, func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("Location", "/elsewhere")
				rw.WriteHeader(tt.status)
				_, _ = io.WriteString(rw, tt.body)
			}))
			reply, err := w.Join(t.Context(), &envelope.JoinRequest{Session: joinSession(), Room: "private/7"})
			if !errors.Is(err, tt.want) || err == nil && reply.UntilMs != 0 || tt.says != "" && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v, %v, want %v %s", reply, err, tt.want, tt.says)
			}
		})
	}
}

// TestBackendThatHangs checks that a call has an end, and that after failures in a row there is none.
func TestBackendThatHangs(t *testing.T) {
	calls, hang := make(chan struct{}, 100), make(chan struct{})
	w := newWorld(t, askBackend(t, func(http.ResponseWriter, *http.Request) {
		calls <- struct{}{}
		<-hang
	}), func(c *logic.Config, _ *world) { c.Auth.WebhookTimeout = 100 * time.Millisecond })
	t.Cleanup(func() { close(hang) }) // before the server's, which waits for its handlers
	for range 8 {
		_, err := w.Join(t.Context(), &envelope.JoinRequest{Session: joinSession(), Room: "private/7"})
		if !errors.Is(err, envelope.ErrAuthUnavailable) {
			t.Errorf("%v, want %v", err, envelope.ErrAuthUnavailable)
		}
	}
	if n := len(calls); n != 5 {
		t.Errorf("the backend got %d calls, want 5", n)
	}
	if _, err := w.Join(t.Context(), &envelope.JoinRequest{Session: joinSession(), Room: "lobby"}); err != nil {
		t.Errorf("a room that the backend does not decide about: %v", err)
	}
}

func TestRulesThatAskNobody(t *testing.T) {
	ask, open := []logic.RoomRule{{Pattern: "*", Join: logic.JoinWebhook}}, []logic.RoomRule{{Pattern: "*", Join: logic.JoinAny}}
	for name, tt := range map[string]struct {
		rules []logic.RoomRule
		auth  auth.Config
		want  string
	}{
		"no address":       {ask, auth.Config{}, "rooms"},
		"address":          {ask, auth.Config{RoomsWebhookURL: "https://b.example"}, ""},
		"that of connects": {ask, auth.Config{WebhookURL: "https://b.example"}, ""},
		"no rule":          {nil, auth.Config{RoomsWebhookURL: "https://b.example"}, "auth.rooms_webhook_url"},
		"another rule":     {open, auth.Config{RoomsWebhookURL: "https://b.example"}, "auth.rooms_webhook_url"},
		"nothing":          {nil, auth.Config{}, ""},
	} {
		refused := ""
		rules := logic.RoomRules{Rooms: tt.rules}
		rules.CheckWebhook(&tt.auth, func(key, _, _ string) { refused = key })
		if refused != tt.want {
			t.Errorf("%s: refused %q, want %q", name, refused, tt.want)
		}
	}
}

// TestRefreshAsksTheWebhook checks that a session whose client the backend has let in goes on by the backend's word
// alone, and that the rooms of its answer count.
func TestRefreshAsksTheWebhook(t *testing.T) {
	answer := ""
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, answer) }))
	t.Cleanup(server.Close)
	w := newWorld(t, func(c *logic.Config, _ *world) {
		c.Auth.Mode, c.Auth.WebhookURL, c.Auth.WebhookSecrets = auth.ModeWebhook, server.URL, []string{webhookSecret}
		c.Rooms = []logic.RoomRule{{Pattern: "team-*", Join: logic.JoinToken}}
	})
	made, err := w.NewToken(t.Context(), logic.TokenRequest{User: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	session := joinSession()
	session.Rooms = []string{"lobby", "team-1", "team-2"}
	refresh := func(reply string) (*envelope.RefreshReply, error) {
		answer = reply
		return w.Refresh(t.Context(), &envelope.RefreshRequest{Session: session, Token: made.Token, AuthBody: []byte(made.Token)})
	}
	got, err := refresh(`{"user":"ann","expires_ms":1800000001000,"rooms":["team-1","team-3"]}`)
	if err != nil || got.ExpiresMs != 1_800_000_001_000 || fmt.Sprint(got.Lost, got.Rooms) != "[team-2] [team-1 team-3]" {
		t.Errorf("%v, %v", got, err)
	}
	for reply, want := range map[string]error{
		`{"user":"bob"}`: envelope.ErrForbidden, `{"user":"ann","device":"tv"}`: envelope.ErrForbidden,
		`{"refuse":"no"}`: envelope.ErrUnauthorized, `{}`: envelope.ErrAuthUnavailable,
	} {
		if _, err := refresh(reply); !errors.Is(err, want) {
			t.Errorf("answered %s: %v, want %v", reply, err, want)
		}
	}
}
