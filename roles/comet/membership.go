package comet

import (
	"slices"

	"imgo/envelope"
)

// membership is which rooms a session is in, and why. The lock of the session's outbox
// guards it. member changes it.
type membership struct {
	in      roomSet
	stays   []stay                // those that it has to leave at some time
	asks    []roomAsk             // what asking has yet to ask; the first one is under way
	granted granted               // those that callers of the API put the user into
	next    *envelope.Memberships // a list that a worker is to follow. It is nil if there is no such worker
	access  *envelope.RoomAccess  // what the token allows. Nil means every room
}

// granted are the rooms that callers of the API have put the session's user into.
type granted struct {
	// at tells the list's age: of two lists the one with the higher at is newer.
	at    uint64
	rooms []string
}

func (g *granted) has(room string) bool { return slices.Contains(g.rooms, room) }

// stay says when a session has to leave a room.
type stay struct {
	room    string
	untilMS int64 // Unix milliseconds
}

// roomAsk is a room that logic is to be asked about.
type roomAsk struct {
	room string
	// again: the session is in the room already. It leaves it if logic refuses, and stays as
	// it is if logic cannot decide.
	again bool
}

// own returns the rooms that the session has joined by itself.
func (m *membership) own() []string { return slices.DeleteFunc(slices.Clone(m.in), m.granted.has) }

// remove forgets a room that the session has left.
func (m *membership) remove(room string) {
	m.in.remove(room)
	m.setEnd(room, 0)
}

// setEnd notes until when the session may be in a room, in Unix milliseconds. 0 means for ever.
func (m *membership) setEnd(room string, untilMS int64) {
	m.stays = slices.DeleteFunc(m.stays, func(e stay) bool { return e.room == room })
	if untilMS != 0 {
		m.stays = append(m.stays, stay{room, untilMS})
	}
}

// ends reports whether the session has to leave a room at some time.
func (m *membership) ends(room string) bool {
	return slices.ContainsFunc(m.stays, func(e stay) bool { return e.room == room })
}

// over returns the rooms that the session has to leave by the time nowMS.
func (m *membership) over(nowMS int64) (rooms []string) {
	for _, e := range m.stays {
		if e.untilMS <= nowMS {
			rooms = append(rooms, e.room)
		}
	}
	return rooms
}

// addAsks adds rooms that logic is to be asked about. It reports whether there were none before.
func (m *membership) addAsks(rooms []string, again bool) (first bool) {
	first = len(m.asks) == 0
	for _, room := range rooms {
		if !slices.ContainsFunc(m.asks, func(a roomAsk) bool { return a.room == room }) {
			m.asks = append(m.asks, roomAsk{room, again})
		}
	}
	return first
}

// dropAsks forgets what logic was to be asked about a room, or about all if room is empty.
func (m *membership) dropAsks(room string) {
	for i := range m.asks { // they stay in the list, where asking takes them out
		if room == "" || m.asks[i].room == room {
			m.asks[i].room = ""
		}
	}
}

// asksNow reports whether logic is being asked about a room, which was not left or changed meanwhile.
func (m *membership) asksNow(room string) bool { return len(m.asks) > 0 && m.asks[0].room == room }

// doneAsking removes what logic was asked about. It reports whether there is nothing left to ask.
func (m *membership) doneAsking() bool {
	m.asks = slices.Delete(m.asks, 0, 1)
	return len(m.asks) == 0
}
