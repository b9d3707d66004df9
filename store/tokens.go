package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"

	"imgo/envelope"
)

const (
	// MaxTokensPerUser bounds the tokens that one user has at a time.
	MaxTokensPerUser = 1000

	// tokenMemory is how long a token that was revoked or has expired is told apart from an
	// unknown one.
	tokenMemory = 24 * time.Hour

	tokenFormat  = 2
	tokenRevoked = 1 // flag
	tokenHeader  = 1 + 1 + 8 + 8
)

// The keys of tokens. "T", "h" and the hash lead to the token: format, flags, creation and
// expiry (Unix milliseconds, int64 BE), then the user and each room, with its length before it. "T", "u", the user, a 0 byte (no name has
// one) and the hash exist for each valid token. Badger deletes both when they expire.
var (
	prefixToken     = []byte{'T', 'h'}
	prefixTokenUser = []byte{'T', 'u'}
)

// TokenHash is the SHA-256 of a token. The token itself is never stored.
type TokenHash = [32]byte

// Tokens stores the opaque tokens of clients, by their hashes. A change survives a power
// loss once its call has returned.
//
// All methods are safe for concurrent use. They check the context before they begin.
type Tokens struct {
	db *DB
	mu sync.Mutex // held by each method that reads, decides and writes
}

// NewTokens returns the tokens in db.
func NewTokens(db *DB) *Tokens { return &Tokens{db: db} }

// token is a token as it is stored.
type token struct {
	envelope.Token
	revoked bool
}

func (t token) expired(now time.Time) bool {
	return t.ExpiresMS != 0 && t.ExpiresMS <= now.UnixMilli()
}

func (t token) stored() []byte {
	b := append(make([]byte, 0, tokenHeader+len(t.User)+1), tokenFormat, flag(tokenRevoked, t.revoked))
	b = binary.BigEndian.AppendUint64(b, uint64(t.CreatedMS))
	b = binary.BigEndian.AppendUint64(b, uint64(t.ExpiresMS))
	return appendChecksummed(nil, appendTexts(appendText(b, t.User), t.Rooms))
}

// appendText appends a text with its length before it.
func appendText(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// appendTexts appends texts, each with its length before it. They are the last of a value.
func appendTexts(b []byte, texts []string) []byte {
	for _, text := range texts {
		b = appendText(b, text)
	}
	return b
}

// readNames reads what appendText and appendTexts wrote: a user and the texts after it.
func readNames(b []byte) (user string, rest []string, err error) {
	r := fieldReader{b: b}
	user, rest = string(r.bytes()), r.texts()
	return user, rest, r.err
}

func decodeToken(b []byte) (t token, err error) {
	if len(b) < tokenHeader || b[0] != tokenFormat {
		return t, errors.New("the token has a format that this imgo does not read")
	}
	t.revoked = b[1]&tokenRevoked != 0
	t.CreatedMS = int64(binary.BigEndian.Uint64(b[2:]))
	t.ExpiresMS = int64(binary.BigEndian.Uint64(b[10:]))
	t.User, t.Rooms, err = readNames(b[tokenHeader:])
	return t, err
}

func tokenKey(hash TokenHash) []byte { return append(slices.Clip(prefixToken), hash[:]...) }

// tokenUserKey returns the key under a prefix of a user's token.
func tokenUserKey(prefix []byte, user string, hash TokenHash) []byte {
	return append(tokenUserPrefix(prefix, user), hash[:]...)
}

func tokenUserPrefix(prefix []byte, user string) []byte {
	return append(append(slices.Clip(prefix), user...), 0)
}

// Put makes the token with a hash valid for t.User until t.ExpiresMS. It replaces an existing
// token, also one of another user or a revoked one. single
// revokes all other tokens of the user in the same step. The error is envelope.ErrInvalid
// for a bad user name, envelope.ErrTooMany over MaxTokensPerUser, and envelope.ErrDiskFull
// while less than the reserve of the disk is free.
func (s *Tokens) Put(ctx context.Context, hash TokenHash, t envelope.Token, single bool) error {
	user := t.User
	if err := envelope.CheckName("user", user); err != nil {
		return err
	}
	if err := errors.Join(ctx.Err(), s.db.DiskOK()); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.db.tokens.Store(tokensMayExist)
	err := s.db.update(func(txn *badger.Txn) error {
		old, err := tokenAt(txn, hash)
		switch {
		case errors.Is(err, envelope.ErrUnauthorized):
		case err != nil:
			return err
		case old.User != user:
			if err := txn.Delete(tokenUserKey(prefixTokenUser, old.User, hash)); err != nil {
				return err
			}
		}
		others, err := tokensOf(txn, prefixTokenUser, user)
		if err != nil {
			return err
		}
		others = slices.DeleteFunc(others, func(h TokenHash) bool { return h == hash })
		if single {
			if _, err := revokeAll(txn, user, others); err != nil {
				return err
			}
		} else if len(others) >= MaxTokensPerUser {
			return envelope.Errorf(envelope.CodeTooMany, "user %q has %d tokens, the most that are allowed; revoke some", user, len(others))
		}
		return putToken(txn, hash, token{Token: t})
	})
	return wrapToken("store a token", err)
}

// putToken writes a token that is not revoked.
func putToken(txn *badger.Txn, hash TokenHash, t token) error {
	e := badger.NewEntry(tokenKey(hash), t.stored())
	index := badger.NewEntry(tokenUserKey(prefixTokenUser, t.User, hash), appendChecksummed(nil, nil))
	if t.ExpiresMS != 0 {
		// Badger counts in seconds; rounded up, so that it never forgets early.
		e.ExpiresAt = uint64((max(0, t.ExpiresMS) + tokenMemory.Milliseconds() + 999) / 1000)
		index.ExpiresAt = uint64((max(1, t.ExpiresMS) + 999) / 1000)
	}
	return errors.Join(txn.SetEntry(e), txn.SetEntry(index))
}

// revokeAll marks tokens of a user as revoked and returns how many were valid. A token that
// has expired meanwhile stays an expired one.
func revokeAll(txn *badger.Txn, user string, hashes []TokenHash) (n int, err error) {
	now := time.Now()
	for _, hash := range hashes {
		t, err := tokenAt(txn, hash)
		if err != nil {
			return 0, err
		}
		if !t.expired(now) {
			t.revoked = true
			if err := txn.SetEntry(badger.NewEntry(tokenKey(hash), t.stored()).WithTTL(tokenMemory)); err != nil {
				return 0, err
			}
			n++
		}
		if err := txn.Delete(tokenUserKey(prefixTokenUser, user, hash)); err != nil {
			return 0, err
		}
	}
	return n, nil
}

var errUnknownToken = envelope.Errorf(envelope.CodeUnauthorized, "the token is not known")

// tokenAt reads a token. The error is envelope.ErrUnauthorized if there is none.
func tokenAt(txn *badger.Txn, hash TokenHash) (t token, err error) {
	found, err := readKey(txn, tokenKey(hash), func(raw []byte) error {
		t, err = decodeToken(raw)
		return err
	})
	if err == nil && !found {
		err = errUnknownToken
	}
	return t, err
}

// tokensOf lists the hashes of a user's tokens under a prefix.
func tokensOf(txn *badger.Txn, prefix []byte, user string) (hashes []TokenHash, err error) {
	prefix = tokenUserPrefix(prefix, user)
	for item := range items(txn, keysOnly(prefix), nil) {
		key := item.Key()
		if len(key) != len(prefix)+len(TokenHash{}) {
			return nil, fmt.Errorf("%w: %x is no key of a user's token", ErrCorrupt, key)
		}
		hashes = append(hashes, TokenHash(key[len(prefix):]))
	}
	return hashes, nil
}

// wrapToken adds what was attempted to an error that has no code of its own.
func wrapToken(what string, err error) error {
	if err == nil || envelope.CodeOf(err) != envelope.CodeInternal {
		return err
	}
	return fmt.Errorf("%s: %w", what, err)
}

// The values of DB.tokens.
const (
	tokensUnknown int32 = iota
	tokensMayExist
	tokensNone // there was none when the database was searched, nor has one been put since
)

// none reports whether there is no token at all. Without opaque tokens (clients have JWTs,
// or auth.mode is "none") a connecting client costs no search in the database.
func (s *Tokens) none() bool {
	switch s.db.tokens.Load() {
	case tokensMayExist:
		return false
	case tokensNone:
		return true
	}
	found := true
	if err := s.db.view(func(txn *badger.Txn) error {
		found = hasKeys(txn, prefixToken)
		return nil
	}); err != nil {
		return false // Lookup meets and returns the error
	}
	if found {
		s.db.tokens.CompareAndSwap(tokensUnknown, tokensMayExist)
		return false
	}
	// A Put that has begun since must win: its token may exist in a moment.
	return s.db.tokens.CompareAndSwap(tokensUnknown, tokensNone) || s.db.tokens.Load() == tokensNone
}

// Lookup returns the token with a hash. The error is envelope.ErrUnauthorized for an unknown token,
// and envelope.ErrExpired or envelope.ErrRevoked for one that was valid once; after a day
// those are unknown as well.
func (s *Tokens) Lookup(ctx context.Context, hash TokenHash) (envelope.Token, error) {
	if err := ctx.Err(); err != nil {
		return envelope.Token{}, err
	}
	if s.none() {
		return envelope.Token{}, errUnknownToken
	}
	var t token
	err := s.db.view(func(txn *badger.Txn) (err error) {
		t, err = tokenAt(txn, hash)
		return err
	})
	switch {
	case err != nil:
		return envelope.Token{}, wrapToken("look up a token", err)
	case t.revoked:
		return envelope.Token{}, envelope.Errorf(envelope.CodeRevoked, "the token was revoked")
	case t.expired(time.Now()):
		return envelope.Token{}, envelope.Errorf(envelope.CodeExpired, "the token has expired")
	}
	return t.Token, nil
}

// Revoke makes a token invalid. The error is envelope.ErrNotFound if there is none;
// revoking twice is no error.
func (s *Tokens) Revoke(ctx context.Context, hash TokenHash) error {
	if err := errors.Join(ctx.Err(), s.db.disk.essential()); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.db.update(func(txn *badger.Txn) error {
		t, err := tokenAt(txn, hash)
		switch {
		case errors.Is(err, envelope.ErrUnauthorized):
			return envelope.Errorf(envelope.CodeNotFound, "there is no such token")
		case err != nil || t.revoked:
			return err
		}
		_, err = revokeAll(txn, t.User, []TokenHash{hash})
		return err
	})
	return wrapToken("revoke a token", err)
}

// RevokeUser makes all tokens of a user invalid and returns how many were valid.
func (s *Tokens) RevokeUser(ctx context.Context, user string) (n int, err error) {
	if err := errors.Join(ctx.Err(), s.db.disk.essential()); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err = s.db.update(func(txn *badger.Txn) error {
		hashes, err := tokensOf(txn, prefixTokenUser, user)
		if err != nil {
			return err
		}
		n, err = revokeAll(txn, user, hashes)
		return err
	})
	if err != nil {
		return 0, wrapToken(fmt.Sprintf("revoke the tokens of user %q", user), err)
	}
	return n, nil
}
