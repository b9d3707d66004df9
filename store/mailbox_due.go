package store

import (
	"encoding/binary"
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// DueTime is a time at which a message of a user may need something done: its deadline, or the end of its ttl. It is in Unix
// milliseconds.
type DueTime struct {
	TimeMS int64
	ID     uint64
	User   string
}

// Dues returns at most limit due times of a partition, in order, up to the time untilMS. They come after the given one. The
// zero value of after means from the first. next is the first time that Dues leaves out. ok is false if there is none.
func (m *Mailboxes) Dues(partition int32, after DueTime, untilMS int64, limit int) (dues []DueTime, next int64, ok bool, err error) {
	prefix := m.partitionKey(prefixDue, partition, 0)
	last := binary.BigEndian.AppendUint64(m.partitionKey(prefixDue, partition, 16), uint64(after.TimeMS))
	last = append(binary.BigEndian.AppendUint64(last, after.ID), after.User...)
	err = m.db.view(func(txn *badger.Txn) error {
		for item := range items(txn, keysOnly(prefix), last) {
			key := item.Key()
			rest := key[len(prefix):]
			if len(rest) < 16 {
				return fmt.Errorf("key %x is too short", key)
			}
			d := DueTime{int64(binary.BigEndian.Uint64(rest)), binary.BigEndian.Uint64(rest[8:]), string(rest[16:])}
			if d.TimeMS > untilMS || len(dues) >= limit {
				next, ok = d.TimeMS, true
				return nil
			}
			dues = append(dues, d)
		}
		return nil
	})
	if err != nil {
		return nil, 0, false, fmt.Errorf("read the due times of partition %d: %w", partition, err)
	}
	return dues, next, ok, nil
}
