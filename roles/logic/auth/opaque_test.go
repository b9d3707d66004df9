package auth_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/roles/logic/auth"
)

// lookupFunc is a token store that answers with a function.
type lookupFunc func(hash [32]byte) (envelope.Token, error)

func (f lookupFunc) Lookup(_ context.Context, hash [32]byte) (envelope.Token, error) { return f(hash) }

func TestOpaque(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	broken := errors.New("broken disk")
	for name, test := range map[string]struct {
		token     string
		user      string
		expiresMS int64
		stored    error
		want      error
	}{
		"good":         {"token", "ann", 0, nil, nil},
		"good for now": {"token", "ann", now.UnixMilli() + 1, nil, nil},
		"ends now":     {"token", "ann", now.UnixMilli(), nil, envelope.ErrExpired},
		"unknown":      {"token", "", 0, envelope.ErrNotFound, envelope.ErrUnauthorized},
		"unauthorized": {"token", "", 0, fmt.Errorf("store: %w", envelope.ErrUnauthorized), envelope.ErrUnauthorized},
		"expired":      {"token", "", 0, fmt.Errorf("store: %w", envelope.ErrExpired), envelope.ErrExpired},
		"revoked":      {"token", "", 0, fmt.Errorf("store: %w", envelope.ErrRevoked), envelope.ErrRevoked},
		"broken store": {"token", "", 0, broken, broken},
		"none":         {"", "ann", 0, nil, envelope.ErrUnauthorized},
		"long":         {strings.Repeat("x", 8<<10+1), "ann", 0, nil, envelope.ErrUnauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			o := auth.NewOpaque(lookupFunc(func(hash [32]byte) (envelope.Token, error) {
				if hash != auth.Hash(test.token) {
					t.Errorf("looked up %x", hash)
				}
				return envelope.Token{User: test.user, ExpiresMS: test.expiresMS, Rooms: []string{"a", "b-*"}}, test.stored
			}), func() time.Time { return now })
			id, err := o.Authenticate(t.Context(), test.token, "mid")
			if test.want == nil {
				if err != nil || id.User != test.user || id.ExpiresMS != test.expiresMS || id.Device != "" || len(id.Rooms) != 2 {
					t.Errorf("%+v, %v", id, err)
				}
				return
			}
			if !errors.Is(err, test.want) || id.User != "" {
				t.Errorf("%+v, %v, want %v", id, err, test.want)
			}
		})
	}
}

func TestRecheck(t *testing.T) {
	h := newHarness(t, func(c *auth.Config) { c.Secret = secret })
	h.tokens.users[auth.Hash("token")] = "ann"
	id := wantUser(t, h, "token", "ann")
	if err := h.Recheck(t.Context(), id); err != nil {
		t.Errorf("a good token: %v", err)
	}
	h.tokens.users[auth.Hash("token")] = "bob"
	if err := h.Recheck(t.Context(), id); !errors.Is(err, envelope.ErrUnauthorized) {
		t.Errorf("a token that is another user's now: %v", err)
	}
	delete(h.tokens.users, auth.Hash("token"))
	if err := h.Recheck(t.Context(), id); !errors.Is(err, envelope.ErrUnauthorized) {
		t.Errorf("a revoked token: %v", err)
	}
	// An identity that comes from no stored token cannot be revoked.
	lookups := h.tokens.lookups
	if err := h.Recheck(t.Context(), auth.Identity{User: "ann"}); err != nil || h.tokens.lookups != lookups {
		t.Errorf("%v after %d lookups", err, h.tokens.lookups-lookups)
	}
}

func TestOpen(t *testing.T) {
	store := &tokenStore{users: map[[32]byte]string{auth.Hash("imgo_token"): "ann"}}
	open := auth.NewOpen(auth.NewOpaque(store, time.Now))
	for _, test := range []struct{ token, mid, user string }{
		{"bob", "", "bob"},
		{"imgo_token", "", "ann"},
		{"imgo_token", "7", "7"},
		{"", "", ""},
		{"a\x00b", "", ""},
		{strings.Repeat("x", 129), "", ""},
	} {
		id, err := open.Authenticate(t.Context(), test.token, test.mid)
		switch {
		case test.user == "" && !errors.Is(err, envelope.ErrUnauthorized):
			t.Errorf("%+v: %v", test, err)
		case test.user != "" && (err != nil || id.User != test.user):
			t.Errorf("%+v: %+v, %v", test, id, err)
		}
	}
	// Mids of 0 and below are nobody to goim.
	for _, mid := range []string{"0", "-1"} {
		if id, err := open.Authenticate(t.Context(), "", mid); err != nil || !id.Anonymous || id.User != "" {
			t.Errorf("mid %s: %+v, %v", mid, id, err)
		}
	}
	// A token that the store knows, but that has ended, is not taken for a name.
	for _, ended := range []error{envelope.ErrExpired, envelope.ErrRevoked} {
		open := auth.NewOpen(auth.NewOpaque(lookupFunc(func([32]byte) (envelope.Token, error) { return envelope.Token{}, ended }), time.Now))
		if _, err := open.Authenticate(t.Context(), "imgo_token", ""); !errors.Is(err, ended) {
			t.Errorf("got %v, want %v", err, ended)
		}
	}
}
