package store

import (
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// PutOnline stores whether a user was told to be online, so that Online finds the user. The meta of
// such a user must not expire.
func (b *MailboxBatch) PutOnline(user string, online bool) {
	if key := b.nameKey(prefixOnline, b.partition, user); online {
		b.set(key, nil, time.Time{})
	} else {
		b.del(key)
	}
}

// Online returns at most limit users of a partition that were told to be online, in the order of
// their names. They come after the given name. "", which no user has, means from the first. It
// returns none if there are no more.
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
