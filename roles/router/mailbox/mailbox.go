// Package mailbox is the state machine of one user's mailbox: the devices, the
// pending messages and the idempotency keys. Its input is the records of the
// kept log, in their order.
//
// It guarantees that a record that is applied a second time, over what it and
// later records did, changes nothing. So the state in the store may be newer
// than the stored position of the log.
//
// It takes no lock, calls no store and reads no clock: the caller guards a
// Mailbox, passes the time and writes the changes (see CollectChanges). From
// package store it takes only the types of what is stored.
package mailbox

import (
	"math"
	"slices"
	"time"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/store"
)

// NoExpiry is a device expiry that no device reaches.
const NoExpiry = time.Duration(math.MaxInt64)

// Mailbox is one user's mailbox in memory. Each part has its own state, and
// knows whether the store has it. Mailbox takes the records that concern several
// parts. Make it with New or Load. It is not safe for concurrent use.
type Mailbox struct {
	user     string
	Messages Messages
	facts    facts
}

// facts are what a mailbox has beside messages. Each user in memory has them, so they lie close together.
type facts struct {
	// These are as store.MailboxMeta has them.
	devices  []store.MailboxDevice
	rooms    *store.MailboxRooms
	reads    *store.MailboxReads
	presence *store.MailboxPresence
	moved    uint64
	// used are the idempotency keys that the store does not have yet.
	used map[string]uint64
	// erased is the id of the last record that erased the user: keys of earlier messages are void,
	// also those that the store still has.
	erased uint64
	// changed is set if the store has another meta. onlineChanged is set if it has another presence.Online.
	// erasedStored is set if the store has deleted the keys from before erased. noneStored is set if the
	// store has no key of the user.
	changed, onlineChanged, erasedStored, noneStored bool
}

// New returns the mailbox of a user of whom the store has nothing.
func New(user string) Mailbox { return Mailbox{user: user, facts: facts{noneStored: true}} }

// Load returns the mailbox of a user as the store has it. A nil meta is an
// empty one. The store may have idempotency keys of the user.
func Load(user string, meta *store.MailboxMeta, entries []store.MailboxEntry) Mailbox {
	m := Mailbox{user: user}
	if meta != nil {
		m.Messages.lastMS, m.Messages.dropped = meta.LastMS, meta.Dropped
		m.facts = facts{devices: meta.Devices, rooms: meta.Rooms, reads: meta.Reads, presence: meta.Presence, moved: meta.Moved}
	}
	m.Messages.load(entries)
	return m
}

// Devices returns the devices of the user.
func (m *Mailbox) Devices() Devices { return Devices{&m.facts} }

// Rooms returns the rooms of the user.
func (m *Mailbox) Rooms() Rooms { return Rooms{&m.facts} }

// Presence returns what was told of the user's coming and going.
func (m *Mailbox) Presence() Presence { return Presence{&m.facts} }

// Keys returns the idempotency keys of the user.
func (m *Mailbox) Keys() Keys { return Keys{&m.facts} }

// User returns the user's name.
func (m *Mailbox) User() string { return m.user }

// Meta returns what the mailbox has beside the messages. The caller must not
// change what it points to.
func (m *Mailbox) Meta() store.MailboxMeta {
	return store.MailboxMeta{
		Devices: m.facts.devices, LastMS: m.Messages.lastMS, Dropped: m.Messages.dropped, Moved: m.facts.moved,
		Rooms: m.facts.rooms, Reads: m.facts.reads, Presence: m.facts.presence,
	}
}

// Blank reports whether nothing is known of the user.
func (m *Mailbox) Blank() bool {
	f := &m.facts
	return m.Messages.blank() && len(f.devices) == 0 && f.moved == 0 && f.reads == nil && !m.Rooms().any() && !m.Presence().Online()
}

// Erase drops all that is known of the user from before the given record.
func (m *Mailbox) Erase(recordID uint64, out *Events) {
	m.Purge(recordID, out)
	for _, d := range slices.Clone(m.facts.devices) {
		m.Forget(recordID, d.Name, out)
	}
	// Whether the mailbox has moved must stay known: a part of it may come again.
	m.Messages.eraseCounts()
	m.Keys().erase(recordID)
	m.Rooms().erase(recordID)
	m.facts.eraseReads(recordID)
	m.Presence().erase()
}

// NewPart returns a part of what moves of a mailbox, without messages. It names some of the mailbox's devices.
func NewPart(user string, meta *store.MailboxMeta, devices []store.MailboxDevice) *envelope.MovedMailbox {
	part := &envelope.MovedMailbox{User: user, LastMs: meta.LastMS, Dropped: meta.Dropped}
	for _, d := range devices {
		part.Devices = append(part.Devices, &envelope.MovedDevice{
			Device: d.Name, Since: d.Since, SeenMs: d.SeenMS, Published: d.Published,
		})
	}
	return part
}

// LastPart returns the part that completes a mailbox. It has what the mailbox has beside messages.
func LastPart(user string, meta *store.MailboxMeta) *envelope.MovedMailbox {
	part := NewPart(user, meta, meta.Devices)
	part.Last, part.Rooms, part.Reads, part.Presence = true, RoomsRecord(meta.Rooms), Reads(meta.Reads), PresenceRecord(meta.Presence)
	return part
}

// Merge takes a part of the mailbox as the log's generation before had it, by
// the record id, which was appended at notedMS. Times are Unix milliseconds.
// The entries that are there stay: the parts of two owners that moved the mailbox without
// knowing of each other may be mixed in the log, and each says the same. Merge
// reports whether the part counts: behind a complete mailbox it does not.
func (m *Mailbox) Merge(id uint64, part *envelope.MovedMailbox, notedMS, nowMS int64) bool {
	if m.facts.moved != 0 && id > m.facts.moved {
		return false
	}
	devices := part.Devices[:min(len(part.Devices), MaxDevices)]
	for _, d := range devices {
		m.Devices().Restore(d.Device, d.Since, d.SeenMs, notedMS)
		m.Devices().NotePublished(d.Device, d.Since, d.Published, notedMS)
	}
	for _, msg := range part.Messages {
		m.mergeMessage(msg, devices, nowMS)
	}
	m.Messages.restoreCounts(part.LastMs, part.Dropped)
	m.Rooms().Restore(part.Rooms, notedMS)
	m.facts.restoreReads(part.Reads)
	m.Presence().restore(part.Presence, notedMS)
	if part.Last && m.facts.moved == 0 {
		m.facts.moved = id
	}
	return true
}

// Push adds the message of a record at the time atMS, Unix milliseconds. It does
// nothing if the message is there already. Other mailboxes may share the
// message. Push returns how many messages the bound cost. A message that reports
// is neither refused nor dropped here: see Propose.
func (m *Mailbox) Push(
	message *envelope.Kept, atMS, expiresMS int64, shared bool, tracked *store.MailboxTracked, bound Bound,
) (dropped int) {
	id := message.Id
	if m.Messages.Find(id) != nil {
		return 0
	}
	e := &Entry{Message: message, at: atMS}
	e.Tracked = tracked
	over, refused := bound.Overflow(&m.Messages)
	if refused && !e.Reports() {
		m.Messages.CountDropped(over)
		return over
	}
	e.ID, e.ExpiresMS, e.Shared, e.Size = id, expiresMS, shared, int32(len(message.Body))
	e.Waiting = m.Devices().knownBefore(id)
	e.Unclaimed = e.Waiting == 0
	if e.TimeMS = m.Messages.nextTime(message.TimeMs); e.TimeMS != message.TimeMs {
		e.Message = &envelope.Kept{Id: id, Op: message.Op, Body: message.Body, TimeMs: e.TimeMS}
	}
	m.Messages.insert(e)
	if over > 0 && !refused {
		dropped = m.Messages.shorten(bound)
	}
	return dropped
}

// NoteDevice makes a device known by the record id, or notes when it was last
// seen. A known device keeps what it has. A new device starts with what no
// device has acknowledged; the first one takes over what waited for anybody.
// The record was appended at notedMS. Times are Unix milliseconds. NoteDevice
// reports whether the device is known now: there may be no room for it.
func (m *Mailbox) NoteDevice(id uint64, name string, seenMS, notedMS int64) bool {
	d := m.Devices().Restore(name, id, seenMS, notedMS)
	if d == nil {
		return false
	}
	if d.Since != id {
		return true
	}
	for _, e := range m.Messages.entries {
		if e.ID < id && (e.Unclaimed || !e.Acked) && e.Waiting&(1<<d.Bit) == 0 {
			e.Unclaimed, e.changed = false, true
			e.Waiting |= 1 << d.Bit
		}
	}
	return true
}

// Forget makes a device unknown, by the given record: no message waits for it any
// more. A message that no device has acknowledged waits for the next device instead, if
// there is no other one. A device that became known only after the record stays.
// Forget returns how many messages waited for the device, and whether it was known.
func (m *Mailbox) Forget(recordID uint64, device string, out *Events) (waiting int, known bool) {
	d := m.Devices().Find(device)
	if d == nil || d.Since >= recordID {
		return 0, false
	}
	return m.dropDevice(device, out), true
}

// dropDevice forgets a device that is known. It returns how many messages waited
// for it.
func (m *Mailbox) dropDevice(name string, out *Events) (waiting int) {
	mask := m.Devices().Mask(name)
	m.Devices().remove(name)
	m.Messages.removeIf(func(e *Entry) bool {
		if e.Waiting&mask == 0 {
			return false
		}
		waiting++
		e.Waiting &^= mask
		e.changed = true
		e.without(name)
		if e.Waiting != 0 {
			return false
		}
		if !e.Acked {
			e.Unclaimed = true // nobody has had it: there is no other device
			return false
		}
		m.settled(e, out)
		return true
	})
	return waiting
}

// Purge drops the messages from before the given record. It returns their number.
func (m *Mailbox) Purge(recordID uint64, out *Events) int {
	return m.Messages.removeIf(func(e *Entry) bool {
		if e.ID >= recordID {
			return false
		}
		m.removed(e, events.Event{Type: events.Dropped, Reason: events.ReasonRemoved}, out)
		return true
	})
}

// Acknowledgement says that a device has messages.
type Acknowledgement struct {
	Device string
	IDs    []uint64
	// TimeMS is the time of its record, Unix milliseconds.
	TimeMS int64
	// Auto is set if comet acknowledged for a client that cannot.
	Auto bool
}

// Ack takes an acknowledgement, by the given record. It returns how many messages no
// device waits for any more.
func (m *Mailbox) Ack(recordID uint64, by *Acknowledgement, out *Events) (deleted int) {
	d := m.Devices().Find(by.Device)
	// A device that became known only after the record had nothing to
	// acknowledge then: the record is applied again.
	if d != nil && d.Since <= recordID {
		for _, id := range by.IDs {
			deleted += m.clear(1<<d.Bit, id, by, out)
		}
		return deleted
	}
	// An unknown device has nothing to acknowledge, but for the default cursor
	// of a user without devices: what was read there is read (2016's /1/msg/get).
	if by.Device != "" {
		return 0
	}
	return m.Messages.removeIf(func(e *Entry) bool {
		if !e.Unclaimed || !slices.Contains(by.IDs, e.ID) {
			return false
		}
		m.receipt(e, by, out)
		m.settled(e, out)
		return true
	})
}

// clear takes a device's bit off the entry with an id. It drops the entry if no
// device waits for it any more, and returns 1 then.
func (m *Mailbox) clear(mask, id uint64, by *Acknowledgement, out *Events) (deleted int) {
	e := m.Messages.Find(id)
	if e == nil || e.Waiting&mask == 0 {
		return 0
	}
	e.Waiting &^= mask
	e.Acked = true
	m.Messages.change(e)
	m.receipt(e, by, out)
	if e.Waiting != 0 {
		return 0
	}
	m.settled(e, out)
	m.Messages.remove(e)
	return 1
}

// Expire drops the messages whose time is over. It also drops the devices that
// were not seen for deviceExpiry, unless connected reports a session of the
// device. It returns the number of messages. Messages that report stay: see
// Propose. Only a record may forget the devices that it returns: such a message
// waits for them, or they have a last client id.
func (m *Mailbox) Expire(
	now time.Time, deviceExpiry time.Duration, connected func(device string) bool,
) (messages int, expired []string) {
	nowMS, before := now.UnixMilli(), len(m.Messages.entries)
	m.Messages.removeIf(func(e *Entry) bool { return e.ExpiresMS <= nowMS && !e.Reports() })
	limit := int64(math.MinInt64)
	if deviceExpiry != NoExpiry {
		limit = now.Add(-deviceExpiry).UnixMilli()
	}
	for i := len(m.facts.devices) - 1; i >= 0; i-- {
		switch d := m.facts.devices[i]; {
		case d.SeenMS >= limit || connected(d.Name):
		case m.Messages.waitsReporting(1 << d.Bit), d.Published > 0:
			expired = append(expired, d.Name)
		default:
			m.dropDevice(d.Name, nil) // no message that reports waits for it: there is no event
		}
	}
	return before - len(m.Messages.entries), expired
}
