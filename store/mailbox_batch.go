package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// MailboxBatch gathers what changed in a partition. It is for one goroutine.
type MailboxBatch struct {
	db *DB
	space
	partition int32
	// metas are written first: an entry without its user's meta would not be
	// found, should a crash come between the parts of a large batch.
	metas   []*badger.Entry
	entries []*badger.Entry // Value nil: delete
}

// Batch begins a batch of changes to a partition.
func (m *Mailboxes) Batch(partition int32) *MailboxBatch {
	return &MailboxBatch{db: m.db, space: m.space, partition: partition}
}

func (b *MailboxBatch) set(key, raw []byte, expires time.Time) {
	b.entries = append(b.entries, sealed(key, raw, expires))
}

func sealed(key, raw []byte, expires time.Time) *badger.Entry {
	e := badger.NewEntry(key, seal(nil, raw))
	if !expires.IsZero() {
		// Badger's clock has whole seconds: never early.
		e.ExpiresAt = uint64(expires.Unix() + 1)
	}
	return e
}

func (b *MailboxBatch) del(key []byte) {
	b.entries = append(b.entries, &badger.Entry{Key: key})
}

// PutMeta stores what is known of a user until expires, which must be after
// the user's last message expires: a user without meta has no messages.
func (b *MailboxBatch) PutMeta(user string, m *MailboxMeta, expires time.Time) {
	b.metas = append(b.metas, sealed(b.userKey(b.partition, user), appendMeta(nil, m), expires))
}

// PutEntry stores a pending message's entry until the message expires.
func (b *MailboxBatch) PutEntry(user string, e *MailboxEntry) {
	b.set(b.idKey(prefixEntry, b.partition, user, e.ID), appendEntry(nil, e), time.UnixMilli(e.ExpiresMS))
}

// PutBody stores a message's body until the message expires; once a record is
// enough where the entry says Shared.
func (b *MailboxBatch) PutBody(user string, e *MailboxEntry, body MailboxBody) {
	raw := make([]byte, 0, len(body.Body)+6)
	raw = append(raw, mailboxFormat)
	raw = binary.AppendUvarint(raw, uint64(uint32(body.Op)))
	raw = append(raw, body.Body...)
	b.set(b.bodyKey(b.partition, user, e), raw, time.UnixMilli(e.ExpiresMS))
}

// Delete removes a message from a user's mailbox. A shared body stays until
// it expires: other users' entries may still need it.
func (b *MailboxBatch) Delete(user string, e *MailboxEntry) {
	b.del(b.idKey(prefixEntry, b.partition, user, e.ID))
	if !e.Shared {
		b.del(b.bodyKey(b.partition, user, e))
	}
}

// Use remembers until expires that id used an idempotency key for a user.
func (b *MailboxBatch) Use(user, key string, id uint64, expires time.Time) {
	k := append(b.underUser(prefixUsed, b.partition, user, len(key)), key...)
	b.set(k, binary.BigEndian.AppendUint64(nil, id), expires)
}

// Commit writes the batch, and with it that everything up to position has
// been applied, in one transaction, which a loss of power may take back as a
// whole. A batch that is too large for one is written in several, the position
// in the last: a crash between them makes the records be applied again over
// what they had changed, which router's rules allow for.
func (b *MailboxBatch) Commit(position uint64) error {
	if err := b.db.disk.essential(); err != nil {
		return fmt.Errorf("write batch of partition %d: %w", b.partition, err)
	}
	b.set(b.partitionKey(prefixPosition, b.partition, 0), binary.BigEndian.AppendUint64(nil, position), time.Time{})
	for rest := append(b.metas, b.entries...); len(rest) > 0; {
		n := 0
		err := b.db.updateLater(func(txn *badger.Txn) error {
			for n < len(rest) {
				var err error
				if e := rest[n]; e.Value == nil {
					err = txn.Delete(e.Key)
				} else {
					err = txn.SetEntry(e)
				}
				if errors.Is(err, badger.ErrTxnTooBig) && n > 0 {
					return nil
				}
				if err != nil {
					return err
				}
				n++
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("commit batch of partition %d: %w", b.partition, err)
		}
		rest = rest[n:]
	}
	return nil
}
