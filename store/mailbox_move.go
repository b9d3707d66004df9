package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// UsedKey is an idempotency key as it is stored. A claim has no User, and has a Record.
type UsedKey struct {
	User, Key string
	ID        uint64
	Record    [12]byte
	// Expires is when the store deletes it; never early.
	Expires time.Time
}

// Keys returns idempotency keys of a partition, claims first, at most limit: those after
// the given one (the zero UsedKey: from the first). It returns none if there are no more.
func (m *Mailboxes) Keys(partition int32, after UsedKey, limit int) (keys []UsedKey, err error) {
	prefix := m.partitionKey(prefixUsed, partition, 0)
	last := m.usedKey(partition, after.User, after.Key)
	err = m.db.each(withValues(prefix), last, limit, func(item *badger.Item) error {
		name := item.Key()
		user, key, ok := bytes.Cut(name[len(prefix):], []byte{0})
		if !ok {
			return fmt.Errorf("key %x names no user", name)
		}
		k := UsedKey{User: string(user), Key: string(key)}
		if at := item.ExpiresAt(); at > 0 {
			k.Expires = time.Unix(int64(at), 0)
		}
		err := readItem(item, func(raw []byte) error {
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
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the idempotency keys of partition %d: %w", partition, err)
	}
	return keys, nil
}

// DropOlder removes everything that is stored of earlier generations of the log, as
// DropPartition does. Nobody may write to those meanwhile. It reports whether there was
// anything.
func (m *Mailboxes) DropOlder(ctx context.Context) (dropped bool, err error) {
	if m.keySpace <= 1 {
		return false, nil
	}
	drop := func(prefix, until []byte) {
		var some bool
		if err == nil {
			some, err = m.db.dropRange(ctx, prefix, until)
			dropped = dropped || some
		}
	}
	for _, prefix := range mailboxPrefixes {
		drop([]byte{prefix}, nil) // the first generation
		drop([]byte{laterPrefix(prefix)}, binary.BigEndian.AppendUint16([]byte{laterPrefix(prefix)}, uint16(m.keySpace)))
	}
	if err != nil {
		return dropped, fmt.Errorf("drop the mailboxes of generations before %d: %w", m.keySpace, err)
	}
	return dropped, nil
}
