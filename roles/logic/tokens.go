package logic

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/logic/auth"
)

const (
	// tokenPrefix marks the tokens that logic makes, so that people and
	// secret scanners know one when they see it.
	tokenPrefix = "imgo_"
	// tokenBytes is how many random bytes are in one.
	tokenBytes = 32
)

// revokedReason is what a session is told that ends with its token.
const revokedReason = "the token was revoked"

// NewToken makes a token for a user. It ends after ttl (0: never). An empty
// token lets logic make one of 32 random bytes; else it is the caller's own,
// at most protocol.MaxTokenBytes of text. single takes the user's other tokens back, so
// that one replaces another. Only a hash is stored: the answer is the only
// time that the token can be read.
func (l *Logic) NewToken(ctx context.Context, user string, ttl time.Duration, token string, single bool) (Token, error) {
	ctx, end, err := l.begin(ctx)
	if err != nil {
		return Token{}, err
	}
	defer end()
	if err := envelope.CheckName("user", user); err != nil {
		return Token{}, err
	}
	if ttl < 0 {
		return Token{}, envelope.Invalid("ttl", "must not be negative")
	}
	if token == "" {
		token = makeToken()
	} else if err := l.checkToken(token); err != nil {
		return Token{}, err
	}
	now := l.now()
	made := Token{Token: token, User: user}
	if ttl > 0 {
		made.ExpiresMS = now.Add(ttl).UnixMilli()
	}
	err = l.tokens.Put(ctx, auth.Hash(token), user, made.ExpiresMS, now.UnixMilli(), single)
	if err != nil {
		return Token{}, appending("store the token", err)
	}
	return made, nil
}

func makeToken() string {
	var random [tokenBytes]byte
	_, _ = rand.Read(random[:]) // it never fails: it ends the program instead
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(random[:])
}

// checkToken says what is wrong with a token that a caller chose: one that
// could never be used is refused now.
func (l *Logic) checkToken(token string) error {
	switch {
	case len(token) > protocol.MaxTokenBytes:
		return envelope.Invalid("token", fmt.Sprintf("is %d bytes long, at most %d are allowed", len(token), protocol.MaxTokenBytes))
	case strings.HasPrefix(token, `"`) || strings.HasSuffix(token, `"`):
		return envelope.Invalid("token", "must not begin or end with a quote: clients send it with or without quotes around it")
	case l.auth.Verifies(token):
		return envelope.Invalid("token", "looks like a JWT, and those are checked by their signature here")
	}
	for i, r := range token {
		if r < 0x20 || r == 0x7f {
			return envelope.Invalid("token", fmt.Sprintf("has a control character at byte %d", i))
		}
	}
	if strings.ToValidUTF8(token, "") != token {
		return envelope.Invalid("token", "is not valid UTF-8")
	}
	return nil
}

// CheckToken is the user that a client with this token would be. Its errors
// are those of Connect for a bad token.
func (l *Logic) CheckToken(ctx context.Context, token string) (string, error) {
	ctx, end, err := l.begin(ctx)
	if err != nil {
		return "", err
	}
	defer end()
	id, err := l.authenticate(ctx, token, "")
	return id.User, err
}

// RevokeToken takes an opaque token back and counts it: 1, or
// envelope.ErrNotFound when there is no such token. With closeSessions the
// sessions of its user are closed (3503); which of them came with this token
// nobody remembers, so it is all of them, and those with another good token
// may come back.
func (l *Logic) RevokeToken(ctx context.Context, token string, closeSessions bool) (int, error) {
	ctx, end, err := l.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer end()
	notFound := envelope.Errorf(envelope.CodeNotFound, "there is no such token")
	if token == "" || len(token) > protocol.MaxTokenBytes {
		return 0, notFound
	}
	hash := auth.Hash(token)
	user, _, err := l.tokens.Lookup(ctx, hash)
	if err != nil && !errors.Is(err, envelope.ErrExpired) && !gone(err) {
		return 0, attempted("look up the token", err)
	}
	if gone(err) {
		return 0, notFound
	}
	if err := l.tokens.Revoke(ctx, hash); err != nil {
		if gone(err) {
			return 0, notFound
		}
		return 0, appending("revoke the token", err)
	}
	if closeSessions && user != "" {
		if err := l.closeRevoked(ctx, user); err != nil {
			return 1, err
		}
	}
	return 1, nil
}

// RevokeUser takes all opaque tokens of a user back and counts them. With
// closeSessions the user's sessions are closed (3503), also when there was no
// token: they may have come with a JWT.
func (l *Logic) RevokeUser(ctx context.Context, user string, closeSessions bool) (int, error) {
	ctx, end, err := l.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer end()
	if err := envelope.CheckName("user", user); err != nil {
		return 0, err
	}
	n, err := l.tokens.RevokeUser(ctx, user)
	if err != nil {
		return n, appending("revoke the user's tokens", err)
	}
	if closeSessions {
		if err := l.closeRevoked(ctx, user); err != nil {
			return n, err
		}
	}
	return n, nil
}

func (l *Logic) closeRevoked(ctx context.Context, user string) error {
	_, err := l.kick(ctx, user, KickFilter{Code: protocol.CloseTokenRevoked, Reason: revokedReason})
	if err != nil {
		return fmt.Errorf("the tokens are revoked, but the user's sessions are not closed (kick them): %w", err)
	}
	return nil
}

// gone says whether the store's error means that the token is nobody's.
func gone(err error) bool {
	return errors.Is(err, envelope.ErrNotFound) || errors.Is(err, envelope.ErrUnauthorized) || errors.Is(err, envelope.ErrRevoked)
}
