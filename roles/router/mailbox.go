package router

import (
	"math"
	"math/bits"
	"slices"
	"sort"
	"time"

	"imgo/envelope"
	"imgo/store"
)

// maxDevices is how many cursors a mailbox has room for: a bit each.
const maxDevices = 64

// entry is one pending message of one user.
type entry struct {
	store.MailboxEntry
	// message is the message as it is handed out, which nobody changes. It is
	// here until it was written to the store, and on if held says so (see
	// cache); nil: read it there.
	message *envelope.Kept
	held    bool
	// loose: the message came by itself and does not lie beside its neighbours.
	loose bool
	// stored says that the store has the entry (perhaps in an older state).
	stored bool
	// changed says that the store's state is older than this one.
	changed bool
	// at is when the message was applied here, Unix milliseconds; 0: before
	// the mailbox was read from the store.
	at int64
}

// mailbox is one user in memory: the devices, the pending messages without
// the bodies that the store has, and the user's sessions. It is a pure state
// machine over the kept log's records, in their order: applying a record a
// second time over what it (and records after it) did leaves the same state,
// which is what lets the store's position lag behind the store's data.
//
// A mailbox is guarded by its partition's mutex.
type mailbox struct {
	user    string
	meta    store.MailboxMeta
	entries []*entry // in the order of their ids
	// gone are stored entries that were deleted since the last flush.
	gone []*entry
	// used are idempotency keys that the store does not have yet.
	used map[string]uint64
	// ousted are the last sessions that newer ones pushed out.
	ousted []envelope.AddressKey
	// held is its part of the cache; nil: it has none.
	held *holding

	// keyless: the store has no idempotency key of the user.
	keyless     bool
	metaChanged bool
	dirty       bool
	sessions    []*session
}

func (m *mailbox) device(name string) *store.MailboxDevice {
	for i := range m.meta.Devices {
		if m.meta.Devices[i].Name == name {
			return &m.meta.Devices[i]
		}
	}
	return nil
}

// find is the entry with an id, or nil.
func (m *mailbox) find(id uint64) *entry {
	i := m.search(id)
	if i < len(m.entries) && m.entries[i].ID == id {
		return m.entries[i]
	}
	return nil
}

func (m *mailbox) search(id uint64) int {
	return sort.Search(len(m.entries), func(i int) bool { return m.entries[i].ID >= id })
}

// bound is what limits a mailbox.
type bound struct {
	length  int
	dropped func(user string, n int)
}

// push adds the message of a record, at the time at (Unix milliseconds).
// Nothing happens to one that is there. Other mailboxes may share the message.
func (m *mailbox) push(message *envelope.Kept, at, expiresMS int64, shared bool, b bound) {
	id := message.Id
	i := m.search(id)
	if i < len(m.entries) && m.entries[i].ID == id {
		return
	}
	e := &entry{message: message, loose: true, at: at}
	e.ID, e.ExpiresMS, e.Shared, e.Size = id, expiresMS, shared, int32(len(message.Body))
	for _, d := range m.meta.Devices {
		if d.Since < id {
			e.Waiting |= 1 << d.Bit
		}
	}
	e.Unclaimed = e.Waiting == 0
	// Message times are unique and growing within a user, so that an old
	// client may page by them.
	m.meta.LastMS = max(m.meta.LastMS+1, message.TimeMs)
	if e.TimeMS = m.meta.LastMS; e.TimeMS != message.TimeMs {
		e.message = &envelope.Kept{Id: id, Op: message.Op, Body: message.Body, TimeMs: e.TimeMS}
	}
	e.changed = true
	m.entries = slices.Insert(m.entries, i, e)
	if over := len(m.entries) - b.length; over > 0 {
		for _, old := range m.entries[:over] {
			m.forget(old)
		}
		m.entries = slices.Delete(m.entries, 0, over)
		m.meta.Dropped += uint64(over)
		b.dropped(m.user, over)
	}
	m.dirty = true
}

// forget notes that the store is to lose an entry.
func (m *mailbox) forget(e *entry) {
	if e.held {
		m.held.drop(e)
	}
	if e.stored {
		m.gone = append(m.gone, e)
	}
	m.dirty = true
}

// attach makes a device known by the record id, or refreshes when it was
// seen: a device that is known keeps what it has. A new device starts with
// what no device has acknowledged; the first one takes over what waited for
// anybody. The record was appended at notedMS (Unix milliseconds).
func (m *mailbox) attach(id uint64, name string, seenMS, notedMS int64) {
	if m.device(name) == nil {
		m.addDevice(name, id)
	}
	d := m.device(name)
	d.SeenMS = max(d.SeenMS, seenMS)
	d.NotedMS = max(d.NotedMS, notedMS)
	m.metaChanged, m.dirty = true, true
	if d.Since != id {
		return
	}
	for _, e := range m.entries {
		if e.ID < id && (e.Unclaimed || !e.Acked) && e.Waiting&(1<<d.Bit) == 0 {
			e.Unclaimed, e.changed = false, true
			e.Waiting |= 1 << d.Bit
		}
	}
}

// addDevice makes room for a device that is known since a record.
func (m *mailbox) addDevice(name string, since uint64) {
	bit, ok := m.freeBit()
	if !ok {
		bit = m.dropOldestDevice()
	}
	m.meta.Devices = append(m.meta.Devices, store.MailboxDevice{Name: name, Bit: bit, Since: since})
	m.metaChanged, m.dirty = true, true
}

func (m *mailbox) freeBit() (uint8, bool) {
	var taken uint64
	for _, d := range m.meta.Devices {
		taken |= 1 << d.Bit
	}
	free := bits.TrailingZeros64(^taken)
	return uint8(free), free < maxDevices
}

// dropOldestDevice forgets the device that was not seen for longest and says
// which bit is free now.
func (m *mailbox) dropOldestDevice() uint8 {
	oldest := slices.MinFunc(m.meta.Devices, func(a, b store.MailboxDevice) int { return int(a.SeenMS - b.SeenMS) })
	m.dropDevice(oldest.Name)
	return oldest.Bit
}

func (m *mailbox) dropDevice(name string) {
	d := m.device(name)
	if d == nil {
		return
	}
	bit := d.Bit
	m.meta.Devices = slices.DeleteFunc(m.meta.Devices, func(o store.MailboxDevice) bool { return o.Name == name })
	m.metaChanged, m.dirty = true, true
	m.clear(bit, 0, math.MaxUint64)
}

// ack takes a device's acknowledgement of ids, by the record at. It returns
// how many messages had no other device to wait for.
func (m *mailbox) ack(at uint64, name string, ids []uint64) (deleted int) {
	d := m.device(name)
	// A device that became known only later (at is applied again) had nothing
	// to acknowledge then.
	if d == nil || d.Since > at {
		// The default cursor of a user whom nobody has seen: what was read
		// there is read (2016's /1/msg/get). Any other unknown device has
		// nothing to acknowledge.
		if name != "" {
			return 0
		}
		before := len(m.entries)
		m.entries = slices.DeleteFunc(m.entries, func(e *entry) bool {
			if !e.Unclaimed || !slices.Contains(ids, e.ID) {
				return false
			}
			m.forget(e)
			return true
		})
		return before - len(m.entries)
	}
	for _, id := range ids {
		deleted += m.clear(d.Bit, id, id)
	}
	return deleted
}

// clear takes a device's bit off the entries with first ≤ id ≤ last and drops
// those that nobody waits for any more.
func (m *mailbox) clear(bit uint8, first, last uint64) (deleted int) {
	mask := uint64(1) << bit
	from, to := m.search(first), len(m.entries)
	if last < math.MaxUint64 {
		to = m.search(last + 1)
	}
	keep := m.entries[:from]
	for _, e := range m.entries[from:to] {
		if e.Waiting&mask != 0 {
			e.Waiting &^= mask
			e.Acked, e.changed = true, true
			m.dirty = true
			if e.Waiting == 0 {
				m.forget(e)
				deleted++
				continue
			}
		}
		keep = append(keep, e)
	}
	if deleted > 0 {
		rest := m.entries[to:]
		end := len(keep) + len(rest)
		keep = append(keep, rest...)
		clear(m.entries[end:])
		m.entries = keep
	}
	return deleted
}

// never is a device expiry that no device reaches.
const never = time.Duration(math.MaxInt64)

// expire drops the messages whose time is over, and the devices that were not
// seen for deviceExpiry and have no session now.
func (m *mailbox) expire(now time.Time, deviceExpiry time.Duration) (messages int) {
	nowMS := now.UnixMilli()
	before := len(m.entries)
	m.entries = slices.DeleteFunc(m.entries, func(e *entry) bool {
		if e.ExpiresMS > nowMS {
			return false
		}
		m.forget(e)
		return true
	})
	if deviceExpiry == never {
		return before - len(m.entries)
	}
	limit := now.Add(-deviceExpiry).UnixMilli()
	for i := len(m.meta.Devices) - 1; i >= 0; i-- {
		if d := m.meta.Devices[i]; d.SeenMS < limit && !m.connected(d.Name) {
			m.dropDevice(d.Name)
		}
	}
	return before - len(m.entries)
}

func (m *mailbox) connected(device string) bool {
	return slices.ContainsFunc(m.sessions, func(s *session) bool { return s.device == device })
}

// prev is the id of the message pending for a device before id; 0: none.
func (m *mailbox) prev(mask uint64, id uint64) uint64 {
	for i := m.search(id) - 1; i >= 0; i-- {
		if m.entries[i].Waiting&mask != 0 {
			return m.entries[i].ID
		}
	}
	return 0
}

// newest is the newest message pending for a device that was applied by the
// deadline (Unix milliseconds), and whether there is one.
func (m *mailbox) newest(mask uint64, deadline int64) (uint64, bool) {
	for i := len(m.entries) - 1; i >= 0; i-- {
		if e := m.entries[i]; e.Waiting&mask != 0 && e.at <= deadline {
			return e.ID, true
		}
	}
	return 0, false
}

// pending counts the messages that wait for a device.
func (m *mailbox) pending(mask uint64) (n int) {
	for _, e := range m.entries {
		if e.Waiting&mask != 0 {
			n++
		}
	}
	return n
}

// windowOverhead is what a message of a window counts beside its body, in
// bytes: about what its frame has more. So a window of very small messages
// fits, as the others do, into what may be pending for a session.
const windowOverhead = 24

// window is what is pending for a device after an id, in order, at most max
// messages and bytes (but one message always), and whether there is more. It is
// appended to out.
func (m *mailbox) window(out []*entry, mask uint64, after uint64, nowMS int64, maxMessages, maxBytes int) (_ []*entry, more bool) {
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

// session is the session with an address; nil: there is none.
func (m *mailbox) session(a envelope.AddressKey) *session {
	i := slices.IndexFunc(m.sessions, func(s *session) bool { return s.addressKey() == a })
	if i < 0 {
		return nil
	}
	return m.sessions[i]
}

// removeSession takes the session with an address out; nil: there is none.
func (m *mailbox) removeSession(a envelope.AddressKey) *session {
	s := m.session(a)
	if s != nil {
		m.sessions = slices.DeleteFunc(m.sessions, func(o *session) bool { return o == s })
	}
	return s
}
