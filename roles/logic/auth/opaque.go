package auth

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"imgo/envelope"
)

// TokenStore is the store of opaque tokens, as an Opaque reads it.
type TokenStore interface {
	// Lookup returns a token. The error is envelope.ErrUnauthorized or ErrNotFound for
	// an unknown token, ErrExpired or ErrRevoked for one that was good, and ErrNotReady
	// if this node cannot tell yet.
	Lookup(ctx context.Context, hash [32]byte) (envelope.Token, error)
}

// Opaque is the authenticator that looks tokens up in the token store. A bad
// token costs one hash and one read of the store. Safe for concurrent use.
type Opaque struct {
	tokens TokenStore
	now    func() time.Time
}

// NewOpaque returns an Opaque for a token store. now is the wall clock.
func NewOpaque(tokens TokenStore, now func() time.Time) *Opaque {
	return &Opaque{tokens: tokens, now: now}
}

// Authenticate returns who a client with the token is. It does not believe mid.
func (o *Opaque) Authenticate(ctx context.Context, token, _ string) (Identity, error) {
	if err := checkLength(token); err != nil {
		return Identity{}, err
	}
	id, err := o.lookup(ctx, Hash(token))
	if err == nil {
		id.Key = keyIn(token)
	}
	return id, err
}

// keyIn returns the key in a token that is the whole auth body of a client of goim. It is empty if the token
// is something else, or has no key.
func keyIn(token string) string {
	if !strings.HasPrefix(strings.TrimLeft(token, " \t\r\n"), "{") {
		return ""
	}
	var body struct {
		Key string `json:"key"`
	}
	if json.Unmarshal([]byte(token), &body) != nil {
		return ""
	}
	return body.Key
}

// Recheck returns an error if the token that id comes from has ended since, or
// belongs to another user now. Signed tokens cannot be revoked, so it returns
// nil for their identities.
func (o *Opaque) Recheck(ctx context.Context, id Identity) error {
	if !id.opaque {
		return nil
	}
	again, err := o.lookup(ctx, id.hash)
	if err == nil && again.User != id.User {
		return errTokenUnknown
	}
	return err
}

// Verifies reports whether a token of this form is checked by its signature.
// An Opaque checks none so.
func (o *Opaque) Verifies(string) bool { return false }

// Ready returns nil: an Opaque needs nothing but its store.
func (o *Opaque) Ready() error { return nil }

// Run returns at once: an Opaque has no work of its own.
func (o *Opaque) Run(context.Context) {}

func (o *Opaque) lookup(ctx context.Context, hash [sha256.Size]byte) (Identity, error) {
	token, err := o.tokens.Lookup(ctx, hash)
	switch {
	case errors.Is(err, envelope.ErrNotFound) || errors.Is(err, envelope.ErrUnauthorized):
		return Identity{}, errTokenUnknown
	case errors.Is(err, envelope.ErrExpired):
		return Identity{}, errTokenExpired
	case errors.Is(err, envelope.ErrRevoked):
		return Identity{}, errTokenRevoked
	case err != nil:
		return Identity{}, fmt.Errorf("look up the token: %w", err)
	case token.ExpiresMS != 0 && token.ExpiresMS <= o.now().UnixMilli():
		return Identity{}, errTokenExpired
	}
	return Identity{User: token.User, ExpiresMS: token.ExpiresMS, Rooms: token.Rooms, hash: hash, opaque: true}, nil
}
