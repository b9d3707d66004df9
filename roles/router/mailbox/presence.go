package mailbox

import (
	"imgo/envelope"
	"imgo/internal/events"
	"imgo/store"
)

// Presence is what was told of a user, online or offline. It changes by records of the log only. So every
// owner tells the same, and each change has one event. Whether the user has a session is not known here.
type Presence struct{ *facts }

// Online reports whether the user was told to be online.
func (p Presence) Online() bool { return p.presence != nil && p.presence.Online }

// Set takes a record that the user has come or gone: the record id, which was appended at notedMS, Unix
// milliseconds. It adds an event if that changes what was told. A record that is older than what was told
// changes nothing.
func (p Presence) Set(id uint64, rec *envelope.Presence, notedMS int64, out *Events) {
	switch {
	case rec.At != 0:
		p.restore(rec, notedMS)
	case p.presence != nil && id <= p.presence.At, p.Online() == rec.Online:
	default:
		p.set(&store.MailboxPresence{At: id, Online: rec.Online, SinceMS: rec.SinceMs, NotedMS: notedMS})
		event := events.Event{Type: events.Offline, User: rec.User, Device: rec.Device}
		if rec.Online {
			event.Type = events.Online
		}
		out.add(event)
	}
}

// restore takes what a record repeats, appended at notedMS, Unix milliseconds. It does nothing if something
// else was told since rec.At.
func (p Presence) restore(rec *envelope.Presence, notedMS int64) {
	if rec.GetAt() == 0 || p.presence != nil && p.presence.At > rec.At {
		return
	}
	p.set(&store.MailboxPresence{At: rec.At, Online: rec.Online, SinceMS: rec.SinceMs, NotedMS: notedMS})
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
	if m.facts.presence == nil || !m.Blank() {
		return false
	}
	m.Presence().set(nil)
	return true
}

// erase forgets what was told, unless the user was told to be online: it is told to be offline later, and only
// then nothing is known of it.
func (p Presence) erase() {
	if p.presence != nil && !p.presence.Online {
		p.set(nil)
	}
}

func (p Presence) set(told *store.MailboxPresence) {
	was := p.Online()
	p.presence, p.changed = told, true
	p.onlineChanged = p.onlineChanged || p.Online() != was
}
