package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"imgo/envelope"
)

// Key prefixes of the mailboxes. Every key goes on with the partition (uint16
// BE), so that a partition that moved away can be dropped by prefix. A user's
// name ends with a 0 byte, which no name may contain (envelope.CheckName).
//
// Those are the keys of the log's first generation. In a later one, where a
// partition is another one of the same number, the prefix is the lower case
// letter and the generation (uint16 BE) comes before the partition.
const (
	prefixUser     = 'U' // partition, user            → MailboxMeta
	prefixEntry    = 'M' // partition, user, 0, id     → MailboxEntry
	prefixBody     = 'B' // partition, user, 0, id     → op, body (shared: user is empty)
	prefixUsed     = 'I' // partition, user, 0, key    → id that used the idempotency key (a claim's user is empty; see Claim)
	prefixPosition = 'R' // partition                  → id of the last applied record
)

// mailboxFormat is the first byte of every mailbox value: a node that meets a
// newer one refuses it instead of misreading it.
const mailboxFormat = 1

// MailboxDevice is one cursor of a user's mailbox.
type MailboxDevice struct {
	// Name is the device's; empty for the default cursor.
	Name string
	// Bit is its place in MailboxEntry.Waiting, 0 to 63.
	Bit uint8
	// Since is the id of the record that made the device known: it covers
	// only messages after it, and those before that nobody had acknowledged.
	Since uint64
	// SeenMS is when the device was last connected, Unix milliseconds.
	SeenMS int64
	// NotedMS is when the newest record about the device was appended to the
	// log, Unix milliseconds; 0: not known.
	NotedMS int64
}

// MailboxMeta is what is stored of a user beside the messages.
type MailboxMeta struct {
	Devices []MailboxDevice
	// LastMS is the largest message time given so far (2016's message ids,
	// unique and growing within the user), Unix milliseconds.
	LastMS int64
	// Dropped counts messages that the bound on length cost.
	Dropped uint64
	// Moved is the id of the record that completed the mailbox's move from the
	// log's generation before; 0: it did not come from there.
	Moved uint64
}

// MailboxEntry is one pending message, without its body.
type MailboxEntry struct {
	ID        uint64
	TimeMS    int64
	ExpiresMS int64
	// Waiting has the bit of every device that has yet to acknowledge.
	Waiting uint64
	// Acked: some device has acknowledged it, so later devices start without.
	Acked bool
	// Unclaimed: no device was known; it waits for the first one.
	Unclaimed bool
	// Shared: the body is stored once for all users of the record.
	Shared bool
	// Size is the body's, in bytes.
	Size int32
}

// MailboxBody is a message's operation and body, as they are stored.
type MailboxBody struct {
	Op   int32
	Body []byte
}

// Mailboxes persists what router knows of its users: a view of the kept log,
// written behind it. It is safe for concurrent use; the order of commits of
// one partition is its caller's to keep.
type Mailboxes struct {
	db *DB
	space
}

// NewMailboxes is the mailboxes' view of db, for the log's first generation.
func NewMailboxes(db *DB) *Mailboxes { return &Mailboxes{db, 1} }

// Of is the mailboxes of a generation of the log, from 1.
func (m *Mailboxes) Of(generation uint16) *Mailboxes { return &Mailboxes{m.db, space(generation)} }

// space is where a generation's keys are: its number.
type space uint16

func (s space) partitionKey(prefix byte, partition int32, extra int) []byte {
	k := make([]byte, 0, 5+extra)
	if s > 1 {
		k = binary.BigEndian.AppendUint16(append(k, later(prefix)), uint16(s))
	} else {
		k = append(k, prefix)
	}
	return binary.BigEndian.AppendUint16(k, uint16(partition))
}

// later is what a prefix is in the generations after the first.
func later(prefix byte) byte { return prefix | 0x20 }

func (s space) userKey(partition int32, user string) []byte {
	return append(s.partitionKey(prefixUser, partition, len(user)), user...)
}

// underUser is the key prefix of all that a user has under prefix.
func (s space) underUser(prefix byte, partition int32, user string, extra int) []byte {
	k := append(s.partitionKey(prefix, partition, len(user)+1+extra), user...)
	return append(k, 0)
}

func (s space) idKey(prefix byte, partition int32, user string, id uint64) []byte {
	return binary.BigEndian.AppendUint64(s.underUser(prefix, partition, user, 8), id)
}

func (s space) bodyKey(partition int32, user string, e *MailboxEntry) []byte {
	if e.Shared {
		user = ""
	}
	return s.idKey(prefixBody, partition, user, e.ID)
}

// errMailboxShort is what a cut-off value decodes to.
var errMailboxShort = errors.New("value is cut off")

func appendMeta(b []byte, m *MailboxMeta) []byte {
	b = append(b, mailboxFormat)
	b = binary.AppendUvarint(b, uint64(m.LastMS))
	b = binary.AppendUvarint(b, m.Dropped)
	b = binary.AppendUvarint(b, uint64(len(m.Devices)))
	for _, d := range m.Devices {
		b = binary.AppendUvarint(b, uint64(len(d.Name)))
		b = append(b, d.Name...)
		b = append(b, d.Bit)
		b = binary.AppendUvarint(b, d.Since)
		b = binary.AppendUvarint(b, uint64(d.SeenMS))
	}
	// Last and one for each device: older versions neither write nor read it.
	for _, d := range m.Devices {
		b = binary.AppendUvarint(b, uint64(d.NotedMS))
	}
	if m.Moved > 0 {
		b = binary.AppendUvarint(b, m.Moved)
	}
	return b
}

// cursor reads a value's fields in order; the first error sticks.
type cursor struct {
	b   []byte
	err error
}

func newCursor(b []byte) *cursor {
	c := &cursor{b: b}
	if f := c.byte(); c.err == nil && f != mailboxFormat {
		c.err = fmt.Errorf("format %d is not one that this version reads", f)
	}
	return c
}

func (c *cursor) byte() byte {
	if len(c.b) == 0 {
		c.fail()
		return 0
	}
	v := c.b[0]
	c.b = c.b[1:]
	return v
}

func (c *cursor) fail() {
	if c.err == nil {
		c.err = errMailboxShort
	}
	c.b = nil
}

func (c *cursor) uint() uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.fail()
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) bytes() []byte {
	n := c.uint()
	if n > uint64(len(c.b)) {
		c.fail()
		return nil
	}
	v := c.b[:n]
	c.b = c.b[n:]
	return v
}

func decodeMeta(b []byte) (*MailboxMeta, error) {
	c := newCursor(b)
	m := &MailboxMeta{LastMS: int64(c.uint()), Dropped: c.uint()}
	for n := c.uint(); n > 0 && c.err == nil; n-- {
		m.Devices = append(m.Devices, MailboxDevice{
			Name: string(c.bytes()), Bit: c.byte(), Since: c.uint(), SeenMS: int64(c.uint()),
		})
	}
	if len(c.b) > 0 {
		for i := range m.Devices {
			m.Devices[i].NotedMS = int64(c.uint())
		}
	}
	if len(c.b) > 0 {
		m.Moved = c.uint()
	}
	return m, c.err
}

// The flags of a stored entry.
const (
	entryAcked     = 1 << 0
	entryUnclaimed = 1 << 1
	entryShared    = 1 << 2
)

func appendEntry(b []byte, e *MailboxEntry) []byte {
	var flags byte
	if e.Acked {
		flags |= entryAcked
	}
	if e.Unclaimed {
		flags |= entryUnclaimed
	}
	if e.Shared {
		flags |= entryShared
	}
	b = append(b, mailboxFormat, flags)
	b = binary.AppendUvarint(b, uint64(e.TimeMS))
	b = binary.AppendUvarint(b, uint64(e.ExpiresMS))
	b = binary.AppendUvarint(b, e.Waiting)
	return binary.AppendUvarint(b, uint64(e.Size))
}

func decodeEntry(id uint64, b []byte) (MailboxEntry, error) {
	c := newCursor(b)
	flags := c.byte()
	e := MailboxEntry{
		ID: id, TimeMS: int64(c.uint()), ExpiresMS: int64(c.uint()), Waiting: c.uint(), Size: int32(c.uint()),
		Acked: flags&entryAcked != 0, Unclaimed: flags&entryUnclaimed != 0, Shared: flags&entryShared != 0,
	}
	return e, c.err
}

// Load reads a user: the meta (nil when nothing is stored) and the entries in
// the order of their ids. What has expired is left out. A value that does not
// decode or fails its checksum is an error that names the user.
func (m *Mailboxes) Load(partition int32, user string) (*MailboxMeta, []MailboxEntry, error) {
	m.db.opt.Faults.readMailbox(partition, user)
	var meta *MailboxMeta
	var entries []MailboxEntry
	err := m.db.view(func(txn *badger.Txn) error {
		item, err := txn.Get(m.userKey(partition, user))
		switch {
		case errors.Is(err, badger.ErrKeyNotFound):
			// No meta, no entries: see PutMeta. An iterator costs ten times
			// what a missing key does, and most users have nothing.
			return nil
		case err != nil:
			return err
		default:
			err := item.Value(func(v []byte) error {
				raw, err := unseal(v)
				if err == nil {
					meta, err = decodeMeta(raw)
				}
				return err
			})
			if err != nil {
				return fmt.Errorf("devices: %w", err)
			}
		}
		prefix := m.underUser(prefixEntry, partition, user, 0)
		it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix, PrefetchValues: true, PrefetchSize: 64})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			k := it.Item().Key()
			if len(k) != len(prefix)+8 {
				return fmt.Errorf("entry key has %d bytes, want %d", len(k), len(prefix)+8)
			}
			id := binary.BigEndian.Uint64(k[len(prefix):])
			err := it.Item().Value(func(v []byte) error {
				raw, err := unseal(v)
				if err != nil {
					return err
				}
				e, err := decodeEntry(id, raw)
				entries = append(entries, e)
				return err
			})
			if err != nil {
				return fmt.Errorf("entry %d: %w", id, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("load mailbox of user %q in partition %d: %w", user, partition, err)
	}
	return meta, entries, nil
}

// manyBodies is from how many on bodies are read one after the other from
// where they lie, instead of each by a search of its own.
const manyBodies = 8

// Bodies reads the bodies of a user's stored entries, in their order, and gives
// the messages; nil for one that is gone (it was deleted or has expired
// meanwhile). They share memory: it is held as long as any of them is.
func (m *Mailboxes) Bodies(partition int32, user string, entries []MailboxEntry) ([]*envelope.Kept, error) {
	m.db.opt.Faults.readMailbox(partition, user)
	out := make([]*envelope.Kept, len(entries))
	all := bodies{held: make([]envelope.Kept, 0, len(entries))}
	for i := range entries {
		all.room += int(entries[i].Size)
	}
	err := m.db.view(func(txn *badger.Txn) error {
		var near *badger.Iterator
		own := m.underUser(prefixBody, partition, user, 8) // with room for an id
		if len(entries) >= manyBodies {
			near = txn.NewIterator(badger.IteratorOptions{Prefix: own})
			defer near.Close()
		}
		for i := range entries {
			var item *badger.Item
			var err error
			// A user's own bodies lie side by side, in the order of their ids;
			// shared ones do not.
			if near != nil && !entries[i].Shared {
				item = seekBody(near, binary.BigEndian.AppendUint64(own, entries[i].ID))
			} else if item, err = txn.Get(m.bodyKey(partition, user, &entries[i])); errors.Is(err, badger.ErrKeyNotFound) {
				item, err = nil, nil
			}
			if item != nil && err == nil {
				out[i], err = all.read(item, &entries[i])
			}
			if err != nil {
				return fmt.Errorf("body %d: %w", entries[i].ID, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read messages of user %q in partition %d: %w", user, partition, err)
	}
	return out, nil
}

// seekBody is what is at key; nil for nothing. It looks next to where the
// iterator is before it searches.
func seekBody(it *badger.Iterator, key []byte) *badger.Item {
	if it.Valid() {
		it.Next()
	}
	if !it.Valid() || !bytes.Equal(it.Item().Key(), key) {
		it.Seek(key)
	}
	if !it.Valid() || !bytes.Equal(it.Item().Key(), key) {
		return nil
	}
	return it.Item()
}

// bodies are read into few pieces of memory.
type bodies struct {
	held []envelope.Kept // of capacity for all: they must not move
	text []byte
	room int // how many bytes of text are to be expected
}

func (b *bodies) read(item *badger.Item, e *MailboxEntry) (kept *envelope.Kept, err error) {
	err = item.Value(func(v []byte) error {
		raw, err := unseal(v)
		if err != nil {
			return err
		}
		c := newCursor(raw)
		op := int32(c.uint())
		if c.err != nil {
			return c.err
		}
		if b.text == nil {
			b.text = make([]byte, 0, b.room)
		}
		if cap(b.text)-len(b.text) < len(c.b) { // an entry's size is not true
			b.text = make([]byte, 0, len(c.b))
		}
		at := len(b.text)
		b.text = append(b.text, c.b...)
		b.held = b.held[:len(b.held)+1]
		kept = &b.held[len(b.held)-1]
		kept.Id, kept.TimeMs, kept.Op, kept.Body = e.ID, e.TimeMS, op, b.text[at:len(b.text):len(b.text)]
		return nil
	})
	return kept, err
}

// get reads one sealed value; ok is false when there is none.
func (m *Mailboxes) get(key []byte, read func(raw []byte) error) (ok bool, err error) {
	err = m.db.view(func(txn *badger.Txn) error {
		item, err := txn.Get(key)
		if errors.Is(err, badger.ErrKeyNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return item.Value(func(b []byte) error {
			raw, err := unseal(b)
			if err == nil {
				err = read(raw)
			}
			ok = err == nil
			return err
		})
	})
	return ok, err
}

// getUint reads one sealed 8-byte number; ok is false when there is none.
func (m *Mailboxes) getUint(key []byte) (v uint64, ok bool, err error) {
	ok, err = m.get(key, func(raw []byte) error {
		if len(raw) != 8 {
			return errMailboxShort
		}
		v = binary.BigEndian.Uint64(raw)
		return nil
	})
	return v, ok, err
}

// Used says which message used an idempotency key for a user.
func (m *Mailboxes) Used(partition int32, user, key string) (id uint64, ok bool, err error) {
	m.db.opt.Faults.readMailbox(partition, user)
	id, ok, err = m.getUint(append(m.underUser(prefixUsed, partition, user, len(key)), key...))
	if err != nil {
		err = fmt.Errorf("read idempotency key of user %q in partition %d: %w", user, partition, err)
	}
	return id, ok, err
}

// Position is the id of the last record that was applied to the partition;
// ok is false for a partition that this disk knows nothing of.
func (m *Mailboxes) Position(partition int32) (id uint64, ok bool, err error) {
	id, ok, err = m.getUint(m.partitionKey(prefixPosition, partition, 0))
	if err != nil {
		err = fmt.Errorf("read position of partition %d: %w", partition, err)
	}
	return id, ok, err
}
