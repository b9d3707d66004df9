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
	sharedTokenFormat = 2
	sharedTokenHeader = 1 + 1 + 12 + 8 + 8 + 8
)

// The keys of shared tokens. "S", "h" and the hash lead to the token. "S", "u", the user, a
// 0 byte and the hash exist for each valid token. "S", "k", hash and id lead to the time at
// which that key of the topic is due to be forgotten (Unix milliseconds, int64 BE). "S",
// "x", that time, hash and id are the same in the order of time. "S", "p" leads to the
// position.
var (
	prefixShared     = []byte{'S', 'h'}
	prefixSharedUser = []byte{'S', 'u'}
	prefixSharedKey  = []byte{'S', 'k'}
	prefixSharedDue  = []byte{'S', 'x'}
	keySharedAt      = []byte{'S', 'p'}
)

// TokenID distinguishes tokens that were made with the same hash, one after another.
type TokenID = [12]byte

// TokenKey is the key of a token's entries in the tokens topic.
type TokenKey struct {
	Hash TokenHash
	ID   TokenID
}

// TokenEntry is one entry of the tokens topic.
type TokenEntry struct {
	Offset int64
	Key    TokenKey
	Change *envelope.TokenChange // nil: the key is to be forgotten
}

// SharedToken is a token as the newest entry of its hash describes it.
type SharedToken struct {
	envelope.Token
	Key     TokenKey
	Offset  int64 // of the entry
	Revoked bool
}

// Good reports whether the token is valid at a time.
func (t *SharedToken) Good(now time.Time) bool {
	return !t.Revoked && (t.ExpiresMS == 0 || t.ExpiresMS > now.UnixMilli())
}

// SharedTokens is a view of the tokens topic, which every logic follows. The newest entry
// of any key with a hash decides about that hash. It shares nothing with the tokens of
// Tokens in the same database.
//
// The keys of the topic are never used again once their token is invalid, so forgetting a
// key cannot undo anything. One order must hold. A key may have a newest entry that says it
// is valid although a later key of the same hash has replaced it. Such a key must be
// forgotten before the later one, or a reader of the whole topic would find it valid again.
// Due keeps that order.
//
// Reads are safe for concurrent use. Apply and Clear are for one goroutine, the one that
// follows the topic.
type SharedTokens struct {
	db *DB
	mu sync.Mutex // held by Apply and Clear
}

// NewSharedTokens returns the view of the tokens topic in db.
func NewSharedTokens(db *DB) *SharedTokens { return &SharedTokens{db: db} }

func (t *SharedToken) stored() []byte {
	b := append(make([]byte, 0, sharedTokenHeader+len(t.User)+1), sharedTokenFormat, flag(tokenRevoked, t.Revoked))
	b = append(b, t.Key.ID[:]...)
	for _, n := range []int64{t.CreatedMS, t.ExpiresMS, t.Offset} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return appendChecksummed(nil, appendTexts(appendText(b, t.User), t.Rooms))
}

func decodeSharedToken(hash TokenHash, b []byte) (t *SharedToken, err error) {
	if len(b) < sharedTokenHeader || b[0] != sharedTokenFormat {
		return nil, errors.New("the token has a format that this imgo does not read")
	}
	number := func(at int) int64 { return int64(binary.BigEndian.Uint64(b[at:])) }
	t = &SharedToken{Key: TokenKey{hash, TokenID(b[2:14])}, Revoked: b[1]&tokenRevoked != 0, Offset: number(30)}
	t.CreatedMS, t.ExpiresMS = number(14), number(22)
	t.User, t.Rooms, err = readNames(b[sharedTokenHeader:])
	return t, err
}

func sharedKey(hash TokenHash) []byte { return append(slices.Clip(prefixShared), hash[:]...) }

func sharedDueOf(k TokenKey) []byte {
	return append(append(slices.Clip(prefixSharedKey), k.Hash[:]...), k.ID[:]...)
}

func sharedDueKey(ms int64, k TokenKey) []byte {
	b := binary.BigEndian.AppendUint64(slices.Clip(prefixSharedDue), uint64(ms))
	return append(append(b, k.Hash[:]...), k.ID[:]...)
}

// Position returns the offset after the last applied entry. ok is false if nothing was
// applied yet, or a Clear was interrupted: the view must then be cleared, and the topic
// read from its beginning.
func (s *SharedTokens) Position() (next int64, ok bool, err error) {
	err = s.db.view(func(txn *badger.Txn) error {
		next, ok, err = getSharedInt(txn, keySharedAt)
		return err
	})
	return next, ok, wrapToken("read the position in the tokens topic", err)
}

func getSharedInt(txn *badger.Txn, key []byte) (n int64, ok bool, err error) {
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

// Apply applies entries in the order of the topic and stores next as the position, in one
// synced transaction. A few hundred entries fit. An entry that is older than the newest one
// of its hash changes nothing.
func (s *SharedTokens) Apply(ctx context.Context, entries []TokenEntry, next int64) error {
	if err := errors.Join(ctx.Err(), s.db.disk.essential()); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	err := s.db.update(func(txn *badger.Txn) error {
		for i := range entries {
			if err := applyShared(txn, &entries[i], now); err != nil {
				return err
			}
		}
		return txn.Set(keySharedAt, storedInt(next))
	})
	return wrapToken("apply entries of the tokens topic", err)
}

func applyShared(txn *badger.Txn, e *TokenEntry, now time.Time) error {
	old, err := sharedAt(txn, e.Key.Hash)
	if err != nil {
		return err
	}
	if old != nil && old.Offset >= e.Offset {
		return nil
	}
	if e.Change == nil {
		if old != nil && old.Key == e.Key {
			err = errors.Join(txn.Delete(sharedKey(e.Key.Hash)), txn.Delete(tokenUserKey(prefixSharedUser, old.User, e.Key.Hash)))
		}
		return errors.Join(err, setDue(txn, e.Key, -1))
	}
	if old != nil {
		if err := txn.Delete(tokenUserKey(prefixSharedUser, old.User, e.Key.Hash)); err != nil {
			return err
		}
		if old.Key != e.Key && !old.Revoked {
			// Nothing under its own key says that it is invalid, so it is due first.
			if err := setDue(txn, old.Key, 0); err != nil {
				return err
			}
		}
	}
	c := e.Change
	t := SharedToken{
		Token: envelope.Token{
			User: c.GetUser(), CreatedMS: c.GetCreatedMs(), ExpiresMS: max(0, c.GetExpiresMs()), Rooms: c.GetRooms(),
		},
		Key: e.Key, Offset: e.Offset, Revoked: c.GetRevoked(),
	}
	if err := txn.Set(sharedKey(e.Key.Hash), t.stored()); err != nil {
		return err
	}
	if t.Revoked {
		return setDue(txn, e.Key, now.Add(tokenMemory).UnixMilli())
	}
	index := badger.NewEntry(tokenUserKey(prefixSharedUser, t.User, e.Key.Hash), appendChecksummed(nil, nil))
	due := int64(-1)
	if t.ExpiresMS != 0 {
		due = t.ExpiresMS + tokenMemory.Milliseconds()
		index.ExpiresAt = uint64((t.ExpiresMS + 999) / 1000) // seconds, rounded up
	}
	return errors.Join(txn.SetEntry(index), setDue(txn, e.Key, due))
}

// setDue stores when a key of the topic is due to be forgotten; below 0: never.
func setDue(txn *badger.Txn, k TokenKey, ms int64) error {
	before, ok, err := getSharedInt(txn, sharedDueOf(k))
	if err != nil {
		return err
	}
	if ok {
		err = txn.Delete(sharedDueKey(before, k))
	}
	switch {
	case ms >= 0:
		return errors.Join(err, txn.Set(sharedDueOf(k), storedInt(ms)), txn.Set(sharedDueKey(ms, k), appendChecksummed(nil, nil)))
	case ok:
		return errors.Join(err, txn.Delete(sharedDueOf(k)))
	}
	return err
}

// sharedAt returns the token of a hash; nil: it is unknown.
func sharedAt(txn *badger.Txn, hash TokenHash) (t *SharedToken, err error) {
	_, err = readKey(txn, sharedKey(hash), func(raw []byte) error {
		t, err = decodeSharedToken(hash, raw)
		return err
	})
	return t, err
}

// Clear deletes everything, so that the topic can be read from its beginning.
func (s *SharedTokens) Clear(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The position goes first, so an interrupted Clear is recognised.
	err := s.db.update(func(txn *badger.Txn) error { return txn.Delete(keySharedAt) })
	for _, prefix := range [][]byte{prefixShared, prefixSharedUser, prefixSharedKey, prefixSharedDue} {
		if err == nil {
			err = s.db.dropPrefix(ctx, prefix)
		}
	}
	return wrapToken("clear the view of the tokens topic", err)
}

// Token returns the token of a hash, valid or not; nil: it is unknown.
func (s *SharedTokens) Token(ctx context.Context, hash TokenHash) (t *SharedToken, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	err = s.db.view(func(txn *badger.Txn) error {
		t, err = sharedAt(txn, hash)
		return err
	})
	return t, wrapToken("look up a token", err)
}

// OfUser returns the valid tokens of a user, in no order.
func (s *SharedTokens) OfUser(ctx context.Context, user string) (tokens []SharedToken, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	now := time.Now()
	err = s.db.view(func(txn *badger.Txn) error {
		hashes, err := tokensOf(txn, prefixSharedUser, user)
		if err != nil {
			return err
		}
		for _, hash := range hashes {
			t, err := sharedAt(txn, hash)
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

// Due returns at most limit keys of the topic that are due to be forgotten, in the order in
// which they must be.
func (s *SharedTokens) Due(now time.Time, limit int) (keys []TokenKey, err error) {
	err = s.db.view(func(txn *badger.Txn) error {
		for item := range items(txn, keysOnly(prefixSharedDue), nil) {
			if len(keys) >= limit {
				return nil
			}
			key := item.Key()[len(prefixSharedDue):]
			if len(key) != 8+len(TokenHash{})+len(TokenID{}) {
				return fmt.Errorf("%w: %x is no key of what is due", ErrCorrupt, key)
			}
			if int64(binary.BigEndian.Uint64(key)) > now.UnixMilli() {
				return nil
			}
			keys = append(keys, TokenKey{TokenHash(key[8:40]), TokenID(key[40:])})
		}
		return nil
	})
	return keys, wrapToken("list the tokens that are due", err)
}
