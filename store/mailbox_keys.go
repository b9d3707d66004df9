package store

import "encoding/binary"

// Key prefixes of the mailboxes. The partition (uint16 BE) comes next in every key, so
// that a partition that has moved away can be dropped by prefix. The name of a user ends
// with a 0 byte, which no name may contain (envelope.CheckName).
//
// These are the keys of the log's first generation. In a later generation partition 1 is
// another one than before, so the prefix is the lower case letter, and the generation
// (uint16 BE) comes before the partition.
const (
	prefixUser     = 'U' // partition, user            → MailboxMeta
	prefixEntry    = 'M' // partition, user, 0, id     → MailboxEntry
	prefixBody     = 'B' // partition, user, 0, id     → op, body (shared: user is empty)
	prefixUsed     = 'I' // partition, user, 0, key    → id that used the idempotency key (a claim's user is empty; see Claim)
	prefixDue      = 'D' // partition, time (uint64 BE), id, user → nothing: a message of the user may be due then
	prefixOnline   = 'O' // partition, user            → nothing: the user was told to be online
	prefixPosition = 'R' // partition                  → id of the last applied record, version of records that the writer read
)

// mailboxPrefixes are all of them. The position's comes first.
var mailboxPrefixes = []byte{prefixPosition, prefixUser, prefixEntry, prefixBody, prefixUsed, prefixDue, prefixOnline}

// keySpace makes the keys of one generation of the log. Its value is the generation.
type keySpace uint16

func (s keySpace) partitionKey(prefix byte, partition int32, extra int) []byte {
	k := make([]byte, 0, 5+extra)
	if s > 1 {
		k = binary.BigEndian.AppendUint16(append(k, laterPrefix(prefix)), uint16(s))
	} else {
		k = append(k, prefix)
	}
	return binary.BigEndian.AppendUint16(k, uint16(partition))
}

// laterPrefix returns what a prefix is in the generations after the first.
func laterPrefix(prefix byte) byte { return prefix | 0x20 }

// partitionPrefixes returns the key prefixes of everything that is stored of a partition.
// The position's comes first.
func (s keySpace) partitionPrefixes(partition int32) (prefixes [][]byte) {
	for _, p := range mailboxPrefixes {
		prefixes = append(prefixes, s.partitionKey(p, partition, 0))
	}
	return prefixes
}

// nameKey returns the key under prefix of a user as a whole.
func (s keySpace) nameKey(prefix byte, partition int32, user string) []byte {
	return append(s.partitionKey(prefix, partition, len(user)), user...)
}

func (s keySpace) userKey(partition int32, user string) []byte {
	return s.nameKey(prefixUser, partition, user)
}

// underUser returns the key prefix of everything that a user has under prefix, with room
// for extra bytes.
func (s keySpace) underUser(prefix byte, partition int32, user string, extra int) []byte {
	k := append(s.partitionKey(prefix, partition, len(user)+1+extra), user...)
	return append(k, 0)
}

func (s keySpace) idKey(prefix byte, partition int32, user string, id uint64) []byte {
	return binary.BigEndian.AppendUint64(s.underUser(prefix, partition, user, 8), id)
}

func (s keySpace) bodyKey(partition int32, user string, e *MailboxEntry) []byte {
	if e.Shared {
		user = ""
	}
	return s.idKey(prefixBody, partition, user, e.ID)
}

// dueKeys returns the keys of the steps of a message that reports: its deadline, if it has one, and its
// expiry. Neither changes.
func (s keySpace) dueKeys(partition int32, user string, e *MailboxEntry) (keys [][]byte) {
	if !e.Reports() {
		return nil
	}
	times := []int64{e.ExpiresMS}
	if d := e.Tracked.DeadlineMS; d > 0 {
		times = append(times, d)
	}
	for _, ms := range times {
		k := binary.BigEndian.AppendUint64(s.partitionKey(prefixDue, partition, 16+len(user)), uint64(ms))
		keys = append(keys, append(binary.BigEndian.AppendUint64(k, e.ID), user...))
	}
	return keys
}

// usedKey returns the key of an idempotency key of a user; no user: of a claim.
func (s keySpace) usedKey(partition int32, user, key string) []byte {
	return append(s.underUser(prefixUsed, partition, user, len(key)), key...)
}
