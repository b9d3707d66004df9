package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// UsedKey is an idempotency key as it is stored. Of a claim User is empty, and
// Record set.
type UsedKey struct {
	User, Key string
	ID        uint64
	Record    [12]byte
	// Expires is when the store forgets it; never early.
	Expires time.Time
}

// Keys reads idempotency keys of a partition, claims first, that come after
// the given one (the zero UsedKey for the first), at most limit. None: there
// are no more.
func (m *Mailboxes) Keys(partition int32, after UsedKey, limit int) (keys []UsedKey, err error) {
	prefix := m.partitionKey(prefixUsed, partition, 0)
	last := append(m.underUser(prefixUsed, partition, after.User, len(after.Key)), after.Key...)
	err = m.db.view(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix, PrefetchValues: true, PrefetchSize: 64})
		defer it.Close()
		for it.Seek(last); it.Valid() && len(keys) < limit; it.Next() {
			item := it.Item()
			name := item.Key()
			if after != (UsedKey{}) && bytes.Equal(name, last) {
				continue
			}
			user, key, ok := bytes.Cut(name[len(prefix):], []byte{0})
			if !ok {
				return fmt.Errorf("key %x names no user", name)
			}
			k := UsedKey{User: string(user), Key: string(key)}
			if at := item.ExpiresAt(); at > 0 {
				k.Expires = time.Unix(int64(at), 0)
			}
			err := item.Value(func(v []byte) error {
				raw, err := unseal(v)
				if err != nil {
					return err
				}
				if len(raw) < 8 {
					return errMailboxShort
				}
				k.ID = binary.BigEndian.Uint64(raw)
				copy(k.Record[:], raw[8:])
				return nil
			})
			if err != nil {
				return fmt.Errorf("key of user %q: %w", user, err)
			}
			keys = append(keys, k)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the idempotency keys of partition %d: %w", partition, err)
	}
	return keys, nil
}

// DropOlder removes all that is stored of the log's generations before this
// one, as DropPartition does; nobody may write to those meanwhile. It says
// whether there was anything.
func (m *Mailboxes) DropOlder(ctx context.Context) (dropped bool, err error) {
	if m.space <= 1 {
		return false, nil
	}
	drop := func(prefix, until []byte) {
		var some bool
		if err == nil {
			some, err = m.db.dropRange(ctx, prefix, until)
			dropped = dropped || some
		}
	}
	for _, prefix := range []byte{prefixPosition, prefixUser, prefixEntry, prefixBody, prefixUsed} {
		drop([]byte{prefix}, nil) // the first generation
		drop([]byte{later(prefix)}, binary.BigEndian.AppendUint16([]byte{later(prefix)}, uint16(m.space)))
	}
	if err != nil {
		return dropped, fmt.Errorf("drop the mailboxes of generations before %d: %w", m.space, err)
	}
	return dropped, nil
}
