package mailbox

import (
	"imgo/envelope"
	"imgo/internal/events"
	"imgo/store"
)

// What was told of a user, online or offline, changes by records of the log only. So every owner
// tells the same, and each change has one event. Whether the user has a session is not known here.

// ToldOnline reports whether the user was told to be online.
func (m *Mailbox) ToldOnline() bool { return m.meta.Presence != nil && m.meta.Presence.Online }

// SetPresence takes a record that the user has come or gone: the record id, which was appended at
// notedMS, Unix milliseconds. It adds an event if that changes what was told. A record that is older
// than what was told changes nothing.
func (m *Mailbox) SetPresence(id uint64, p *envelope.Presence, notedMS int64) {
	switch old := m.meta.Presence; {
	case p.At != 0:
		m.RestorePresence(p, notedMS)
	case old != nil && id <= old.At, m.ToldOnline() == p.Online:
	default:
		m.setPresence(&store.MailboxPresence{At: id, Online: p.Online, SinceMS: p.SinceMs, NotedMS: notedMS})
		event := events.Event{Type: events.Offline, User: m.user, Device: p.Device}
		if p.Online {
			event.Type = events.Online
		}
		m.events = append(m.events, event)
	}
}

// RestorePresence takes what a record repeats, appended at notedMS, Unix milliseconds. It does nothing
// if something else was told since p.At.
func (m *Mailbox) RestorePresence(p *envelope.Presence, notedMS int64) {
	if old := m.meta.Presence; p.GetAt() == 0 || old != nil && old.At > p.At {
		return
	}
	m.setPresence(&store.MailboxPresence{At: p.At, Online: p.Online, SinceMS: p.SinceMs, NotedMS: notedMS})
}

// PresenceRecord returns what was told as records that repeat it have it, without the user; nil: nothing.
func PresenceRecord(p *store.MailboxPresence) *envelope.Presence {
	if p == nil {
		return nil
	}
	return &envelope.Presence{Online: p.Online, SinceMs: p.SinceMS, At: p.At}
}

// ForgetOffline forgets that the user was told to be offline, if nothing else is known of it. It
// reports whether it did: then the record must not be applied again.
func (m *Mailbox) ForgetOffline() bool {
	if m.meta.Presence == nil || m.ToldOnline() || !m.Blank() || len(m.entries) > 0 {
		return false
	}
	m.setPresence(nil)
	return true
}

// erasePresence forgets what was told, unless the user was told to be online: it is told to be offline
// later, and only then nothing is known of it.
func (m *Mailbox) erasePresence() {
	if m.meta.Presence != nil && !m.ToldOnline() {
		m.setPresence(nil)
	}
}

func (m *Mailbox) setPresence(p *store.MailboxPresence) {
	was := m.ToldOnline()
	m.meta.Presence = p
	m.toldChanged = m.toldChanged || m.ToldOnline() != was
	m.metaChanged, m.dirty = true, true
}

// SeenUntil notes that a device was connected at a time, Unix milliseconds, unless it was seen later. It
// reports whether that is new.
func (m *Mailbox) SeenUntil(device string, ms int64) bool {
	d := m.Device(device)
	return d != nil && d.SeenMS < ms && m.Seen(device, ms)
}
