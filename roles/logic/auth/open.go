package auth

import (
	"context"
	"errors"
	"strconv"

	"imgo/envelope"
)

// Open is the authenticator for development: it believes what a client says
// its user is. Safe for concurrent use.
type Open struct {
	*Opaque
}

// NewOpen returns an Open. A token that opaque knows stands for its user.
func NewOpen(opaque *Opaque) *Open { return &Open{Opaque: opaque} }

// Authenticate returns the identity of the user that mid (goim's) names, or
// else the token: its user if the token store knows it, or the token's text.
func (o *Open) Authenticate(ctx context.Context, token, mid string) (Identity, error) {
	user := mid
	if user == "" {
		id, err := o.lookup(ctx, Hash(token))
		if !errors.Is(err, envelope.ErrUnauthorized) {
			id.AnyKey = true
			return id, err
		}
		user = token
	} else if n, err := strconv.ParseInt(mid, 10, 64); err == nil && n <= 0 {
		return Identity{Anonymous: true, AnyKey: true}, nil // to goim these are nobody
	}
	if err := envelope.CheckName("user", user); err != nil {
		return Identity{}, envelope.Errorf(envelope.CodeUnauthorized, "%s", err)
	}
	return Identity{User: user, AnyKey: true}, nil
}
