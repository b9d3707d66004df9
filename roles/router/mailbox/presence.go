package mailbox

import (
	"imgo/envelope"
	"imgo/internal/events"
	"imgo/store"
)

// Presence is what was told of a user, online or offline. It changes by records of the log only. So every
// owner tells the same, and each change has one event. Whether the user has a session is not known here.
type Presence struct {
	told          *store.MailboxPresence // nil: nothing; it never changes
	onlineChanged bool                   // the store has another Online
}

// Online reports whether the user was told to be online.
func (p *Presence) Online() bool { return p.told != nil && p.told.Online }

// SetPresence takes a record that the user has come or gone: the record id, which was appended at notedMS, Unix
// milliseconds. It adds an event if that changes what was told. A record that is older than what was told
// changes nothing.
func (m *Mailbox) SetPresence(id uint64, rec *envelope.Presence, notedMS int64, out *Events) {
	p := &m.Presence
	switch {
	case rec.At != 0:
		m.restorePresence(rec, notedMS)
	case p.told != nil && id <= p.told.At, p.Online() == rec.Online:
	default:
		m.setPresence(&store.MailboxPresence{At: id, Online: rec.Online, SinceMS: rec.SinceMs, NotedMS: notedMS})
		event := events.Event{Type: events.Offline, User: rec.User, Device: rec.Device}
		if rec.Online {
			event.Type = events.Online
		}
		out.add(event)
	}
}

// restorePresence takes what a record repeats, appended at notedMS, Unix milliseconds. It does nothing if something
// else was told since rec.At.
func (m *Mailbox) restorePresence(rec *envelope.Presence, notedMS int64) {
	if told := m.Presence.told; rec.GetAt() == 0 || told != nil && told.At > rec.At {
		return
	}
	m.setPresence(&store.MailboxPresence{At: rec.At, Online: rec.Online, SinceMS: rec.SinceMs, NotedMS: notedMS})
}

// PresenceRecord returns what was told last, as a record that repeats it, without the user. It returns nil if
// nothing was told.
func PresenceRecord(p *store.MailboxPresence) *envelope.Presence {
	if p == nil {
		return nil
	}
	return &envelope.Presence{Online: p.Online, SinceMs: p.SinceMS, At: p.At}
}

// ForgetOffline forgets that the user was told to be offline, if nothing else is known of it. It
// reports whether it did: then the record must not be applied again.
func (m *Mailbox) ForgetOffline() bool {
	if m.Presence.told == nil || !m.Blank() {
		return false
	}
	m.setPresence(nil)
	return true
}

// erasePresence forgets what was told, unless the user was told to be online: it is told to be offline later, and only
// then nothing is known of it.
func (m *Mailbox) erasePresence() {
	if m.Presence.told != nil && !m.Presence.Online() {
		m.setPresence(nil)
	}
}

func (m *Mailbox) setPresence(told *store.MailboxPresence) {
	p := &m.Presence
	was := p.Online()
	p.told, m.Messages.metaChanged = told, true
	p.onlineChanged = p.onlineChanged || p.Online() != was
}
