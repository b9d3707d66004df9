package auth_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/internal/settings"
	"imgo/roles/logic/auth"
)

const webhookSecret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="

// newWebhook returns an authenticator that asks handle.
func newWebhook(t *testing.T, handle http.HandlerFunc) *auth.Webhook {
	t.Helper()
	server := httptest.NewServer(handle)
	t.Cleanup(server.Close)
	cfg := settings.Default[auth.Config]()
	cfg.Mode, cfg.WebhookURL, cfg.WebhookSecrets, cfg.WebhookTimeout = auth.ModeWebhook, server.URL, []string{webhookSecret}, 2*time.Second
	cfg.Check(func(key, wrong, fix string) { t.Errorf("%s %s: %s", key, wrong, fix) })
	now := func() time.Time { return time.UnixMilli(1_800_000_000_000) }
	w, err := auth.NewWebhook(cfg, auth.NewOpaque(&tokenStore{}, now), zerolog.Nop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestWebhookCall checks what the backend gets of a goim client as it is, and that it can verify it.
func TestWebhookCall(t *testing.T) {
	var got map[string]any
	w := newWebhook(t, func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		receiver, err := standardwebhooks.NewWebhook(webhookSecret)
		if err == nil {
			err = receiver.Verify(body, r.Header)
		}
		if err != nil {
			t.Errorf("the call cannot be verified: %v", err)
		}
		got = nil
		if err := json.Unmarshal(body, &got); err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(rw, `{"user":123,"device":"phone","expires_ms":1800000001000,"rooms":["live://1000"]}`)
	})
	request := &envelope.ConnectRequest{
		Session: &envelope.SessionInfo{Remote: "192.0.2.1:99", Transport: "ws", Generation: "goim", Platform: "web",
			Rooms: []string{"live://1"}},
		AuthBody: []byte(`{"mid":123,"room_id":"live://1","accepts":[1000]}`),
		Headers: []*envelope.HandshakeHeader{{Name: "Cookie", Value: "sid=1"}, {Name: "Cookie", Value: "b=2"}, {Name: "Origin",
			Value: "https://a.example"}},
	}
	id, err := w.Decide(t.Context(), request)
	if err != nil || id.User != "123" || id.Device != "phone" || id.ExpiresMS != 1_800_000_001_000 || len(id.Join) != 1 ||
		id.Join[0] != "live://1000" {
		t.Fatalf("%+v, %v", id, err)
	}
	body, _ := got["auth"].(map[string]any)
	headers, _ := got["headers"].(map[string]any)
	cookies, _ := headers["Cookie"].([]any)
	if got["type"] != "connect" || got["address"] != "192.0.2.1:99" || got["transport"] != "ws" || got["generation"] != "goim" ||
		body["mid"] != 123.0 || len(cookies) != 2 || cookies[0] != "sid=1" {
		t.Errorf("the backend got %v", got)
	}
	for body, want := range map[string]any{`"tok"`: "tok", "plain text": "plain text", "123": 123.0} {
		request.AuthBody = []byte(body)
		if _, err := w.Decide(t.Context(), request); err != nil || got["auth"] != want {
			t.Errorf("%s became %v, %v", body, got["auth"], err)
		}
	}
	for body, want := range map[string]string{"\xff\xfe": "//4=", "\"\xff\"": "Iv8i"} {
		request.AuthBody = []byte(body)
		if _, err := w.Decide(t.Context(), request); err != nil || got["auth_base64"] != want || got["auth"] != nil {
			t.Errorf("%q became %v, %v", body, got, err)
		}
	}
}

// TestWebhookAnswers checks that only a clear no refuses a client for good.
func TestWebhookAnswers(t *testing.T) {
	for name, tt := range map[string]struct {
		status int
		body   string
		want   error // nil: the user alice
		says   string
	}{
		"yes":                  {200, `{"user":"alice"}`, nil, ""},
		"yes, with more":       {201, `{"user":"alice","unknown":1}`, nil, ""},
		"no":                   {200, `{"refuse":"you are banned"}`, envelope.ErrUnauthorized, "you are banned"},
		"401":                  {401, ``, envelope.ErrUnauthorized, "refused"},
		"403 with a reason":    {403, `{"refuse":"not today"}`, envelope.ErrUnauthorized, "not today"},
		"403 of a gateway":     {403, `<html>`, envelope.ErrUnauthorized, "refused"},
		"expired":              {200, `{"user":"alice","expires_ms":1}`, envelope.ErrExpired, ""},
		"404":                  {404, `not found`, envelope.ErrAuthUnavailable, ""},
		"400":                  {400, `{}`, envelope.ErrAuthUnavailable, ""},
		"500":                  {500, ``, envelope.ErrAuthUnavailable, ""},
		"redirect":             {302, ``, envelope.ErrAuthUnavailable, ""},
		"empty":                {200, ``, envelope.ErrAuthUnavailable, ""},
		"no user":              {200, `{}`, envelope.ErrAuthUnavailable, ""},
		"empty user":           {200, `{"user":""}`, envelope.ErrAuthUnavailable, ""},
		"user of another type": {200, `{"user":{}}`, envelope.ErrAuthUnavailable, ""},
		"control character":    {200, `{"user":"a\u0000"}`, envelope.ErrAuthUnavailable, ""},
		"bad room":             {200, `{"user":"alice","rooms":[""]}`, envelope.ErrAuthUnavailable, ""},
		"rooms of other type":  {200, `{"user":"alice","rooms":"a"}`, envelope.ErrAuthUnavailable, ""},
		"negative end":         {200, `{"user":"alice","expires_ms":-1}`, envelope.ErrAuthUnavailable, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWebhook(t, func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("Location", "/elsewhere")
				rw.WriteHeader(tt.status)
				_, _ = io.WriteString(rw, tt.body)
			})
			id, err := w.Decide(t.Context(), &envelope.ConnectRequest{Session: &envelope.SessionInfo{}, AuthBody: []byte("t")})
			switch {
			case tt.want == nil && (err != nil || id.User != "alice"):
				t.Errorf("%+v, %v", id, err)
			case tt.want != nil && !errors.Is(err, tt.want):
				t.Errorf("got %v, want %v", err, tt.want)
			case tt.says != "" && !contains(err, tt.says):
				t.Errorf("the client is told %v, want %s", err, tt.says)
			}
		})
	}
}

// TestWebhookKeys checks that a client's key counts beyond its user only if the backend's answer has it.
func TestWebhookKeys(t *testing.T) {
	answer := ""
	w := newWebhook(t, func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, answer) })
	address := envelope.AddressKey{Comet: "c1", Session: 7}
	for _, tt := range []struct {
		chosen, answer, key string
		want                error
	}{
		{"alice-phone", `{"user":"alice","key":"alice-phone"}`, "alice-phone", nil},
		{"alice-phone", `{"user":"mallory"}`, "", nil},
		{"alice-phone", `{"user":"mallory","key":"other"}`, "", envelope.ErrUnauthorized},
		{"", `{"user":"mallory","key":"alice-phone"}`, "", envelope.ErrUnauthorized},
	} {
		answer = tt.answer
		session := &envelope.SessionInfo{Address: address.Address(), Key: tt.chosen}
		id, err := w.Decide(t.Context(), &envelope.ConnectRequest{Session: session, AuthBody: []byte("t")})
		if !errors.Is(err, tt.want) || id.Key != tt.key || id.AnyKey {
			t.Errorf("a client with the key %q, answered %s: %+v, %v", tt.chosen, tt.answer, id, err)
		}
	}
}

// TestWebhookRefresh checks that a new token of a live session goes to the backend, with who the session is.
func TestWebhookRefresh(t *testing.T) {
	var got map[string]any
	answer := `{"user":"alice","expires_ms":1800000001000}`
	w := newWebhook(t, func(rw http.ResponseWriter, r *http.Request) {
		got = nil
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(rw, answer)
	})
	address := envelope.AddressKey{Comet: "c1", Session: 7}
	r := &envelope.RefreshRequest{
		Session: &envelope.SessionInfo{
			Address: address.Address(), User: "alice", Device: "phone", Remote: "192.0.2.1:99", Rooms: []string{"lobby"},
		},
		Token: "new", AuthBody: []byte(`{"token":"new"}`),
	}
	id, err := w.DecideAgain(t.Context(), r)
	if err != nil || id.User != "alice" || id.ExpiresMS != 1_800_000_001_000 {
		t.Errorf("%+v, %v", id, err)
	}
	body, _ := got["auth"].(map[string]any)
	if got["type"] != "refresh" || got["user"] != "alice" || got["device"] != "phone" || got["session"] != address.Name() ||
		body["token"] != "new" || got["key"] != nil || got["address"] != "192.0.2.1:99" {
		t.Errorf("the backend got %v", got)
	}
	answer = `{"refuse":"not any more"}`
	if _, err := w.DecideAgain(t.Context(), r); !errors.Is(err, envelope.ErrUnauthorized) || !contains(err, "not any more") {
		t.Errorf("a refused token: %v", err)
	}
}

func TestWebhookSettings(t *testing.T) {
	for name, change := range map[string]func(*auth.Config){
		"mode":            func(c *auth.Config) { c.Secret = secret },
		"webhook_url":     func(c *auth.Config) { c.WebhookURL = "http://backend.example" },
		"webhook_secrets": func(c *auth.Config) { c.WebhookSecrets = []string{"short"} },
	} {
		cfg := settings.Default[auth.Config]()
		cfg.Mode, cfg.WebhookURL, cfg.WebhookSecrets = auth.ModeWebhook, "https://backend.example", []string{webhookSecret}
		change(&cfg)
		var found []string
		cfg.Check(func(key, _, _ string) { found = append(found, key) })
		if len(found) != 1 || found[0] != name {
			t.Errorf("refused %v, want %s", found, name)
		}
	}
	cfg := settings.Default[auth.Config]()
	cfg.WebhookURL = "https://backend.example"
	refused := ""
	cfg.Check(func(key, _, _ string) { refused = key })
	if refused != "webhook_url" {
		t.Error("an address that nobody asks is taken")
	}
}

func contains(err error, part string) bool { return err != nil && strings.Contains(err.Error(), part) }
