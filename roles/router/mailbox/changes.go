package mailbox

import (
	"maps"
	"time"

	"imgo/envelope"
)

// Changes are what one flush takes from a mailbox to the store.
type Changes struct {
	// Entries are to be written. Fresh are those of them whose bodies are to be
	// written too, and Gone those that are to be deleted.
	Entries, Fresh, Gone []*Entry
	// Used has the idempotency keys to be written.
	Used map[string]uint64
	// Meta: the meta is to be written.
	Meta bool
	// Told: whether the user was told to be online is to be written.
	Told bool
	// Erased: the idempotency keys of messages before this id are to be deleted.
	Erased uint64
}

// Dirty reports whether something is to be written.
func (m *Mailbox) Dirty() bool { return m.dirty || len(m.used) > 0 }

// TakeChanges returns what is to be written, and takes it for written from now
// on. Messages of records after position that the store does not have are left
// for the next flush; later reports whether there are such. Written or Undo
// must follow.
func (m *Mailbox) TakeChanges(position uint64) (c Changes, later bool) {
	// Keys that are used while these are written are for the next flush.
	c = Changes{Gone: m.gone, Used: maps.Clone(m.used), Meta: m.metaChanged, Told: m.toldChanged}
	for _, e := range m.entries {
		switch {
		case !e.changed:
			continue
		case !e.stored && e.ID > position:
			later = true
			continue
		}
		if !e.stored {
			c.Fresh = append(c.Fresh, e)
			c.Meta = true
			e.stored = true
		}
		e.changed = false
		c.Entries = append(c.Entries, e)
	}
	if len(m.used) > 0 {
		m.noStoredKeys = false
	}
	if m.erased > m.erasedStored {
		c.Erased = m.erased
	}
	m.gone, m.metaChanged, m.toldChanged, m.dirty = nil, false, false, later
	return c, later
}

// Written notes that the store has the changes. For each message that still
// waits it calls hold with the body, which may keep it in memory (see Hold).
func (m *Mailbox) Written(c *Changes, hold func(e *Entry, message *envelope.Kept)) {
	for _, e := range c.Fresh {
		message := e.Message
		e.Message = nil
		if hold != nil && m.Find(e.ID) == e {
			hold(e, message)
		}
	}
	for key := range c.Used {
		delete(m.used, key)
	}
	m.erasedStored = max(m.erasedStored, c.Erased)
}

// Undo notes that the store does not have the changes: they are taken again.
func (m *Mailbox) Undo(c *Changes) {
	for _, e := range c.Fresh {
		e.stored = false
	}
	for _, e := range c.Entries {
		e.changed = true
	}
	m.gone = append(c.Gone, m.gone...)
	m.metaChanged, m.toldChanged = m.metaChanged || c.Meta, m.toldChanged || c.Told
	m.dirty = true
}

// MetaExpiry returns until when the meta must be stored: a day longer than the last
// message, and at least until then. The zero time means for ever: the user is in a
// room, was told to be online, or a record has to forget a device.
func (m *Mailbox) MetaExpiry(until time.Time) time.Time {
	if m.inRooms() || m.ToldOnline() || m.hasPublished() {
		return time.Time{}
	}
	for _, e := range m.entries {
		if t := time.UnixMilli(e.ExpiresMS); t.After(until) {
			until = t
		}
	}
	return until.Add(24 * time.Hour)
}
