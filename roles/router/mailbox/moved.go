package mailbox

import (
	"math/bits"

	"imgo/envelope"
	"imgo/store"
)

// mergeMessage takes a message of a part that names some devices.
func (m *Mailbox) mergeMessage(msg *envelope.MovedMessage, devices []*envelope.MovedDevice, nowMS int64) {
	var waiting uint64
	for i, d := range devices {
		if msg.Waiting&(1<<i) != 0 {
			waiting |= m.Devices().Mask(d.Device)
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
