package logic

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/logic/auth"
)

const (
	// tokenPrefix marks the tokens that logic makes, so that people and secret
	// scanners recognise them.
	tokenPrefix = "imgo_"
	// tokenBytes is how many random bytes are in one.
	tokenBytes = 32
)

// revokedReason is the reason of the close that ends a session with its token.
const revokedReason = "the token was revoked"

// Token is an opaque client token as it was made; only its hash is stored.
type Token struct {
	Token     string `json:"token"`
	User      string `json:"user"`
	ExpiresMS int64  `json:"expires_ms"` // Unix milliseconds. 0 means never
}

// TokenRequest says what a new token is to be.
type TokenRequest struct {
	User string
	// TTL is after how long the token ends. 0 means never.
	TTL time.Duration
	// Token is the caller's own token, at most protocol.MaxTokenBytes of text;
	// empty: 32 random bytes as text.
	Token string
	// Single revokes the user's other tokens, so that one replaces another.
	Single bool
	// Rooms are the rooms and patterns that the token allows to join, at most
	// protocol.MaxTokenRooms.
	Rooms []string
}

// tokenHandler makes, checks and revokes opaque tokens.
type tokenHandler struct {
	*shared
	auth Authenticator
}

// NewToken makes a token for a user. Only a hash is stored: the answer is the
// only time that the token can be read.
func (h *tokenHandler) NewToken(ctx context.Context, r TokenRequest) (Token, error) {
	ctx, end, err := h.life.beginFor(ctx, r.User)
	if err != nil {
		return Token{}, err
	}
	defer end()
	if r.TTL < 0 {
		return Token{}, envelope.Invalid("ttl", "must not be negative")
	}
	if err := auth.CheckRooms("rooms", r.Rooms); err != nil {
		return Token{}, err
	}
	token := r.Token
	if token == "" {
		token = randomToken()
	} else if err := h.checkOwnToken(token); err != nil {
		return Token{}, err
	}
	now := h.now()
	made := Token{Token: token, User: r.User}
	if r.TTL > 0 {
		made.ExpiresMS = now.Add(r.TTL).UnixMilli()
	}
	stored := envelope.Token{User: r.User, ExpiresMS: made.ExpiresMS, CreatedMS: now.UnixMilli(), Rooms: r.Rooms}
	if err := h.tokens.Put(ctx, auth.Hash(token), stored, r.Single); err != nil {
		return Token{}, appended("store the token", err)
	}
	return made, nil
}

func randomToken() string {
	var random [tokenBytes]byte
	_, _ = rand.Read(random[:]) // it never fails: it ends the program instead
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(random[:])
}

// checkOwnToken returns an error if a token that a caller chose could never be
// used.
func (h *tokenHandler) checkOwnToken(token string) error {
	switch {
	case len(token) > protocol.MaxTokenBytes:
		return envelope.Invalid("token", fmt.Sprintf("is %d bytes long, at most %d are allowed", len(token), protocol.MaxTokenBytes))
	case strings.HasPrefix(token, `"`) || strings.HasSuffix(token, `"`):
		return envelope.Invalid("token", "must not begin or end with a quote: clients send it with or without quotes around it")
	case h.auth.Verifies(token):
		return envelope.Invalid("token", "looks like a JWT, and those are checked by their signature here")
	}
	for i, r := range token {
		if r < 0x20 || r == 0x7f {
			return envelope.Invalid("token", fmt.Sprintf("has a control character at byte %d", i))
		}
	}
	if !utf8.ValidString(token) {
		return envelope.Invalid("token", "is not valid UTF-8")
	}
	return nil
}

// CheckToken returns the user that a client with this token would be. Its
// errors are those of Connect for a bad token.
func (h *tokenHandler) CheckToken(ctx context.Context, token string) (string, error) {
	ctx, end, err := h.life.begin(ctx)
	if err != nil {
		return "", err
	}
	defer end()
	id, err := h.auth.Authenticate(ctx, token, "")
	return id.User, err
}

// RevokeToken revokes an opaque token, if check returns no error for its user.
// It counts the token: 1, also if it is revoked already, so that a call can be
// repeated, or envelope.ErrNotFound if there is no such token. With
// closeSessions the sessions of its user are closed (3503). Nobody remembers
// which of them came with this token, so it is all of them, and those with
// another valid token may come back.
func (h *tokenHandler) RevokeToken(ctx context.Context, token string, check func(user string) error, closeSessions bool) (int, error) {
	ctx, end, err := h.life.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer end()
	if token == "" || len(token) > protocol.MaxTokenBytes {
		return 0, envelope.Errorf(envelope.CodeNotFound, "there is no such token")
	}
	user, err := h.tokens.Revoke(ctx, auth.Hash(token), check)
	if err != nil {
		return 0, appended("revoke the token", err)
	}
	if closeSessions {
		if err := h.closeSessions(ctx, user); err != nil {
			return 1, err
		}
	}
	return 1, nil
}

// RevokeUser revokes all opaque tokens of a user and counts them. With
// closeSessions the user's sessions are closed (3503), also if there was no
// token: they may have come with a JWT.
func (h *tokenHandler) RevokeUser(ctx context.Context, user string, closeSessions bool) (int, error) {
	ctx, end, err := h.life.beginFor(ctx, user)
	if err != nil {
		return 0, err
	}
	defer end()
	n, err := h.tokens.RevokeUser(ctx, user)
	if err != nil {
		return n, appended("revoke the user's tokens", err)
	}
	if closeSessions {
		if err := h.closeSessions(ctx, user); err != nil {
			return n, err
		}
	}
	return n, nil
}

// UserTokens returns the valid opaque tokens of a user, oldest first, without anything
// that would help to guess them.
func (h *tokenHandler) UserTokens(ctx context.Context, user string) ([]envelope.TokenInfo, error) {
	ctx, end, err := h.life.beginFor(ctx, user)
	if err != nil {
		return nil, err
	}
	defer end()
	list, err := h.tokens.List(ctx, user)
	return list, attempted("list the user's tokens", err)
}

func (h *tokenHandler) closeSessions(ctx context.Context, user string) error {
	_, err := h.kicker.kick(ctx, user, KickFilter{Code: protocol.CloseTokenRevoked, Reason: revokedReason})
	if err != nil {
		return fmt.Errorf("the tokens are revoked, but the user's sessions are not closed (kick them): %w", err)
	}
	return nil
}
