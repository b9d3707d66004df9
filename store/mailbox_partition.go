package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// MailboxClaim is the record that claimed an idempotency key.
type MailboxClaim struct {
	ID uint64
	// Record is the record's own id, which its doubles have, too; zero: not
	// known (an older version wrote it).
	Record [12]byte
}

func (s space) claimKey(partition int32, key string) []byte {
	return append(s.underUser(prefixUsed, partition, "", len(key)), key...)
}

// Claim remembers until expires which record claimed an idempotency key.
func (b *MailboxBatch) Claim(key string, c MailboxClaim, expires time.Time) {
	b.set(b.claimKey(b.partition, key), append(binary.BigEndian.AppendUint64(nil, c.ID), c.Record[:]...), expires)
}

// Claimed says which record claimed an idempotency key; ok is false when none
// did.
func (m *Mailboxes) Claimed(partition int32, key string) (c MailboxClaim, ok bool, err error) {
	ok, err = m.get(m.claimKey(partition, key), func(raw []byte) error {
		if len(raw) != 8 && len(raw) != 8+len(c.Record) {
			return errMailboxShort
		}
		c.ID = binary.BigEndian.Uint64(raw)
		copy(c.Record[:], raw[8:])
		return nil
	})
	if err != nil {
		err = fmt.Errorf("read the claim of an idempotency key in partition %d: %w", partition, err)
	}
	return c, ok, err
}

// partitionPrefixes are the key prefixes of all that is stored of a partition;
// the position's comes first.
func (s space) partitionPrefixes(partition int32) (prefixes [][]byte) {
	for _, p := range []byte{prefixPosition, prefixUser, prefixEntry, prefixBody, prefixUsed} {
		prefixes = append(prefixes, s.partitionKey(p, partition, 0))
	}
	return prefixes
}

// Empty says whether nothing at all is stored of a partition.
func (m *Mailboxes) Empty(partition int32) (bool, error) {
	empty := true
	err := m.db.view(func(txn *badger.Txn) error {
		for _, prefix := range m.partitionPrefixes(partition) {
			it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix})
			it.Rewind()
			empty = empty && !it.Valid()
			it.Close()
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("look for partition %d: %w", partition, err)
	}
	return empty, nil
}

// MailboxUser is one user with what is stored beside the messages.
type MailboxUser struct {
	Name string
	Meta MailboxMeta
}

// Users reads the users of a partition whose names come after the given one
// ("" for the first), in the order of their names, at most limit. None: there
// are no more.
func (m *Mailboxes) Users(partition int32, after string, limit int) (users []MailboxUser, err error) {
	prefix := m.partitionKey(prefixUser, partition, 0)
	last := m.userKey(partition, after)
	err = m.db.view(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix, PrefetchValues: true, PrefetchSize: 64})
		defer it.Close()
		for it.Seek(last); it.Valid() && len(users) < limit; it.Next() {
			key := it.Item().Key()
			if after != "" && bytes.Equal(key, last) {
				continue
			}
			name := string(key[len(prefix):])
			err := it.Item().Value(func(v []byte) error {
				raw, err := unseal(v)
				if err != nil {
					return err
				}
				meta, err := decodeMeta(raw)
				if err == nil {
					users = append(users, MailboxUser{Name: name, Meta: *meta})
				}
				return err
			})
			if err != nil {
				return fmt.Errorf("user %q: %w", name, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the users of partition %d: %w", partition, err)
	}
	return users, nil
}

// dropChunk is how many keys one transaction of DropPartition deletes.
const dropChunk = 2000

// DropPartition removes all that is stored of a partition, in many small
// transactions, so that other writers do not wait for it; nobody may write to
// this partition meanwhile. (Badger's own DropPrefix stops every write and
// read of the database while it rewrites tables.)
//
// The position goes first: what an interrupted drop leaves is a partition
// without position, to be dropped again or read over from the log's beginning.
func (m *Mailboxes) DropPartition(ctx context.Context, partition int32) error {
	for _, prefix := range m.partitionPrefixes(partition) {
		if err := m.db.dropPrefix(ctx, prefix); err != nil {
			return fmt.Errorf("drop partition %d: %w", partition, err)
		}
	}
	return nil
}

func (db *DB) dropPrefix(ctx context.Context, prefix []byte) error {
	_, err := db.dropRange(ctx, prefix, nil)
	return err
}

// dropRange removes the keys with a prefix that come before until (nil: all),
// in many small transactions, and says whether there were any.
func (db *DB) dropRange(ctx context.Context, prefix, until []byte) (dropped bool, err error) {
	from := prefix
	for {
		if err := ctx.Err(); err != nil {
			return dropped, err
		}
		var keys [][]byte
		err := db.view(func(txn *badger.Txn) error {
			it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix})
			defer it.Close()
			for it.Seek(from); it.Valid() && len(keys) < dropChunk; it.Next() {
				key := it.Item().KeyCopy(nil)
				if until != nil && bytes.Compare(key, until) >= 0 {
					break
				}
				keys = append(keys, key)
			}
			return nil
		})
		if err != nil || len(keys) == 0 {
			return dropped, err
		}
		err = db.update(func(txn *badger.Txn) error {
			for _, key := range keys {
				if err := txn.Delete(key); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return dropped, err
		}
		dropped, from = true, keys[len(keys)-1]
	}
}
