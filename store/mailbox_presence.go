package store

import (
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// MailboxPresence is what was told last of a user: that it is online, or offline.
type MailboxPresence struct {
	// At is the id of the record that told it.
	At     uint64
	Online bool
	// SinceMS is when the user came or went, as far as the owner knew, Unix milliseconds; 0: it did
	// not.
	SinceMS int64
	// NotedMS is when the newest record that has it was appended to the log, Unix milliseconds.
	NotedMS int64
}

func (p *MailboxPresence) stored() []byte {
	if p == nil {
		return nil
	}
	return appendUints([]byte{flag(1, p.Online)}, p.At, uint64(p.SinceMS), uint64(p.NotedMS))
}

func (c *fieldReader) presence() *MailboxPresence {
	return &MailboxPresence{Online: c.byte() == 1, At: c.uint(), SinceMS: int64(c.uint()), NotedMS: int64(c.uint())}
}

// PutOnline stores whether a user was told to be online, so that Online finds the user. The meta of
// such a user must not expire.
func (b *MailboxBatch) PutOnline(user string, online bool) {
	if key := b.nameKey(prefixOnline, b.partition, user); online {
		b.set(key, nil, time.Time{})
	} else {
		b.del(key)
	}
}

// Online returns users of a partition that were told to be online, in the order of their names, at
// most limit: those after the given name ("", which no user has: from the first). It returns none if
// there are no more.
func (m *Mailboxes) Online(partition int32, after string, limit int) (users []string, err error) {
	prefix := m.partitionKey(prefixOnline, partition, 0)
	err = m.db.each(keysOnly(prefix), m.nameKey(prefixOnline, partition, after), limit, func(item *badger.Item) error {
		users = append(users, string(item.Key()[len(prefix):]))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the users of partition %d that were told to be online: %w", partition, err)
	}
	return users, nil
}
