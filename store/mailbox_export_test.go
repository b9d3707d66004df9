package store

import "github.com/dgraph-io/badger/v4"

// DecodeMailbox decodes a value as a meta and as an entry.
func DecodeMailbox(b []byte) (meta *MailboxMeta, entry MailboxEntry, errs [2]error) {
	meta, errs[0] = decodeMeta(b)
	entry, errs[1] = decodeEntry(1, b)
	return meta, entry, errs
}

// EncodeMailbox encodes a meta and an entry.
func EncodeMailbox(m *MailboxMeta, e *MailboxEntry) (meta, entry []byte) {
	return appendMeta(nil, m), appendEntry(nil, e)
}

// MetaExpiresAt returns when Badger lets go of a user's meta, in Unix seconds, or 0 for never.
func MetaExpiresAt(m *Mailboxes, partition int32, user string) (at uint64, err error) {
	err = m.db.view(func(txn *badger.Txn) error {
		item, err := txn.Get(m.userKey(partition, user))
		if err == nil {
			at = item.ExpiresAt()
		}
		return err
	})
	return at, err
}

// BreakMailboxEntry flips a bit of a stored entry.
func BreakMailboxEntry(m *Mailboxes, partition int32, user string, id uint64) error {
	return m.db.update(func(txn *badger.Txn) error {
		item, err := txn.Get(m.idKey(prefixEntry, partition, user, id))
		if err != nil {
			return err
		}
		v, err := item.ValueCopy(nil)
		if err != nil {
			return err
		}
		v[3] ^= 1
		return txn.Set(item.KeyCopy(nil), v)
	})
}
