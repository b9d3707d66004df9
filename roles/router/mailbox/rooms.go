package mailbox

import (
	"slices"

	"imgo/envelope"
	"imgo/store"
)

// Rooms are the rooms that callers of the API have put the user into.
type Rooms struct{ *facts }

// Memberships returns the rooms, or nil if callers never put the user into any. The
// caller must not change them.
func (r Rooms) Memberships() *envelope.Memberships { return RoomsRecord(r.rooms) }

// RoomsRecord returns memberships as records have them, or nil if there never were any.
func RoomsRecord(r *store.MailboxRooms) *envelope.Memberships {
	if r == nil {
		return nil
	}
	return &envelope.Memberships{At: r.At, Rooms: r.Names}
}

// Set puts the user into a room, or takes it out, by the record id, which
// was appended at notedMS, Unix milliseconds. A user that is in as many rooms as
// limit enters no further one. A record that is older than the state changes
// nothing. Set reports whether the record counts.
func (r Rooms) Set(id uint64, room string, member bool, notedMS int64, limit int) bool {
	old := r.rooms
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
	r.set(rooms)
	return true
}

// Restore takes a record that repeats all memberships, appended at notedMS,
// Unix milliseconds. It does nothing if a membership has changed since.
func (r Rooms) Restore(list *envelope.Memberships, notedMS int64) {
	if list == nil || r.rooms != nil && r.rooms.At > list.At {
		return
	}
	r.set(&store.MailboxRooms{At: list.At, NotedMS: notedMS, Names: slices.Clone(list.Rooms)})
}

// erase takes the user out of all rooms, by the given record. It leaves a list
// without rooms, so that a repetition from before the record stays void.
func (r Rooms) erase(recordID uint64) {
	if r.rooms == nil || r.rooms.At < recordID {
		r.set(&store.MailboxRooms{At: recordID})
	}
}

// any reports whether the user is in any room.
func (r Rooms) any() bool { return r.rooms != nil && len(r.rooms.Names) > 0 }

func (r Rooms) set(list *store.MailboxRooms) { r.rooms, r.changed = list, true }
