package logic

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"imgo/envelope"
	"imgo/protocol"
)

// identity is who a client is.
type identity struct {
	user string
	// device is what the token is bound to; empty: any.
	device string
	// expiresMS is when the token ends, Unix milliseconds; 0: never.
	expiresMS int64
	// hash of the opaque token that it came with; opaque says that it did.
	hash   [sha256.Size]byte
	opaque bool
}

// authenticate turns what a client brought into who it is. What is wrong with
// a token is an *envelope.Error whose message never has a part of the token.
// The cost of a bad one is bounded: its length before anything else, then one
// hash and either one read of the token store or, for a JWT, the verifier's
// bounds.
func (l *Logic) authenticate(ctx context.Context, token, mid string) (identity, error) {
	start := time.Now()
	defer func() { l.metrics.authSeconds.Observe(time.Since(start).Seconds()) }()
	if l.cfg.AuthMode == AuthNone {
		return l.believe(ctx, token, mid)
	}
	switch {
	case token == "":
		return identity{}, envelope.Errorf(envelope.CodeUnauthorized, "no token was given")
	case len(token) > protocol.MaxTokenBytes:
		return identity{}, envelope.Errorf(envelope.CodeUnauthorized, "the token is longer than %d bytes", protocol.MaxTokenBytes)
	case l.jwt != nil && looksLikeJWT(token):
		return l.jwt.verify(ctx, token)
	}
	return l.opaque(ctx, sha256.Sum256([]byte(token)))
}

// believe takes the client's word for who it is (AuthNone): goim's mid, or
// else the token, unless it is one that this server made, which stands for
// its user here too.
func (l *Logic) believe(ctx context.Context, token, mid string) (identity, error) {
	user := mid
	if user == "" {
		id, err := l.opaque(ctx, sha256.Sum256([]byte(token)))
		if !errors.Is(err, envelope.ErrUnauthorized) {
			return id, err
		}
		user = token
	}
	if err := envelope.CheckName("user", user); err != nil {
		return identity{}, envelope.Errorf(envelope.CodeUnauthorized, "%s", err)
	}
	return identity{user: user}, nil
}

// opaque asks the token store.
func (l *Logic) opaque(ctx context.Context, hash [sha256.Size]byte) (identity, error) {
	user, expiresMS, err := l.tokens.Lookup(ctx, hash)
	switch {
	case errors.Is(err, envelope.ErrNotFound) || errors.Is(err, envelope.ErrUnauthorized):
		return identity{}, errTokenUnknown
	case errors.Is(err, envelope.ErrExpired):
		return identity{}, errTokenExpired
	case errors.Is(err, envelope.ErrRevoked):
		return identity{}, envelope.Errorf(envelope.CodeRevoked, "the token was revoked")
	case err != nil:
		return identity{}, attempted("look up the token", err)
	case expiresMS != 0 && expiresMS <= l.nowMS():
		return identity{}, errTokenExpired
	}
	return identity{user: user, expiresMS: expiresMS, hash: hash, opaque: true}, nil
}

// errTokenUnknown is what a client with no token of ours is told.
var errTokenUnknown = envelope.Errorf(envelope.CodeUnauthorized, "the token is unknown")

// errTokenExpired is what a client with an old token is told.
var errTokenExpired = envelope.Errorf(envelope.CodeExpired, "the token has expired")

// looksLikeJWT: three parts, the first one the base64url of a JSON object
// (any that begins with a brace begins with "ey" or, with a line feed, "ew").
func looksLikeJWT(token string) bool {
	return (strings.HasPrefix(token, "ey") || strings.HasPrefix(token, "ew")) && strings.Count(token, ".") == 2
}

// bindDevice is the device of a session: the one that the client said, which
// must be the one that its token is bound to, if it is.
func bindDevice(said, bound string) (string, error) {
	switch {
	case bound == "" || said == bound:
		return said, nil
	case said == "":
		return bound, nil
	}
	return "", envelope.Errorf(envelope.CodeUnauthorized, "the token is for another device")
}

// checkConnect says what is wrong with a connect beside its token.
func checkConnect(r *envelope.ConnectRequest) error {
	if r.GetComet() == "" || r.GetSession() == 0 {
		return envelope.Invalid("session", "must name a comet and a session")
	}
	optional := []struct{ field, name string }{
		{"device", r.GetDevice()}, {"key", r.GetKey()}, {"platform", r.GetPlatform()},
	}
	for _, o := range optional {
		if o.name == "" {
			continue
		}
		if err := envelope.CheckName(o.field, o.name); err != nil {
			return err
		}
	}
	for i, room := range r.GetRooms() {
		if err := envelope.CheckName(fmt.Sprintf("rooms[%d]", i), room); err != nil {
			return err
		}
	}
	return nil
}
