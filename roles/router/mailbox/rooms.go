package mailbox

import (
	"slices"

	"imgo/envelope"
	"imgo/store"
)

// Memberships returns the rooms that callers of the API have put the user into.
// The caller must not change them.
func (m *Mailbox) Memberships() *envelope.Memberships {
	if m.meta.Rooms == nil {
		return &envelope.Memberships{}
	}
	return &envelope.Memberships{At: m.meta.Rooms.At, Rooms: m.meta.Rooms.Names}
}

// SetMember puts the user into a room, or takes it out, by the record id, which
// was appended at notedMS, Unix milliseconds. A user that is in as many rooms as
// limit enters no further one. A record that is older than the state changes
// nothing. SetMember reports whether the record counts.
func (m *Mailbox) SetMember(id uint64, room string, member bool, notedMS int64, limit int) bool {
	old := m.meta.Rooms
	if old == nil {
		if !member {
			return true // nothing is to be remembered of it
		}
		old = &store.MailboxRooms{NotedMS: notedMS}
	}
	if id <= old.At {
		return false
	}
	// A copy: others may still read the old one.
	rooms := &store.MailboxRooms{At: id, NotedMS: old.NotedMS, Names: slices.Clone(old.Names)}
	in := slices.Contains(rooms.Names, room)
	switch {
	case member && !in && len(rooms.Names) < limit:
		if len(rooms.Names) == 0 {
			rooms.NotedMS = notedMS
		}
		rooms.Names = append(rooms.Names, room)
	case !member && in:
		rooms.Names = slices.DeleteFunc(rooms.Names, func(have string) bool { return have == room })
	}
	m.setRooms(rooms)
	return true
}

// RestoreRooms takes a record that repeats all memberships, appended at notedMS,
// Unix milliseconds. It does nothing if a membership has changed since.
func (m *Mailbox) RestoreRooms(list *envelope.Memberships, notedMS int64) {
	if list == nil || m.meta.Rooms != nil && m.meta.Rooms.At > list.At {
		return
	}
	m.setRooms(&store.MailboxRooms{At: list.At, NotedMS: notedMS, Names: slices.Clone(list.Rooms)})
}

// eraseRooms takes the user out of all rooms, by the record at. It leaves a list
// without rooms, so that a repetition from before at stays void.
func (m *Mailbox) eraseRooms(at uint64) {
	if m.meta.Rooms == nil || m.meta.Rooms.At < at {
		m.setRooms(&store.MailboxRooms{At: at})
	}
}

// inRooms reports whether the user is in any room.
func (m *Mailbox) inRooms() bool { return m.meta.Rooms != nil && len(m.meta.Rooms.Names) > 0 }

func (m *Mailbox) setRooms(rooms *store.MailboxRooms) {
	m.meta.Rooms = rooms
	m.metaChanged, m.dirty = true, true
}
