package mailbox

import (
	"math/bits"

	"imgo/envelope"
	"imgo/store"
)

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
// What is there stays: the parts of two owners that moved the mailbox without
// knowing of each other may be mixed in the log, and each says the same. Merge
// reports whether the part counts: behind a complete mailbox it does not.
func (m *Mailbox) Merge(id uint64, part *envelope.MovedMailbox, notedMS, nowMS int64) bool {
	if m.moved != 0 && id > m.moved {
		return false
	}
	devices := part.Devices[:min(len(part.Devices), MaxDevices)]
	for _, d := range devices {
		m.Devices.Restore(d.Device, d.Since, d.SeenMs, notedMS)
		m.Devices.NotePublished(d.Device, d.Since, d.Published, notedMS)
	}
	for _, msg := range part.Messages {
		m.mergeMessage(msg, devices, nowMS)
	}
	m.Messages.restoreCounts(part.LastMs, part.Dropped)
	m.Rooms.Restore(part.Rooms, notedMS)
	m.reads.restore(part.Reads)
	m.Presence.restore(part.Presence, notedMS)
	if part.Last && m.moved == 0 {
		m.moved = id
	}
	return true
}

func (m *Mailbox) mergeMessage(msg *envelope.MovedMessage, devices []*envelope.MovedDevice, nowMS int64) {
	var waiting uint64
	for i, d := range devices {
		if msg.Waiting&(1<<i) != 0 {
			waiting |= m.Devices.Mask(d.Device)
		}
	}
	tracked := store.MailboxEntry{Tracked: trackedOfRecord(msg.Tracked)}
	if msg.ExpiresMs <= nowMS && !tracked.Reports() || waiting == 0 && !msg.Unclaimed {
		return
	}
	if e := m.Messages.Find(msg.Id); e != nil {
		// A part may name only some of a message's devices.
		if e.Waiting|waiting != e.Waiting {
			e.Waiting |= waiting
			m.Messages.change(e)
		}
		return
	}
	e := &Entry{Message: &envelope.Kept{Id: msg.Id, Op: msg.Op, Body: msg.Body, TimeMs: msg.TimeMs}}
	e.ID, e.TimeMS, e.ExpiresMS, e.Waiting = msg.Id, msg.TimeMs, msg.ExpiresMs, waiting
	e.Acked, e.Unclaimed, e.Size, e.Tracked = msg.Acked, msg.Unclaimed, int32(len(msg.Body)), tracked.Tracked
	m.Messages.insert(e)
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
