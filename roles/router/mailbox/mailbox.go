// Package mailbox is the state machine of one user's mailbox: the devices, the
// pending messages and the idempotency keys. Its input is the records of the
// kept log, in their order.
//
// It guarantees that a record that is applied a second time, over what it and
// later records did, changes nothing. So the state in the store may be newer
// than the stored position of the log.
//
// It takes no lock, calls no store and reads no clock: the caller guards a
// Mailbox, passes the time and writes the changes (see TakeChanges). From
// package store it takes only the types of what is stored.
package mailbox

import (
	"math"
	"math/bits"
	"slices"
	"sort"
	"time"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/store"
)

// MaxDevices is how many devices a mailbox has room for: one bit each.
const MaxDevices = 64

// NoExpiry is a device expiry that no device reaches.
const NoExpiry = time.Duration(math.MaxInt64)

// Entry is one pending message of one user.
type Entry struct {
	store.MailboxEntry
	// Message is the message as it is handed out. It never changes. It is nil if
	// only the store has the body.
	Message *envelope.Kept
	// held: the store has the body too (see bodies.go).
	held bool
	// loose: the message does not lie beside its neighbours in memory.
	loose bool
	// stored: the store has the entry, perhaps in an older state.
	stored bool
	// changed: the store's state is older than this one.
	changed bool
	// lost: the store has lost the body of a message that reports.
	lost bool
	// at is when the message was applied here, Unix milliseconds; 0: before
	// the mailbox was read from the store.
	at int64
	// proposedMS is when a step of the message was put into the log that is not
	// applied yet; 0: there is none. See Propose.
	proposedMS int64
}

// Mailbox is one user's mailbox in memory. The bodies of its messages may be
// in the store only. Make it with New or Load. It is not safe for concurrent
// use.
type Mailbox struct {
	user    string
	meta    store.MailboxMeta
	entries []*Entry // in the order of their ids
	// gone has the stored entries that were deleted since the last flush.
	gone []*Entry
	// used has the idempotency keys that the store does not have yet.
	used map[string]uint64
	held *held // nil: no body of a stored message is in memory

	// erased is the id of the last record that erased the user: idempotency keys of
	// earlier messages are void, also those that the store still has.
	erased, erasedStored uint64 // erasedStored: as far as the store did it

	events []events.Event // see TakeEvents
	// stale are devices that have expired, and that messages that report wait for.
	stale []string

	// noStoredKeys: the store has no idempotency key of the user. toldChanged: it has another
	// ToldOnline.
	noStoredKeys, toldChanged bool
	metaChanged, dirty        bool
}

// New returns the mailbox of a user of whom the store has nothing.
func New(user string) Mailbox { return Mailbox{user: user, noStoredKeys: true} }

// Load returns the mailbox of a user as the store has it. A nil meta is an
// empty one. The store may have idempotency keys of the user.
func Load(user string, meta *store.MailboxMeta, entries []store.MailboxEntry) Mailbox {
	m := Mailbox{user: user}
	if meta != nil {
		m.meta = *meta
	}
	if len(entries) > 0 {
		block := make([]Entry, len(entries))
		m.entries = make([]*Entry, len(entries))
		for i := range entries {
			block[i] = Entry{MailboxEntry: entries[i], stored: true}
			m.entries[i] = &block[i]
		}
	}
	return m
}

// User returns the user's name.
func (m *Mailbox) User() string { return m.user }

// Meta returns what the mailbox has beside the messages. The caller must not
// change it.
func (m *Mailbox) Meta() *store.MailboxMeta { return &m.meta }

// Entries returns the pending messages in the order of their ids. The caller
// must not change the slice, nor keep it.
func (m *Mailbox) Entries() []*Entry { return m.entries }

// Find returns the entry with an id, or nil.
func (m *Mailbox) Find(id uint64) *Entry {
	i := m.search(id)
	if i < len(m.entries) && m.entries[i].ID == id {
		return m.entries[i]
	}
	return nil
}

func (m *Mailbox) search(id uint64) int {
	return sort.Search(len(m.entries), func(i int) bool { return m.entries[i].ID >= id })
}

// Device returns a device, or nil. The caller must not change it.
func (m *Mailbox) Device(name string) *store.MailboxDevice {
	for i := range m.meta.Devices {
		if m.meta.Devices[i].Name == name {
			return &m.meta.Devices[i]
		}
	}
	return nil
}

// Mask returns a device's bit in an entry's Waiting; 0: the device is unknown.
func (m *Mailbox) Mask(device string) uint64 {
	if d := m.Device(device); d != nil {
		return 1 << d.Bit
	}
	return 0
}

// Push adds the message of a record at the time at, Unix milliseconds. It does
// nothing if the message is there already. Other mailboxes may share the
// message. Push returns how many messages the bound cost. A message that reports
// is neither refused nor dropped here: see Propose.
func (m *Mailbox) Push(
	message *envelope.Kept, at, expiresMS int64, shared bool, tracked *store.MailboxTracked, bound Bound,
) (dropped int) {
	id := message.Id
	i := m.search(id)
	if i < len(m.entries) && m.entries[i].ID == id {
		return 0
	}
	e := &Entry{Message: message, loose: true, at: at}
	e.Tracked = tracked
	over, refused := bound.Overflow(m)
	if refused && !e.Reports() {
		m.CountDropped(over)
		return over
	}
	e.ID, e.ExpiresMS, e.Shared, e.Size = id, expiresMS, shared, int32(len(message.Body))
	for _, d := range m.meta.Devices {
		if d.Since < id {
			e.Waiting |= 1 << d.Bit
		}
	}
	e.Unclaimed = e.Waiting == 0
	// Message times are unique and grow within a user, so that a client of
	// 2016 may page by them.
	m.meta.LastMS = max(m.meta.LastMS+1, message.TimeMs)
	if e.TimeMS = m.meta.LastMS; e.TimeMS != message.TimeMs {
		e.Message = &envelope.Kept{Id: id, Op: message.Op, Body: message.Body, TimeMs: e.TimeMS}
	}
	e.changed = true
	m.entries = slices.Insert(m.entries, i, e)
	m.dirty = true
	if over > 0 && !refused {
		dropped = m.shorten(bound)
	}
	return dropped
}

// shorten drops the messages that the bound takes, and returns how many. A message
// with a report stays until a step drops it.
func (m *Mailbox) shorten(bound Bound) (dropped int) {
	kept := make([]*Entry, 0, len(m.entries))
	for i, e := range m.entries {
		if !bound.exceeds(m, i) || e.Reports() {
			kept = append(kept, e)
			continue
		}
		m.forget(e)
		dropped++
	}
	if dropped > 0 {
		m.entries = kept
		m.meta.Dropped += uint64(dropped)
	}
	return dropped
}

// forget notes that the store is to lose an entry, and its body the memory.
func (m *Mailbox) forget(e *Entry) {
	if e.held {
		m.held.drop(e)
	}
	if e.stored {
		m.gone = append(m.gone, e)
	}
	m.dirty = true
}

// DropLost drops a message whose body the store did not have. It reports
// whether the body is lost: the message is still pending, its body is not in
// memory, and it has not expired by the time nowMS, Unix milliseconds.
func (m *Mailbox) DropLost(id uint64, nowMS int64) bool {
	e := m.Find(id)
	// A message that expires within a second may have left the store already.
	if e == nil || e.Message != nil || e.ExpiresMS <= nowMS+1000 || e.lost {
		return false
	}
	if e.Reports() {
		e.lost = true // a step takes it away
		return true
	}
	m.forget(e)
	m.entries = slices.DeleteFunc(m.entries, func(o *Entry) bool { return o == e })
	m.meta.Dropped++
	m.metaChanged = true
	return true
}

// NoteDevice makes a device known by the record id, or notes when it was last
// seen. A known device keeps what it has. A new device starts with what no
// device has acknowledged; the first one takes over what waited for anybody.
// The record was appended at notedMS. Times are Unix milliseconds. NoteDevice
// reports whether the device is known now: there may be no room for it.
func (m *Mailbox) NoteDevice(id uint64, name string, seenMS, notedMS int64) bool {
	if m.Device(name) == nil && !m.addDevice(name, id) {
		return false
	}
	d := m.Device(name)
	d.SeenMS = max(d.SeenMS, seenMS)
	d.NotedMS = max(d.NotedMS, notedMS)
	m.metaChanged, m.dirty = true, true
	if d.Since != id {
		return true
	}
	for _, e := range m.entries {
		if e.ID < id && (e.Unclaimed || !e.Acked) && e.Waiting&(1<<d.Bit) == 0 {
			e.Unclaimed, e.changed = false, true
			e.Waiting |= 1 << d.Bit
		}
	}
	return true
}

// Forget makes a device unknown, by the record at: no message waits for it any
// more. What no device has acknowledged waits for the next device instead, if
// there is no other one. A device that became known only after the record stays.
// Forget returns how many messages waited for the device, and whether it was known.
func (m *Mailbox) Forget(at uint64, device string) (waiting int, known bool) {
	d := m.Device(device)
	if d == nil || d.Since >= at {
		return 0, false
	}
	return m.dropDevice(device), true
}

// CountDropped adds messages to those that a limit cost the user.
func (m *Mailbox) CountDropped(n int) {
	m.meta.Dropped += uint64(n)
	m.metaChanged, m.dirty = true, true
}

// Purge drops the messages from before the record at. It returns their number.
func (m *Mailbox) Purge(at uint64) int {
	n := m.search(at)
	for _, e := range m.entries[:n] {
		m.removed(e, events.Event{Type: events.Dropped, Reason: events.ReasonRemoved})
		m.forget(e)
	}
	m.entries = slices.Delete(m.entries, 0, n)
	return n
}

// Erase drops all that is known of the user from before the record at.
func (m *Mailbox) Erase(at uint64) {
	m.Purge(at)
	for _, d := range slices.Clone(m.meta.Devices) {
		m.Forget(at, d.Name)
	}
	for key, id := range m.used {
		if id < at {
			delete(m.used, key)
		}
	}
	// Whether the mailbox has moved must stay known: a part of it may come again.
	m.meta.LastMS, m.meta.Dropped = 0, 0
	m.eraseRooms(at)
	m.eraseReads(at)
	m.erasePresence()
	m.erased = max(m.erased, at)
	m.metaChanged, m.dirty = true, true
}

// Erased returns the id of the last record that erased the user; 0: none did since
// the mailbox is in memory. Idempotency keys of earlier messages are void.
func (m *Mailbox) Erased() uint64 { return m.erased }

// Blank reports whether nothing is known of the user but pending messages.
func (m *Mailbox) Blank() bool {
	return len(m.meta.Devices) == 0 && m.meta.LastMS == 0 && m.meta.Dropped == 0 && m.meta.Moved == 0 && m.meta.Reads == nil &&
		!m.inRooms() && !m.ToldOnline()
}

// RestoreDevice makes a device known whose first record has left the log: the
// record since.
func (m *Mailbox) RestoreDevice(name string, since uint64, seenMS int64) {
	if m.Device(name) == nil && !m.addDevice(name, since) {
		return
	}
	d := m.Device(name)
	d.SeenMS = max(d.SeenMS, seenMS)
}

// Seen notes when a device was last connected, Unix milliseconds. It reports
// whether the device is known.
func (m *Mailbox) Seen(device string, ms int64) bool {
	d := m.Device(device)
	if d == nil {
		return false
	}
	d.SeenMS = ms
	m.metaChanged, m.dirty = true, true
	return true
}

// addDevice makes a device known since a record. It reports whether there is room
// for it: whoever appends the record names the device that is to make room.
func (m *Mailbox) addDevice(name string, since uint64) bool {
	bit, ok := m.freeBit()
	if !ok {
		return false
	}
	m.meta.Devices = append(m.meta.Devices, store.MailboxDevice{Name: name, Bit: bit, Since: since})
	m.metaChanged, m.dirty = true, true
	return true
}

func (m *Mailbox) freeBit() (bit uint8, ok bool) {
	var taken uint64
	for _, d := range m.meta.Devices {
		taken |= 1 << d.Bit
	}
	free := bits.TrailingZeros64(^taken)
	return uint8(free), free < MaxDevices
}

// dropDevice forgets a device that is known. It returns how many messages waited
// for it.
func (m *Mailbox) dropDevice(name string) (waiting int) {
	mask := m.Mask(name)
	m.meta.Devices = slices.DeleteFunc(m.meta.Devices, func(o store.MailboxDevice) bool { return o.Name == name })
	m.metaChanged, m.dirty = true, true
	m.entries = slices.DeleteFunc(m.entries, func(e *Entry) bool {
		if e.Waiting&mask == 0 {
			return false
		}
		waiting++
		e.Waiting &^= mask
		e.changed = true
		if e.Tracked != nil {
			e.Tracked.Without = append(e.Tracked.Without, name)
		}
		if e.Waiting != 0 {
			return false
		}
		if !e.Acked {
			e.Unclaimed = true // nobody has had it: there is no other device
			return false
		}
		m.settled(e)
		m.forget(e)
		return true
	})
	return waiting
}

// Acknowledgement says that a device has messages.
type Acknowledgement struct {
	Device string
	IDs    []uint64
	// TimeMS is the time of its record, Unix milliseconds.
	TimeMS int64
	// Auto: comet acknowledged for a client that cannot.
	Auto bool
}

// Ack takes an acknowledgement, by the record at. It returns how many messages no
// device waits for any more.
func (m *Mailbox) Ack(at uint64, by *Acknowledgement) (deleted int) {
	d := m.Device(by.Device)
	// A device that became known only after the record had nothing to
	// acknowledge then: the record is applied again.
	if d != nil && d.Since <= at {
		for _, id := range by.IDs {
			deleted += m.clear(d.Bit, id, by)
		}
		return deleted
	}
	// An unknown device has nothing to acknowledge, but for the default cursor
	// of a user without devices: what was read there is read (2016's /1/msg/get).
	if by.Device != "" {
		return 0
	}
	before := len(m.entries)
	m.entries = slices.DeleteFunc(m.entries, func(e *Entry) bool {
		if !e.Unclaimed || !slices.Contains(by.IDs, e.ID) {
			return false
		}
		m.receipt(e, by)
		m.settled(e)
		m.forget(e)
		return true
	})
	return before - len(m.entries)
}

// clear takes a device's bit off the entry with an id. It drops the entry if no
// device waits for it any more, and returns 1 then.
func (m *Mailbox) clear(bit uint8, id uint64, by *Acknowledgement) (deleted int) {
	mask := uint64(1) << bit
	i := m.search(id)
	if i == len(m.entries) || m.entries[i].ID != id || m.entries[i].Waiting&mask == 0 {
		return 0
	}
	e := m.entries[i]
	e.Waiting &^= mask
	e.Acked, e.changed = true, true
	m.dirty = true
	m.receipt(e, by)
	if e.Waiting != 0 {
		return 0
	}
	m.settled(e)
	m.forget(e)
	m.entries = slices.Delete(m.entries, i, i+1)
	return 1
}

// Expire drops the messages whose time is over. It also drops the devices that
// were not seen for deviceExpiry, unless connected reports a session of the
// device. It returns the number of messages. Messages that report stay, and devices
// that such a message waits for: see Propose.
func (m *Mailbox) Expire(now time.Time, deviceExpiry time.Duration, connected func(device string) bool) (messages int) {
	nowMS := now.UnixMilli()
	before := len(m.entries)
	m.entries = slices.DeleteFunc(m.entries, func(e *Entry) bool {
		if e.ExpiresMS > nowMS || e.Reports() {
			return false
		}
		m.forget(e)
		return true
	})
	messages = before - len(m.entries)
	if deviceExpiry == NoExpiry {
		return messages
	}
	limit := now.Add(-deviceExpiry).UnixMilli()
	m.stale = nil
	for i := len(m.meta.Devices) - 1; i >= 0; i-- {
		switch d := m.meta.Devices[i]; {
		case d.SeenMS >= limit || connected(d.Name):
		case m.waitsReporting(1 << d.Bit), d.Published > 0:
			m.stale = append(m.stale, d.Name)
		default:
			m.dropDevice(d.Name)
		}
	}
	return before - len(m.entries)
}

// Prev returns the id of the message pending for a device before id; 0: none.
func (m *Mailbox) Prev(mask uint64, id uint64) uint64 {
	for i := m.search(id) - 1; i >= 0; i-- {
		if m.entries[i].Waiting&mask != 0 {
			return m.entries[i].ID
		}
	}
	return 0
}

// Newest returns the newest message pending for a device that was applied by
// the deadline, Unix milliseconds. ok is false if there is none.
func (m *Mailbox) Newest(mask uint64, deadline int64) (id uint64, ok bool) {
	for i := len(m.entries) - 1; i >= 0; i-- {
		if e := m.entries[i]; e.Waiting&mask != 0 && e.at <= deadline {
			return e.ID, true
		}
	}
	return 0, false
}

// Pending returns the number of messages that wait for a device.
func (m *Mailbox) Pending(mask uint64) (n int) {
	for _, e := range m.entries {
		if e.Waiting&mask != 0 {
			n++
		}
	}
	return n
}

// windowOverhead is what a message of a window counts beside its body, in
// bytes: about what its frame has more. So a window of very small messages
// fits into what may be pending for a session, as the others do.
const windowOverhead = 24

// Window appends to out what is pending for a device after an id, in order: at
// most maxMessages and maxBytes, but one message always. more reports whether
// there is more.
func (m *Mailbox) Window(
	out []*Entry, mask uint64, after uint64, nowMS int64, maxMessages, maxBytes int,
) (_ []*Entry, more bool) {
	size := 0
	for _, e := range m.entries[m.search(after+1):] {
		if e.Waiting&mask == 0 || e.ExpiresMS <= nowMS {
			continue
		}
		if len(out) > 0 && (len(out) >= maxMessages || size+int(e.Size)+windowOverhead > maxBytes) {
			return out, true
		}
		out = append(out, e)
		size += int(e.Size) + windowOverhead
	}
	return out, false
}

// Used returns the id of the message that used an idempotency key; 0: none. Of what
// the store says, messages from before Erased do not count.
// known is false if only the store can tell.
func (m *Mailbox) Used(key string) (id uint64, known bool) {
	if id, ok := m.used[key]; ok {
		return id, true
	}
	return 0, m.noStoredKeys
}

// Use notes that the message id used an idempotency key.
func (m *Mailbox) Use(key string, id uint64) {
	if m.used == nil {
		m.used = make(map[string]uint64, 1)
	}
	m.used[key] = id
}
