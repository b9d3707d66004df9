package logic_test

import (
	"bytes"
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/roles/logic"
)

func TestNewToken(t *testing.T) {
	w := newWorld(t)
	shape := regexp.MustCompile(`^imgo_[A-Za-z0-9_-]{43}$`)
	seen := make(map[string]bool)
	for range 100 {
		made, err := w.NewToken(t.Context(), logic.TokenRequest{User: "ann"})
		if err != nil || !shape.MatchString(made.Token) || seen[made.Token] || made.ExpiresMS != 0 || made.User != "ann" {
			t.Fatalf("%+v, %v", made, err)
		}
		seen[made.Token] = true
	}
	made, err := w.NewToken(t.Context(), logic.TokenRequest{User: "ann", TTL: time.Hour, Token: "my own"})
	if err != nil || made.Token != "my own" || made.ExpiresMS != w.clock.Now().Add(time.Hour).UnixMilli() {
		t.Errorf("%+v, %v", made, err)
	}
	if user, err := w.CheckToken(t.Context(), "my own"); err != nil || user != "ann" {
		t.Errorf("%s, %v", user, err)
	}
	for _, test := range []struct {
		user, token string
		ttl         time.Duration
		field       string
	}{
		{"", "t", 0, "user"},
		{"ann", "t", -1, "ttl"},
		{"ann", strings.Repeat("x", 8<<10+1), 0, "token"},
		{"ann", `"quoted"`, 0, "token"},
		{"ann", "a\nb", 0, "token"},
		{"ann", "\xff", 0, "token"},
	} {
		if _, err := w.NewToken(t.Context(), logic.TokenRequest{User: test.user, TTL: test.ttl, Token: test.token}); field(err) != test.field {
			t.Errorf("%+v: %v", test, err)
		}
	}
}

func TestRevokeToken(t *testing.T) {
	for _, closing := range []bool{false, true} {
		w := newWorld(t)
		w.connect("ann", "", "c1", 1)
		w.connect("ann", "", "c2", 2)
		if _, err := w.NewToken(t.Context(), logic.TokenRequest{User: "ann", Token: "mine"}); err != nil {
			t.Fatal(err)
		}
		if n, err := w.RevokeToken(t.Context(), "mine", ofAnn, closing); err != nil || n != 1 {
			t.Errorf("%d, %v", n, err)
		}
		if _, err := w.CheckToken(t.Context(), "mine"); !errors.Is(err, envelope.ErrUnauthorized) {
			t.Errorf("still good: %v", err)
		}
		kicked := 0
		for _, e := range w.envelopes() {
			if e.Kick.Code != 3503 {
				t.Errorf("code %d", e.Kick.Code)
			}
			kicked += len(e.Kick.To)
		}
		if want := map[bool]int{true: 2}[closing]; kicked != want {
			t.Errorf("%d kicked, want %d", kicked, want)
		}
		if n, err := w.RevokeToken(t.Context(), "mine", ofAnn, closing); err != nil || n != 1 {
			t.Errorf("again: %d, %v", n, err)
		}
		for _, token := range []string{"", "unknown", strings.Repeat("x", 9<<10)} {
			if n, err := w.RevokeToken(t.Context(), token, ofAnn, closing); !errors.Is(err, envelope.ErrNotFound) || n != 0 {
				t.Errorf("%d, %v", n, err)
			}
		}
	}
}

// ofAnn is a check for RevokeToken that allows the tokens of ann.
func ofAnn(user string) error {
	if user != "ann" {
		return envelope.ErrForbidden
	}
	return nil
}

// A call that has revoked the token and could not close the sessions can be repeated.
func TestRevokeTokenAgainAfterAnError(t *testing.T) {
	w := newWorld(t)
	w.connect("ann", "", "c1", 1)
	for user, token := range map[string]string{"ann": "mine", "bob": "other"} {
		if _, err := w.NewToken(t.Context(), logic.TokenRequest{User: user, Token: token}); err != nil {
			t.Fatal(err)
		}
	}
	w.live.fail = func(bool) error { return errors.New("broken") }
	if _, err := w.RevokeToken(t.Context(), "mine", ofAnn, true); err == nil {
		t.Error("no error though the session stays open")
	}
	w.live.fail = nil
	if n, err := w.RevokeToken(t.Context(), "mine", ofAnn, true); err != nil || n != 1 || len(w.envelopes()) != 1 {
		t.Errorf("%d, %v, %d sessions are closed", n, err, len(w.envelopes()))
	}
	if n, err := w.RevokeToken(t.Context(), "other", ofAnn, true); !errors.Is(err, envelope.ErrForbidden) || n != 0 {
		t.Errorf("the token of somebody else: %d, %v", n, err)
	}
	if user, err := w.CheckToken(t.Context(), "other"); user != "bob" {
		t.Errorf("the token of somebody else is of %q, %v", user, err)
	}
}

// A token that another logic has made is revoked, though this one has not read it yet.
func TestRevokeTokenThatIsNotReadYet(t *testing.T) {
	w := newWorld(t)
	if _, err := w.NewToken(t.Context(), logic.TokenRequest{User: "ann", Token: "mine"}); err != nil {
		t.Fatal(err)
	}
	w.tokens.lookupErr = envelope.ErrUnauthorized
	if n, err := w.RevokeToken(t.Context(), "mine", ofAnn, true); err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
}

func TestRevokeUser(t *testing.T) {
	w := newWorld(t)
	w.connect("ann", "", "c1", 1)
	for _, token := range []string{"a", "b"} {
		if _, err := w.NewToken(t.Context(), logic.TokenRequest{User: "ann", Token: token}); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := w.RevokeUser(t.Context(), "ann", true); err != nil || n != 2 {
		t.Errorf("%d, %v", n, err)
	}
	if e := w.envelopes(); len(e) != 1 || e[0].Kick.Code != 3503 {
		t.Errorf("envelopes %v", e)
	}
	// A user without tokens is no error, and the sessions are closed again.
	if n, err := w.RevokeUser(t.Context(), "ann", true); err != nil || n != 0 || len(w.envelopes()) != 2 {
		t.Errorf("%d, %v", n, err)
	}
	w.live.fail = func(bool) error { return errors.New("broken") }
	if _, err := w.RevokeUser(t.Context(), "ann", true); err == nil {
		t.Error("no error though the sessions stay open")
	}
	if _, err := w.RevokeUser(t.Context(), "", false); field(err) != "user" {
		t.Errorf("got %v", err)
	}
}

// No log line has a token in it, good or bad.
func TestTokensAreNotLogged(t *testing.T) {
	var log bytes.Buffer
	w := newWorld(t)
	deps := w.deps()
	deps.Log = zerolog.New(&log).Level(zerolog.TraceLevel)
	cfg := logic.DefaultConfig()
	cfg.Auth.Secret = secret
	l, err := logic.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	// A kick that cannot be published is logged.
	w.owner("ann").attach = func(context.Context, *envelope.AttachRequest) (*envelope.AttachReply, error) {
		return &envelope.AttachReply{Kicks: []*envelope.Kick{{To: []*envelope.Address{{Comet: "c9", Session: 1}}}}}, nil
	}
	w.live.fail = func(bool) error { return errors.New("broken") }
	if _, err := l.NewToken(t.Context(), logic.TokenRequest{User: "ann", Token: "opaque-token"}); err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{"opaque-token", "opaque-token-unknown", "eyJopaque-token.x.y"} {
		_, _ = l.Connect(t.Context(), connectRequest(token)) // good and bad ones
	}
	if !strings.Contains(log.String(), "replaced sessions") {
		t.Errorf("nothing was logged: %s", log.String())
	}
	if strings.Contains(log.String(), "opaque-token") {
		t.Errorf("logged: %s", log.String())
	}
}
