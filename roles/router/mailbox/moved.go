package mailbox

import (
	"math/bits"
	"slices"

	"imgo/envelope"
	"imgo/store"
)

// Merge takes a part of the mailbox as the log's generation before had it, by
// the record id, which was appended at notedMS. Times are Unix milliseconds.
// What is there stays: the parts of two owners that moved the mailbox without
// knowing of each other may be mixed in the log, and each says the same. Merge
// reports whether the part counts: behind a complete mailbox it does not.
func (m *Mailbox) Merge(id uint64, part *envelope.MovedMailbox, notedMS, nowMS int64) bool {
	if m.meta.Moved != 0 && id > m.meta.Moved {
		return false
	}
	devices := part.Devices[:min(len(part.Devices), MaxDevices)]
	for _, d := range devices {
		if m.Device(d.Device) == nil && !m.addDevice(d.Device, d.Since) {
			continue
		}
		known := m.Device(d.Device)
		known.SeenMS = max(known.SeenMS, d.SeenMs)
		known.NotedMS = max(known.NotedMS, notedMS)
		m.NotePublished(d.Device, d.Since, d.Published, notedMS)
	}
	for _, msg := range part.Messages {
		m.mergeMessage(msg, devices, nowMS)
	}
	m.meta.LastMS = max(m.meta.LastMS, part.LastMs)
	m.meta.Dropped = max(m.meta.Dropped, part.Dropped)
	m.RestoreRooms(part.Rooms, notedMS)
	m.mergeReads(part.Reads)
	m.RestorePresence(part.Presence, notedMS)
	if part.Last && m.meta.Moved == 0 {
		m.meta.Moved = id
	}
	m.metaChanged, m.dirty = true, true
	return true
}

func (m *Mailbox) mergeMessage(msg *envelope.MovedMessage, devices []*envelope.MovedDevice, nowMS int64) {
	var waiting uint64
	for i, d := range devices {
		if msg.Waiting&(1<<i) != 0 {
			waiting |= m.Mask(d.Device)
		}
	}
	tracked := store.MailboxEntry{Tracked: trackedOfRecord(msg.Tracked)}
	if msg.ExpiresMs <= nowMS && !tracked.Reports() || waiting == 0 && !msg.Unclaimed {
		return
	}
	i := m.search(msg.Id)
	if i < len(m.entries) && m.entries[i].ID == msg.Id {
		// A part may name only some of a message's devices.
		if e := m.entries[i]; e.Waiting|waiting != e.Waiting {
			e.Waiting |= waiting
			e.changed = true
		}
		return
	}
	e := &Entry{Message: &envelope.Kept{Id: msg.Id, Op: msg.Op, Body: msg.Body, TimeMs: msg.TimeMs}, loose: true, changed: true}
	e.ID, e.TimeMS, e.ExpiresMS, e.Waiting = msg.Id, msg.TimeMs, msg.ExpiresMs, waiting
	e.Acked, e.Unclaimed, e.Size, e.Tracked = msg.Acked, msg.Unclaimed, int32(len(msg.Body)), tracked.Tracked
	m.entries = slices.Insert(m.entries, i, e)
}

// MovedBits returns waiting as a MovedMessage has it: by the order of the
// devices that its part names, not by their bits in the mailbox.
func MovedBits(waiting uint64, devices []store.MailboxDevice) (moved uint64) {
	for i, d := range devices {
		moved |= waiting >> d.Bit & 1 << i
	}
	return moved
}

// Covered returns those of a mailbox's devices that a message waits for.
func Covered(waiting uint64, devices []store.MailboxDevice) []store.MailboxDevice {
	out := make([]store.MailboxDevice, 0, bits.OnesCount64(waiting))
	for _, d := range devices {
		if waiting>>d.Bit&1 != 0 {
			out = append(out, d)
		}
	}
	return out
}
