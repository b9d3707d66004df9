package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// ClockSlack is how long after its expiry a message stays in the store, unless it is deleted. Badger
// goes by the clock of this machine, which may be ahead of the one that the expiry is meant by. The
// caller decides what has expired.
const ClockSlack = 3 * time.Hour

// MailboxBatch collects changes of a partition. It is for one goroutine.
type MailboxBatch struct {
	db *DB
	keySpace
	partition int32
	version   uint32
	// metas are written first: after a crash between the parts of a large batch, an entry
	// without its user's meta would not be found.
	metas   []*badger.Entry
	entries []*badger.Entry // Value nil: delete
	erased  []erasedKeys
}

// erasedKeys are the idempotency keys of a user that messages before an id used.
type erasedKeys struct {
	user   string
	before uint64
}

// Batch begins a batch of changes to a partition.
func (m *Mailboxes) Batch(partition int32) *MailboxBatch {
	return &MailboxBatch{db: m.db, keySpace: m.keySpace, partition: partition, version: m.version}
}

func (b *MailboxBatch) set(key, raw []byte, expires time.Time) {
	b.entries = append(b.entries, newEntry(key, raw, expires))
}

// newEntry returns an entry with a checksum that expires at a time; the zero time: never.
func newEntry(key, raw []byte, expires time.Time) *badger.Entry {
	e := badger.NewEntry(key, appendChecksummed(nil, raw))
	if !expires.IsZero() {
		// Badger counts whole seconds; rounded up, so that nothing expires early.
		e.ExpiresAt = uint64(expires.Unix() + 1)
	}
	return e
}

func (b *MailboxBatch) del(key []byte) {
	b.entries = append(b.entries, &badger.Entry{Key: key})
}

// PutMeta stores the meta of a user until ClockSlack after expires, or for ever if that is the zero time. It must
// not expire before the user's last message does: a user without meta has no messages.
func (b *MailboxBatch) PutMeta(user string, m *MailboxMeta, expires time.Time) {
	if !expires.IsZero() {
		expires = expires.Add(ClockSlack)
	}
	b.metas = append(b.metas, newEntry(b.userKey(b.partition, user), appendMeta(nil, m), expires))
}

// PutEntry stores a pending message's entry until ClockSlack after the message expires.
func (b *MailboxBatch) PutEntry(user string, e *MailboxEntry) {
	b.set(b.idKey(prefixEntry, b.partition, user, e.ID), appendEntry(nil, e), time.UnixMilli(e.ExpiresMS).Add(ClockSlack))
}

// PutBody stores a message's body as long as its entry. A body that is Shared need be
// stored only once for its record.
func (b *MailboxBatch) PutBody(user string, e *MailboxEntry, body MailboxBody) {
	raw := make([]byte, 0, len(body.Body)+6)
	raw = appendUints(append(raw, mailboxFormat), uint64(uint32(body.Op)))
	raw = append(raw, body.Body...)
	b.set(b.bodyKey(b.partition, user, e), raw, time.UnixMilli(e.ExpiresMS).Add(ClockSlack))
}

// PutDue stores when a message that reports has steps to take, as long as its entry. It does nothing
// for another message.
func (b *MailboxBatch) PutDue(user string, e *MailboxEntry) {
	for _, key := range b.dueKeys(b.partition, user, e) {
		b.set(key, nil, time.UnixMilli(e.ExpiresMS).Add(ClockSlack))
	}
}

// Delete removes a message from a user's mailbox. A shared body stays until it expires:
// entries of other users may still need it.
func (b *MailboxBatch) Delete(user string, e *MailboxEntry) {
	b.del(b.idKey(prefixEntry, b.partition, user, e.ID))
	for _, key := range b.dueKeys(b.partition, user, e) {
		b.del(key)
	}
	if !e.Shared {
		b.del(b.bodyKey(b.partition, user, e))
	}
}

// Use stores until expires that a message used an idempotency key for a user.
func (b *MailboxBatch) Use(user, key string, id uint64, expires time.Time) {
	b.set(b.usedKey(b.partition, user, key), binary.BigEndian.AppendUint64(nil, id), expires)
}

// DeleteMeta removes the meta of a user who has no message.
func (b *MailboxBatch) DeleteMeta(user string) { b.del(b.userKey(b.partition, user)) }

// EraseKeys removes the idempotency keys of a user that messages before an id used.
func (b *MailboxBatch) EraseKeys(user string, before uint64) {
	b.erased = append(b.erased, erasedKeys{user, before})
}

// eraseKeys adds the deletion of keys to the batch, before what it writes.
func (b *MailboxBatch) eraseKeys() error {
	var gone []*badger.Entry
	for _, e := range b.erased {
		prefix := b.underUser(prefixUsed, b.partition, e.user, 0)
		err := b.db.each(keysOnly(prefix), nil, math.MaxInt, func(item *badger.Item) error {
			return readItem(item, func(raw []byte) error {
				if len(raw) >= 8 && binary.BigEndian.Uint64(raw) < e.before {
					gone = append(gone, &badger.Entry{Key: item.KeyCopy(nil)})
				}
				return nil
			})
		})
		if err != nil {
			return fmt.Errorf("read the idempotency keys of user %q: %w", e.user, err)
		}
	}
	b.entries = append(gone, b.entries...)
	return nil
}

// Commit writes the batch and the position, up to which every record was applied, in one
// transaction. A power loss may take it back as a whole. A batch that is too large for one
// transaction is written in several, with the position in the last one. After a crash
// between them, records are applied again over their own changes, which has no effect.
func (b *MailboxBatch) Commit(position uint64) error {
	b.db.opt.Faults.commitMailboxes(b.partition)
	if err := b.db.disk.essential(); err != nil {
		return fmt.Errorf("write batch of partition %d: %w", b.partition, err)
	}
	if err := b.eraseKeys(); err != nil {
		return err
	}
	b.set(b.partitionKey(prefixPosition, b.partition, 0), appendUints(nil, position, uint64(b.version)), time.Time{})
	for rest := append(b.metas, b.entries...); len(rest) > 0; {
		n := 0
		err := b.db.updateLater(func(txn *badger.Txn) (err error) {
			n, err = writeEntries(txn, rest)
			return err
		})
		if err != nil {
			return fmt.Errorf("commit batch of partition %d: %w", b.partition, err)
		}
		rest = rest[n:]
	}
	return nil
}

// writeEntries adds entries to a transaction until it is full. It returns how many it has
// added.
func writeEntries(txn *badger.Txn, entries []*badger.Entry) (n int, err error) {
	for _, e := range entries {
		if e.Value == nil {
			err = txn.Delete(e.Key)
		} else {
			err = txn.SetEntry(e)
		}
		if errors.Is(err, badger.ErrTxnTooBig) && n > 0 {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
