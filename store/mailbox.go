package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"imgo/envelope"
)

// MailboxEntry is one pending message, without its body.
type MailboxEntry struct {
	ID        uint64
	TimeMS    int64
	ExpiresMS int64
	// Waiting has the bit of every device that has yet to acknowledge.
	Waiting uint64
	// Acked is set when a device has acknowledged it; devices that become known later do
	// not get it.
	Acked bool
	// Unclaimed is set when no device was known; it waits for the first one.
	Unclaimed bool
	// Shared is set when the body is stored once for all users of the record.
	Shared bool
	// Size is the size of the body, in bytes.
	Size int32
	// Tracked is what is known beside that if the push asked for a report, or has a ref. It is nil
	// otherwise.
	Tracked *MailboxTracked
}

// MailboxTracked is what is known of a message for its report.
type MailboxTracked struct {
	// Ref is the caller's own name of the message.
	Ref string
	// PushedMS is the time of the push's record, Unix milliseconds. MailboxEntry.TimeMS may be later,
	// and depends on what was applied before.
	PushedMS int64
	// Level is an events.Level.
	Level uint32
	// DeadlineMS is when the message is reported as undelivered, in Unix milliseconds. 0 means never.
	// DeadlineAny is set if one device that still waits is enough for a missed deadline.
	DeadlineMS  int64
	DeadlineAny bool
	// Decided is set once it is decided whether the deadline was met.
	Decided bool
	// Receipts are the acknowledgements in their order.
	Receipts []MailboxReceipt
	// Without are devices that were forgotten while the message waited for them, the newest ones.
	Without []string
}

// MailboxReceipt is one device's acknowledgement, at Unix milliseconds.
type MailboxReceipt struct {
	Device string
	TimeMS int64
}

// Reports reports whether events are told of the message. Then only records of the log decide
// what becomes of it, and no clock.
func (e *MailboxEntry) Reports() bool {
	return e.Tracked != nil && (e.Tracked.Level > 0 || e.Tracked.DeadlineMS > 0)
}

// MailboxBody is a message's operation and body, as they are stored.
type MailboxBody struct {
	Op   int32
	Body []byte
}

// Mailboxes stores what router remembers of its users: a view of the kept log, written
// behind it. It is safe for concurrent use, but the caller must keep the commits of one
// partition in order.
type Mailboxes struct {
	db *DB
	keySpace
	// version is the version of records that the writer of the mailboxes reads.
	version uint32
}

// NewMailboxes returns the mailboxes in db, for the log's first generation and a writer that
// reads all records that this program reads.
func NewMailboxes(db *DB) *Mailboxes { return &Mailboxes{db, 1, envelope.RecordVersion} }

// ForGeneration returns the mailboxes of a generation of the log, from 1.
func (m *Mailboxes) ForGeneration(generation uint16) *Mailboxes {
	return &Mailboxes{m.db, keySpace(generation), m.version}
}

// DerivedBy returns the mailboxes for a writer that reads records up to a version, from 1.
func (m *Mailboxes) DerivedBy(version uint32) *Mailboxes {
	return &Mailboxes{m.db, m.keySpace, version}
}

// Load reads the meta of a user (nil: nothing is stored) and the entries in the order of
// their ids. Some may have expired: see ClockSlack. A value that is broken or cannot be decoded
// is an error that names the user.
func (m *Mailboxes) Load(partition int32, user string) (*MailboxMeta, []MailboxEntry, error) {
	m.db.opt.Faults.readMailbox(partition, user)
	var meta *MailboxMeta
	var entries []MailboxEntry
	err := m.db.view(func(txn *badger.Txn) (err error) {
		if meta, err = m.loadMeta(txn, partition, user); err != nil {
			return fmt.Errorf("devices: %w", err)
		}
		// No meta, no entries: see PutMeta. An iterator costs ten times what a missing key
		// does, and most users have nothing.
		if meta != nil {
			entries, err = m.loadEntries(txn, partition, user)
		}
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("load mailbox of user %q in partition %d: %w", user, partition, err)
	}
	return meta, entries, nil
}

func (m *Mailboxes) loadMeta(txn *badger.Txn, partition int32, user string) (meta *MailboxMeta, err error) {
	_, err = readKey(txn, m.userKey(partition, user), func(raw []byte) error {
		meta, err = decodeMeta(raw)
		return err
	})
	return meta, err
}

func (m *Mailboxes) loadEntries(txn *badger.Txn, partition int32, user string) (entries []MailboxEntry, err error) {
	prefix := m.underUser(prefixEntry, partition, user, 0)
	for item := range items(txn, withValues(prefix), nil) {
		k := item.Key()
		if len(k) != len(prefix)+8 {
			return nil, fmt.Errorf("entry key has %d bytes, want %d", len(k), len(prefix)+8)
		}
		id := binary.BigEndian.Uint64(k[len(prefix):])
		err := readItem(item, func(raw []byte) error {
			e, err := decodeEntry(id, raw)
			entries = append(entries, e)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", id, err)
		}
	}
	return entries, nil
}

// iterateBodies is the number of bodies from which one iterator is cheaper than a search
// for each.
const iterateBodies = 8

// Bodies reads the bodies of a user's stored entries and returns the messages in the same
// order. A message is nil if its body was deleted or has expired meanwhile. The messages
// share memory, which lives as long as any of them.
func (m *Mailboxes) Bodies(partition int32, user string, entries []MailboxEntry) ([]*envelope.Kept, error) {
	m.db.opt.Faults.readMailbox(partition, user)
	out := make([]*envelope.Kept, len(entries))
	all := bodyReader{held: make([]envelope.Kept, 0, len(entries))}
	for i := range entries {
		all.size += int(entries[i].Size)
	}
	err := m.db.view(func(txn *badger.Txn) error {
		var near *badger.Iterator
		own := m.underUser(prefixBody, partition, user, 8) // with room for an id
		if len(entries) >= iterateBodies {
			near = txn.NewIterator(badger.IteratorOptions{Prefix: own})
			defer near.Close()
		}
		for i := range entries {
			var item *badger.Item
			var err error
			// A user's own bodies are neighbours in the order of their ids; shared ones are
			// not.
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

// seekBody returns the item at key, or nil if there is none. It tries the iterator's next item
// before it searches.
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

// bodyReader reads bodies into few pieces of memory.
type bodyReader struct {
	held []envelope.Kept // has capacity for all: they must not move
	text []byte
	size int // expected bytes of text
}

func (b *bodyReader) read(item *badger.Item, e *MailboxEntry) (kept *envelope.Kept, err error) {
	err = readItem(item, func(raw []byte) error {
		c := newFieldReader(raw)
		op := int32(c.uint())
		if c.err != nil {
			return c.err
		}
		if b.text == nil {
			b.text = make([]byte, 0, b.size)
		}
		if cap(b.text)-len(b.text) < len(c.b) { // the size in an entry was too small
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

// get reads one value; ok is false if there is none.
func (m *Mailboxes) get(key []byte, read func(raw []byte) error) (ok bool, err error) {
	err = m.db.view(func(txn *badger.Txn) error {
		ok, err = readKey(txn, key, read)
		return err
	})
	return ok, err
}

// Used returns the id of the message that used an idempotency key for a user; ok is false
// if none did.
func (m *Mailboxes) Used(partition int32, user, key string) (id uint64, ok bool, err error) {
	m.db.opt.Faults.readMailbox(partition, user)
	ok, err = m.get(m.usedKey(partition, user, key), func(raw []byte) error {
		if len(raw) != 8 {
			return errMailboxShort
		}
		id = binary.BigEndian.Uint64(raw)
		return nil
	})
	if err != nil {
		err = fmt.Errorf("read idempotency key of user %q in partition %d: %w", user, partition, err)
	}
	return id, ok, err
}

// Position returns the id of the last record that was applied to the partition, and the version
// of records that its writer read. ok is false if nothing of the partition is stored.
func (m *Mailboxes) Position(partition int32) (id uint64, version uint32, ok bool, err error) {
	ok, err = m.get(m.partitionKey(prefixPosition, partition, 0), func(raw []byte) error {
		c := fieldReader{b: raw}
		id, version = c.uint(), uint32(c.uint())
		return c.err
	})
	if err != nil {
		err = fmt.Errorf("read position of partition %d: %w", partition, err)
	}
	return id, version, ok, err
}
