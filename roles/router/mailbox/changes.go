package mailbox

import (
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
	// Meta is set if the meta is to be written.
	Meta bool
	// Told is set if it is to be written whether the user was told to be online.
	Told bool
	// Erased is the id before which messages lose their idempotency keys in the store. 0 means none.
	Erased uint64
}

// Dirty reports whether something is to be written.
func (m *Mailbox) Dirty() bool { return m.Messages.changed || m.metaChanged() || len(m.facts.used) > 0 }

// metaChanged reports whether the meta is to be written.
func (m *Mailbox) metaChanged() bool {
	return m.Messages.metaChanged || m.facts.changed
}

// CollectChanges returns what is to be written, and takes it for written from now
// on. Messages of records after position that the store does not have are left
// for the next flush; later reports whether there are such. Written or Undo
// must follow.
func (m *Mailbox) CollectChanges(position uint64) (c Changes, later bool) {
	c = Changes{Meta: m.metaChanged(), Told: m.facts.onlineChanged}
	later = m.Messages.collect(&c, position)
	m.Keys().collect(&c)
	m.facts.changed, m.facts.onlineChanged = false, false
	return c, later
}

// collect adds the messages to the changes: see CollectChanges.
func (ms *Messages) collect(c *Changes, position uint64) (later bool) {
	if ms.gone != nil {
		c.Gone = *ms.gone
	}
	for _, e := range ms.entries {
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
	ms.gone, ms.metaChanged, ms.changed = nil, false, later
	return later
}

// Written notes that the store has the changes. For each message that still
// waits it calls hold with the body, which may keep it in memory (see Messages.Hold).
func (m *Mailbox) Written(c *Changes, hold func(e *Entry, message *envelope.Kept)) {
	for _, e := range c.Fresh {
		message := e.Message
		e.Message = nil
		if hold != nil && m.Messages.Find(e.ID) == e {
			hold(e, message)
		}
	}
	m.Keys().written(c)
}

// Undo notes that the store does not have the changes: they are taken again.
func (m *Mailbox) Undo(c *Changes) {
	for _, e := range c.Fresh {
		e.stored = false
	}
	for _, e := range c.Entries {
		e.changed = true
	}
	if m.Messages.gone != nil {
		c.Gone = append(c.Gone, *m.Messages.gone...)
	}
	m.Messages.gone = &c.Gone
	m.Messages.changed = true
	m.Messages.metaChanged = m.Messages.metaChanged || c.Meta
	m.facts.onlineChanged = m.facts.onlineChanged || c.Told
}

// MetaExpiry returns the time until which the meta must be stored: a day after the last
// message expires, or a day after until if that is later. The zero time means for ever.
// MetaExpiry returns it if the user is in a room, was told to be online, or has a device
// that only a record may forget.
func (m *Mailbox) MetaExpiry(until time.Time) time.Time {
	if m.Rooms().any() || m.Presence().Online() || m.Devices().published() {
		return time.Time{}
	}
	for _, e := range m.Messages.entries {
		if t := time.UnixMilli(e.ExpiresMS); t.After(until) {
			until = t
		}
	}
	return until.Add(24 * time.Hour)
}
