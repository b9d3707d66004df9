// Package auth decides who a client is. Logic uses one of four authenticators.
// Opaque looks tokens up in the token store. JWT verifies signed tokens and passes
// all others to Opaque. Webhook asks the operator's backend. Open believes the
// client, for development.
//
// It guarantees that the cost of a bad token is bounded, and that no error and no log
// line has a part of a token in it. New keys are used without a restart. It does not
// make, store or revoke tokens (logic does), and it does not decide what a client may do.
package auth

import (
	"context"
	"crypto/sha256"
	"fmt"

	"imgo/envelope"
	"imgo/protocol"
)

// Identity is who a client is.
type Identity struct {
	User string
	// Device is the device that the token is bound to. If it is empty, any device may use the token.
	Device string
	// Anonymous is set if the client has no user of its own, and User is empty.
	Anonymous bool
	// AnyKey is set if the key that the client chose names its session without its user. It
	// must be true only where the key is a part of what was authenticated, or nobody is
	// authenticated. Otherwise a client would get what is pushed to another user's key.
	AnyKey bool
	// Key is the key that was authenticated: it names the session without its user if the
	// client chose it. It is empty if none was authenticated.
	Key string
	// ExpiresMS is when the token ends, in Unix milliseconds. 0 means never.
	ExpiresMS int64
	// Rooms are the rooms, and patterns of rooms, that the token allows its
	// sessions to join where a rule asks for a token.
	Rooms []string
	// Join has rooms that the session is put in.
	Join []string

	// opaque reports whether the identity comes from the token store, where
	// hash is the token's.
	opaque bool
	hash   [sha256.Size]byte
}

// Decider is an authenticator that decides by all that a client has sent, not by its token alone. An error with
// the code envelope.CodeAuthUnavailable means that there is no decision: the client comes back. Any other
// *envelope.Error refuses the client. Safe for concurrent use.
type Decider interface {
	// Decide returns who the client of a connect is.
	Decide(ctx context.Context, r *envelope.ConnectRequest) (Identity, error)
	// DecideAgain returns who the client of a live session is, which has sent a new token.
	DecideAgain(ctx context.Context, r *envelope.RefreshRequest) (Identity, error)
}

// CheckRooms returns an error for a list of rooms and patterns that a token
// cannot have.
func CheckRooms(field string, rooms []string) error {
	if len(rooms) > protocol.MaxTokenRooms {
		return envelope.Invalid(field, fmt.Sprintf("has %d rooms, at most %d are allowed; a pattern such as \"team-*\" stands for many",
			len(rooms), protocol.MaxTokenRooms))
	}
	for i, room := range rooms {
		if err := envelope.CheckName(fmt.Sprintf("%s[%d]", field, i), room); err != nil {
			return err
		}
	}
	return nil
}

// Hash returns the key of a token in the token store.
func Hash(token string) [sha256.Size]byte { return sha256.Sum256([]byte(token)) }

// Errors that a client is told about a token that is not good.
var (
	errTokenUnknown = envelope.Errorf(envelope.CodeUnauthorized, "the token is unknown")
	errTokenExpired = envelope.Errorf(envelope.CodeExpired, "the token has expired")
	errTokenRevoked = envelope.Errorf(envelope.CodeRevoked, "the token was revoked")
)

// checkLength returns an error if a token is missing or too long to be looked at.
func checkLength(token string) error {
	switch {
	case token == "":
		return envelope.Errorf(envelope.CodeUnauthorized, "no token was given")
	case len(token) > protocol.MaxTokenBytes:
		return envelope.Errorf(envelope.CodeUnauthorized, "the token is longer than %d bytes", protocol.MaxTokenBytes)
	}
	return nil
}
