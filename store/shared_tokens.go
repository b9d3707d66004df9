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
	sharedTokenFormat = 1
	sharedTokenHeader = 1 + 1 + 12 + 8 + 8 + 8
)

// Keys: S h and the hash lead to the token. S u, the user, a 0 byte and the
// hash are there for each token that is good. S k, hash and id lead to when
// that key of the topic is due to be forgotten (Unix milliseconds, int64 BE);
// S x, that time, hash and id is the same in the order of time. S p is the
// position.
var (
	prefixShared     = []byte{'S', 'h'}
	prefixSharedUser = []byte{'S', 'u'}
	prefixSharedKey  = []byte{'S', 'k'}
	prefixSharedDue  = []byte{'S', 'x'}
	keySharedAt      = []byte{'S', 'p'}
)

// TokenID tells the tokens apart that were made with one hash, one after the
// other.
type TokenID = [12]byte

// TokenKey names one making of a token: the key of its entries in the tokens
// topic.
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

// SharedToken is a token as the newest entry of its hash has it.
type SharedToken struct {
	Key                  TokenKey
	User                 string
	CreatedMS, ExpiresMS int64 // Unix milliseconds; ExpiresMS 0: never
	Offset               int64 // of the entry
	Revoked              bool
}

// Good says whether the token is somebody's at a time.
func (t *SharedToken) Good(now time.Time) bool {
	return !t.Revoked && (t.ExpiresMS == 0 || t.ExpiresMS > now.UnixMilli())
}

// SharedTokens is a view of the tokens topic, which every logic follows: what
// is true of a hash is what the newest entry of any key with that hash says.
// It has nothing to do with the tokens of Tokens in the same database.
//
// The keys of the topic are never used again once their token is dead, so
// forgetting one cannot undo anything. What must hold is an order: a key whose
// own newest entry says that it is good, but which a later key of the same hash
// has replaced, is forgotten before that later one, or a reader of the whole
// topic would find it good again. Due keeps that order.
//
// Reads may be called by many goroutines at once. Apply and Clear are for one
// goroutine, the one that follows the topic.
type SharedTokens struct {
	db *DB
	mu sync.Mutex // held by Apply and Clear
}

// NewSharedTokens is the view of the tokens topic in db.
func NewSharedTokens(db *DB) *SharedTokens { return &SharedTokens{db: db} }

func (t *SharedToken) seal() []byte {
	b := append(make([]byte, 0, sharedTokenHeader+len(t.User)), sharedTokenFormat, 0)
	if t.Revoked {
		b[1] = tokenRevoked
	}
	b = append(b, t.Key.ID[:]...)
	for _, n := range []int64{t.CreatedMS, t.ExpiresMS, t.Offset} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return seal(nil, append(b, t.User...))
}

func unsealShared(hash TokenHash, sealed []byte) (*SharedToken, error) {
	b, err := unseal(sealed)
	if err != nil {
		return nil, err
	}
	if len(b) < sharedTokenHeader || b[0] != sharedTokenFormat {
		return nil, errors.New("the token has a format that this imgo does not read")
	}
	number := func(at int) int64 { return int64(binary.BigEndian.Uint64(b[at:])) }
	return &SharedToken{
		Key: TokenKey{hash, TokenID(b[2:14])}, Revoked: b[1]&tokenRevoked != 0,
		CreatedMS: number(14), ExpiresMS: number(22), Offset: number(30), User: string(b[sharedTokenHeader:]),
	}, nil
}

func sharedKey(hash TokenHash) []byte { return append(slices.Clip(prefixShared), hash[:]...) }

func sharedUserPrefix(user string) []byte {
	return append(append(slices.Clip(prefixSharedUser), user...), 0)
}

func sharedUserKey(user string, hash TokenHash) []byte {
	return append(sharedUserPrefix(user), hash[:]...)
}

func sharedDueOf(k TokenKey) []byte {
	return append(append(slices.Clip(prefixSharedKey), k.Hash[:]...), k.ID[:]...)
}

func sharedDueKey(ms int64, k TokenKey) []byte {
	b := binary.BigEndian.AppendUint64(slices.Clip(prefixSharedDue), uint64(ms))
	return append(append(b, k.Hash[:]...), k.ID[:]...)
}

// Position is the offset that follows the last applied entry; ok is false when
// nothing was applied yet, or the view was not cleared to its end: clear it,
// then read the topic from its beginning.
func (s *SharedTokens) Position() (next int64, ok bool, err error) {
	err = s.db.view(func(txn *badger.Txn) error {
		next, ok, err = getSharedInt(txn, keySharedAt)
		return err
	})
	return next, ok, wrapToken("read the position in the tokens topic", err)
}

func getSharedInt(txn *badger.Txn, key []byte) (n int64, ok bool, err error) {
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	err = item.Value(func(v []byte) error {
		raw, err := unseal(v)
		if err == nil && len(raw) != 8 {
			err = fmt.Errorf("%w: %d bytes are no number", ErrCorrupt, len(raw))
		}
		if err == nil {
			n = int64(binary.BigEndian.Uint64(raw))
		}
		return err
	})
	return n, err == nil, err
}

func sealedInt(n int64) []byte {
	return seal(nil, binary.BigEndian.AppendUint64(nil, uint64(n)))
}

// Apply applies entries in the order of the topic, and with them, in one synced
// transaction, that next is the position. A few hundred at a time fit. An entry
// that is older than what is known of its hash changes nothing.
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
		return txn.Set(keySharedAt, sealedInt(next))
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
			err = errors.Join(txn.Delete(sharedKey(e.Key.Hash)), txn.Delete(sharedUserKey(old.User, e.Key.Hash)))
		}
		return errors.Join(err, setDue(txn, e.Key, -1))
	}
	if old != nil {
		if err := txn.Delete(sharedUserKey(old.User, e.Key.Hash)); err != nil {
			return err
		}
		if old.Key != e.Key && !old.Revoked {
			// Nothing under its own key says that it is dead: first of all.
			if err := setDue(txn, old.Key, 0); err != nil {
				return err
			}
		}
	}
	c := e.Change
	t := SharedToken{
		Key: e.Key, User: c.GetUser(), CreatedMS: c.GetCreatedMs(), ExpiresMS: max(0, c.GetExpiresMs()),
		Offset: e.Offset, Revoked: c.GetRevoked(),
	}
	if err := txn.Set(sharedKey(e.Key.Hash), t.seal()); err != nil {
		return err
	}
	if t.Revoked {
		return setDue(txn, e.Key, now.Add(tokenMemory).UnixMilli())
	}
	index := badger.NewEntry(sharedUserKey(t.User, e.Key.Hash), seal(nil, nil))
	due := int64(-1)
	if t.ExpiresMS != 0 {
		due = t.ExpiresMS + tokenMemory.Milliseconds()
		index.ExpiresAt = uint64((t.ExpiresMS + 999) / 1000) // seconds, rounded up
	}
	return errors.Join(txn.SetEntry(index), setDue(txn, e.Key, due))
}

// setDue notes from when on a key of the topic may be forgotten; below 0: not.
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
		return errors.Join(err, txn.Set(sharedDueOf(k), sealedInt(ms)), txn.Set(sharedDueKey(ms, k), seal(nil, nil)))
	case ok:
		return errors.Join(err, txn.Delete(sharedDueOf(k)))
	}
	return err
}

// sharedAt is what is known of a hash; nil: nothing.
func sharedAt(txn *badger.Txn, hash TokenHash) (t *SharedToken, err error) {
	item, err := txn.Get(sharedKey(hash))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	err = item.Value(func(v []byte) error {
		t, err = unsealShared(hash, v)
		return err
	})
	return t, err
}

// Clear forgets everything, so that the topic can be read from its beginning.
func (s *SharedTokens) Clear(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The position goes first: what an interrupted Clear leaves has none.
	err := s.db.update(func(txn *badger.Txn) error { return txn.Delete(keySharedAt) })
	for _, prefix := range [][]byte{prefixShared, prefixSharedUser, prefixSharedKey, prefixSharedDue} {
		if err == nil {
			err = s.db.dropPrefix(ctx, prefix)
		}
	}
	return wrapToken("clear the view of the tokens topic", err)
}

// Token is what is known of a hash, good or not; nil: nothing.
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

// OfUser is the tokens of a user that are good, in no order.
func (s *SharedTokens) OfUser(ctx context.Context, user string) (tokens []SharedToken, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	now := time.Now()
	err = s.db.view(func(txn *badger.Txn) error {
		prefix := sharedUserPrefix(user)
		it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			key := it.Item().Key()
			if len(key) != len(prefix)+len(TokenHash{}) {
				return fmt.Errorf("%w: %x is no key of a user's token", ErrCorrupt, key)
			}
			t, err := sharedAt(txn, TokenHash(key[len(prefix):]))
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

// Due is at most limit keys of the topic that were to be forgotten by now, in
// the order in which they must be.
func (s *SharedTokens) Due(now time.Time, limit int) (keys []TokenKey, err error) {
	err = s.db.view(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: prefixSharedDue})
		defer it.Close()
		for it.Rewind(); it.Valid() && len(keys) < limit; it.Next() {
			key := it.Item().Key()[len(prefixSharedDue):]
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
