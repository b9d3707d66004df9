package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"

	"imgo/envelope"
)

const (
	// MaxTokensPerUser bounds the tokens that one user has at a time.
	MaxTokensPerUser = 1000

	// TokenMemory is how long a token that was revoked or has expired is told apart from an
	// unknown one. The topic has its last entry for as long.
	TokenMemory = 24 * time.Hour

	// dueAtOnce is when a key is due that comes before all others, Unix milliseconds.
	dueAtOnce = 0

	tokenFormat  = 2
	tokenRevoked = 1 // flag
	tokenHeader  = 1 + 1 + 12 + 8 + 8 + 8
)

// The first byte of a token's keys.
const (
	tokensOfNode  = 'T'
	tokensOfTopic = 'S'
)

// The second byte of a token's keys.
const (
	tokenAt   = 'h' // with the hash: the token
	tokenUser = 'u' // with the user, a 0 byte (no name has one) and the hash: nothing; for each valid token
	tokenKey  = 'k' // with hash and id: when that key is due (Unix milliseconds, int64 BE)
	tokenDue  = 'x' // with that time, hash and id: nothing; so these keys are in the order of time
	tokenNext = 'p' // the position
	tokenRead = 'c' // when the view was current (Unix milliseconds, int64 BE)
)

// TokenHash is the SHA-256 of a token. The token itself is never stored.
type TokenHash = [32]byte

// TokenID distinguishes tokens that were made with the same hash, one after another.
type TokenID = [12]byte

// TokenKey is the key of a token's entries.
type TokenKey struct {
	Hash TokenHash
	ID   TokenID
}

// TokenEntry is one change of a token: an entry of the tokens topic, where there is one.
type TokenEntry struct {
	Offset int64
	Key    TokenKey
	Change *envelope.TokenChange // nil: the key is to be forgotten
}

// Token is a token as the newest entry of its hash describes it.
type Token struct {
	envelope.Token
	Key     TokenKey
	Offset  int64 // of the entry
	Revoked bool
}

// Good reports whether the token is valid at a time.
func (t *Token) Good(now time.Time) bool {
	return !t.Revoked && (t.ExpiresMS == 0 || t.ExpiresMS > now.UnixMilli())
}

// Tokens are the opaque tokens of clients, by their hashes. The newest entry of any key with a
// hash decides about that hash. A change survives a power loss once its call has returned.
//
// An append that is tried again may leave a copy in the topic, which may come after later
// changes. So an entry changes nothing if its token was created before the stored token of its
// hash, and a valid entry changes nothing if its token was revoked. Compaction keeps it all the
// same, as the newest of its key, so the topic needs a further change. Due returns it.
//
// The keys are never used again once their token is invalid, so forgetting a key cannot undo
// anything. One order must hold. A key may have a newest entry that says it is valid although a
// later key of the same hash has replaced it. Such a key must be forgotten before the later one,
// or a reader of the whole topic would find it valid again. Due keeps that order.
//
// Reads are safe for concurrent use. Apply and Clear are for one caller at a time.
type Tokens struct {
	db    *DB
	space byte // the first byte of the keys
	// empty is set while there was no token since the database was opened. Without opaque tokens (clients
	// have JWTs, or auth.mode is "none") a connecting client costs no search in the database.
	empty atomic.Bool
}

// NewTokens returns the tokens of a node that runs alone. A database has one at a time.
func NewTokens(db *DB) *Tokens { return newTokens(db, tokensOfNode) }

// NewTokenView returns this node's view of the tokens topic, which every logic follows. It shares
// nothing with the tokens of NewTokens in the same database.
func NewTokenView(db *DB) *Tokens { return newTokens(db, tokensOfTopic) }

func newTokens(db *DB, space byte) *Tokens {
	s := &Tokens{db: db, space: space}
	_ = db.view(func(txn *badger.Txn) error { // Token meets and returns an error
		s.empty.Store(!hasKeys(txn, s.key(tokenAt)))
		return nil
	})
	return s
}

func (s *Tokens) key(kind byte, parts ...[]byte) []byte {
	return append([]byte{s.space, kind}, slices.Concat(parts...)...)
}

func (s *Tokens) userKey(user string, hash TokenHash) []byte {
	return append(s.userPrefix(user), hash[:]...)
}

func (s *Tokens) userPrefix(user string) []byte { return s.key(tokenUser, []byte(user), []byte{0}) }

func (s *Tokens) dueKey(ms int64, k TokenKey) []byte {
	return s.key(tokenDue, binary.BigEndian.AppendUint64(nil, uint64(ms)), k.Hash[:], k.ID[:])
}

// stored returns the form in the database: format, flags, id, creation, expiry and offset (int64
// BE), then the user and each room, with its length before it.
func (t *Token) stored() []byte {
	b := append(make([]byte, 0, tokenHeader+len(t.User)+1), tokenFormat, flag(tokenRevoked, t.Revoked))
	b = append(b, t.Key.ID[:]...)
	for _, n := range []int64{t.CreatedMS, t.ExpiresMS, t.Offset} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return appendChecksummed(nil, appendTexts(appendText(b, t.User), t.Rooms))
}

// appendText appends a text with its length before it.
func appendText[T string | []byte](b []byte, text T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// appendTexts appends texts, each with its length before it. They are the last of a value.
func appendTexts(b []byte, texts []string) []byte {
	for _, text := range texts {
		b = appendText(b, text)
	}
	return b
}

func decodeToken(hash TokenHash, b []byte) (*Token, error) {
	if len(b) < tokenHeader || b[0] != tokenFormat {
		return nil, errors.New("the token has a format that this imgo does not read")
	}
	number := func(at int) int64 { return int64(binary.BigEndian.Uint64(b[at:])) }
	t := &Token{Key: TokenKey{hash, TokenID(b[2:14])}, Revoked: b[1]&tokenRevoked != 0, Offset: number(30)}
	t.CreatedMS, t.ExpiresMS = number(14), number(22)
	r := fieldReader{b: b[tokenHeader:]}
	t.User, t.Rooms = string(r.bytes()), r.texts()
	return t, r.err
}

// Position returns the offset after the last applied entry. ok is false if nothing was
// applied yet, or a Clear was interrupted: a view must then be cleared, and the topic
// read from its beginning.
func (s *Tokens) Position() (next int64, ok bool, err error) {
	err = s.db.view(func(txn *badger.Txn) error {
		next, ok, err = getInt(txn, s.key(tokenNext))
		return err
	})
	return next, ok, wrapToken("read the position of the tokens", err)
}

// Age returns how long ago the view was current: it had all of the topic, or was about to read it from
// its beginning. A view that is older than TokenMemory must be cleared. It may have a token that
// was revoked since then, while the topic has forgotten the token and its revocation.
func (s *Tokens) Age(now time.Time) (age time.Duration, err error) {
	err = s.db.view(func(txn *badger.Txn) error {
		ms, _, err := getInt(txn, s.key(tokenRead))
		age = now.Sub(time.UnixMilli(ms))
		return err
	})
	return age, wrapToken("read the age of the tokens", err)
}

// SetCurrent notes that the view was current at a time.
func (s *Tokens) SetCurrent(at time.Time) error {
	err := s.db.update(func(txn *badger.Txn) error { return txn.Set(s.key(tokenRead), storedInt(at.UnixMilli())) })
	return wrapToken("note the age of the tokens", err)
}

func getInt(txn *badger.Txn, key []byte) (n int64, ok bool, err error) {
	found, err := readKey(txn, key, func(raw []byte) error {
		if len(raw) != 8 {
			return fmt.Errorf("%w: %d bytes are no number", ErrCorrupt, len(raw))
		}
		n = int64(binary.BigEndian.Uint64(raw))
		return nil
	})
	return n, found, err
}

func storedInt(n int64) []byte {
	return appendChecksummed(nil, binary.BigEndian.AppendUint64(nil, uint64(n)))
}

// Accepts returns envelope.ErrDiskFull while less than the reserve of the disk is free, so that
// new tokens are to be refused.
func (s *Tokens) Accepts() error { return s.db.DiskOK() }

// Apply applies entries in the order of their offsets and stores next as the position, in one
// synced transaction if they fit into one. An entry that is older than the newest one of its hash
// changes nothing.
func (s *Tokens) Apply(ctx context.Context, entries []TokenEntry, next int64) error {
	if err := errors.Join(ctx.Err(), s.db.disk.essential()); err != nil {
		return err
	}
	if len(entries) > 0 {
		s.empty.Store(false)
	}
	now := time.Now()
	err := s.db.update(func(txn *badger.Txn) error {
		for i := range entries {
			if err := s.apply(txn, &entries[i], now); err != nil {
				return err
			}
		}
		return txn.Set(s.key(tokenNext), storedInt(next))
	})
	if half := len(entries) / 2; half > 0 && errors.Is(err, badger.ErrTxnTooBig) {
		if err = s.Apply(ctx, entries[:half], entries[half].Offset); err == nil {
			err = s.Apply(ctx, entries[half:], next)
		}
	}
	return wrapToken("apply changes of tokens", err)
}

func (s *Tokens) apply(txn *badger.Txn, e *TokenEntry, now time.Time) error {
	old, err := s.at(txn, e.Key.Hash)
	if err != nil {
		return err
	}
	if old != nil && old.Offset >= e.Offset {
		return nil
	}
	if old != nil && old.outdates(e) {
		return s.setDue(txn, e.Key, dueAtOnce)
	}
	if e.Change == nil {
		if old != nil && old.Key == e.Key {
			err = errors.Join(txn.Delete(s.key(tokenAt, e.Key.Hash[:])), txn.Delete(s.userKey(old.User, e.Key.Hash)))
		}
		return errors.Join(err, s.setDue(txn, e.Key, -1))
	}
	if old != nil {
		if err := txn.Delete(s.userKey(old.User, e.Key.Hash)); err != nil {
			return err
		}
		if old.Key != e.Key && !old.Revoked {
			// Nothing under its own key says that it is invalid, so it is due first.
			if err := s.setDue(txn, old.Key, dueAtOnce); err != nil {
				return err
			}
		}
	}
	c := e.Change
	t := Token{
		Token: envelope.Token{
			User: c.GetUser(), CreatedMS: c.GetCreatedMs(), ExpiresMS: max(0, c.GetExpiresMs()), Rooms: c.GetRooms(),
		},
		Key: e.Key, Offset: e.Offset, Revoked: c.GetRevoked(),
	}
	if err := txn.Set(s.key(tokenAt, e.Key.Hash[:]), t.stored()); err != nil {
		return err
	}
	if t.Revoked {
		return s.setDue(txn, e.Key, now.Add(TokenMemory).UnixMilli())
	}
	index := badger.NewEntry(s.userKey(t.User, e.Key.Hash), appendChecksummed(nil, nil))
	due := int64(-1)
	if t.ExpiresMS != 0 {
		due = t.ExpiresMS + TokenMemory.Milliseconds()
		index.ExpiresAt = uint64((t.ExpiresMS + 999) / 1000) // seconds, rounded up
	}
	return errors.Join(txn.SetEntry(index), s.setDue(txn, e.Key, due))
}

// outdates reports whether a later entry is a copy of one that was true before the token.
func (t *Token) outdates(e *TokenEntry) bool {
	switch {
	case e.Change == nil:
		return false
	case e.Key == t.Key:
		return t.Revoked && !e.Change.GetRevoked()
	}
	return e.Change.GetCreatedMs() < t.CreatedMS
}

// setDue stores when a key is due; below 0: never.
func (s *Tokens) setDue(txn *badger.Txn, k TokenKey, ms int64) error {
	key := s.key(tokenKey, k.Hash[:], k.ID[:])
	before, ok, err := getInt(txn, key)
	if err != nil {
		return err
	}
	if ok {
		err = txn.Delete(s.dueKey(before, k))
	}
	switch {
	case ms >= 0:
		return errors.Join(err, txn.Set(key, storedInt(ms)), txn.Set(s.dueKey(ms, k), appendChecksummed(nil, nil)))
	case ok:
		return errors.Join(err, txn.Delete(key))
	}
	return err
}

// at returns the token of a hash, or nil if the hash is unknown.
func (s *Tokens) at(txn *badger.Txn, hash TokenHash) (t *Token, err error) {
	_, err = readKey(txn, s.key(tokenAt, hash[:]), func(raw []byte) error {
		t, err = decodeToken(hash, raw)
		return err
	})
	return t, err
}

// Clear deletes everything, so that the topic can be read from its beginning. The view is current then.
func (s *Tokens) Clear(ctx context.Context) error {
	began := time.Now()
	// The position goes first, so an interrupted Clear is recognised.
	err := s.db.update(func(txn *badger.Txn) error { return txn.Delete(s.key(tokenNext)) })
	for _, kind := range []byte{tokenAt, tokenUser, tokenKey, tokenDue} {
		if err == nil {
			err = s.db.dropPrefix(ctx, s.key(kind))
		}
	}
	if err == nil {
		err = s.SetCurrent(began)
	}
	return wrapToken("clear the view of the tokens topic", err)
}

// Token returns the token of a hash, valid or not. It returns nil if the hash is unknown.
func (s *Tokens) Token(ctx context.Context, hash TokenHash) (t *Token, err error) {
	if err := ctx.Err(); err != nil || s.empty.Load() {
		return nil, err
	}
	err = s.db.view(func(txn *badger.Txn) error {
		t, err = s.at(txn, hash)
		return err
	})
	return t, wrapToken("look up a token", err)
}

// OfUser returns the valid tokens of a user, in no order.
func (s *Tokens) OfUser(ctx context.Context, user string) (tokens []Token, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	now := time.Now()
	err = s.db.view(func(txn *badger.Txn) error {
		prefix := s.userPrefix(user)
		for item := range items(txn, keysOnly(prefix), nil) {
			key := item.Key()
			if len(key) != len(prefix)+len(TokenHash{}) {
				return fmt.Errorf("%w: %x is no key of a user's token", ErrCorrupt, key)
			}
			t, err := s.at(txn, TokenHash(key[len(prefix):]))
			if err != nil {
				return err
			}
			if t != nil && t.Good(now) && t.User == user {
				tokens = append(tokens, *t)
			}
		}
		return nil
	})
	return tokens, wrapToken(fmt.Sprintf("list the tokens of user %q", user), err)
}

// Due returns at most limit tokens that are due, in the order in which they must be dealt with. One
// that is Revoked is to be revoked again. Of the others only the key is set: it is to be forgotten.
func (s *Tokens) Due(now time.Time, limit int) (tokens []Token, err error) {
	err = s.db.view(func(txn *badger.Txn) error {
		prefix := s.key(tokenDue)
		for item := range items(txn, keysOnly(prefix), nil) {
			if len(tokens) >= limit {
				return nil
			}
			key := item.Key()[len(prefix):]
			if len(key) != 8+len(TokenHash{})+len(TokenID{}) {
				return fmt.Errorf("%w: %x is no key of what is due", ErrCorrupt, key)
			}
			ms := int64(binary.BigEndian.Uint64(key))
			if ms > now.UnixMilli() {
				return nil
			}
			due := Token{Key: TokenKey{TokenHash(key[8:40]), TokenID(key[40:])}}
			if ms == dueAtOnce {
				t, err := s.at(txn, due.Key.Hash)
				if err != nil {
					return err
				}
				if t != nil && t.Key == due.Key && t.Revoked {
					due = *t
				}
			}
			tokens = append(tokens, due)
		}
		return nil
	})
	return tokens, wrapToken("list the tokens that are due", err)
}

// wrapToken adds what was attempted to an error that has no code of its own.
func wrapToken(what string, err error) error {
	if err == nil || envelope.CodeOf(err) != envelope.CodeInternal {
		return err
	}
	return fmt.Errorf("%s: %w", what, err)
}
