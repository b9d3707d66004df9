package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// MailboxClaim is the record that claimed an idempotency key.
type MailboxClaim struct {
	ID uint64
	// Record is the record's own id, which its duplicates have as well.
	Record [12]byte
}

// Claim stores until expires which record claimed an idempotency key.
func (b *MailboxBatch) Claim(key string, c MailboxClaim, expires time.Time) {
	b.set(b.usedKey(b.partition, "", key), append(binary.BigEndian.AppendUint64(nil, c.ID), c.Record[:]...), expires)
}

// Claimed returns the record that claimed an idempotency key; ok is false if none did.
func (m *Mailboxes) Claimed(partition int32, key string) (c MailboxClaim, ok bool, err error) {
	ok, err = m.get(m.usedKey(partition, "", key), func(raw []byte) error {
		if len(raw) != 8+len(c.Record) {
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

// Empty reports whether nothing at all is stored of a partition.
func (m *Mailboxes) Empty(partition int32) (bool, error) {
	empty := true
	err := m.db.view(func(txn *badger.Txn) error {
		for _, prefix := range m.partitionPrefixes(partition) {
			empty = empty && !hasKeys(txn, prefix)
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

// Users returns users of a partition in the order of their names, at most limit: those
// after the given name ("", which no user has: from the first). It returns none if there are no more.
func (m *Mailboxes) Users(partition int32, after string, limit int) (users []MailboxUser, err error) {
	prefix := m.partitionKey(prefixUser, partition, 0)
	err = m.db.each(withValues(prefix), m.userKey(partition, after), limit, func(item *badger.Item) error {
		name := string(item.Key()[len(prefix):])
		var meta *MailboxMeta
		err := readItem(item, func(raw []byte) (err error) {
			meta, err = decodeMeta(raw)
			return err
		})
		if err != nil {
			return fmt.Errorf("user %q: %w", name, err)
		}
		users = append(users, MailboxUser{Name: name, Meta: *meta})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the users of partition %d: %w", partition, err)
	}
	return users, nil
}

// DropPartition removes everything that is stored of a partition, in many small
// transactions, so that other writers do not wait for it. Nobody may write to this
// partition meanwhile.
//
// The position goes first. An interrupted drop leaves a partition without a position,
// which must be dropped again, or applied from the beginning of the log.
func (m *Mailboxes) DropPartition(ctx context.Context, partition int32) error {
	for _, prefix := range m.partitionPrefixes(partition) {
		if err := m.db.dropPrefix(ctx, prefix); err != nil {
			return fmt.Errorf("drop partition %d: %w", partition, err)
		}
	}
	return nil
}
