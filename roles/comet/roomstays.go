package comet

import (
	"slices"
	"time"

	"imgo/envelope"
)

// This file has what a backend decides about a session's rooms (join = "webhook"). A stay in a room may
// have an end. A question that no packet of the client waits for is asked by a worker of its own.

// setEndLocked notes until when the session may be in a room. 0 means for ever.
func (m member) setEndLocked(room string, untilMS int64) {
	m.rooms.setEnd(room, untilMS)
	if untilMS != 0 {
		m.comet.roomsEnd.Store(true)
	}
}

// sameEnd stands for the end of a stay about which logic was not asked. The end stays as it is.
const sameEnd = -1

// joinUntil is join for a room that the session has to leave at some time, in Unix milliseconds.
// 0 means never.
func (m member) joinUntil(room string, untilMS int64) bool {
	mu := m.roomsMu()
	mu.Lock()
	m.enterUntilRoomsLocked(room, untilMS)
	mu.Unlock()
	return m.openRoom(room, m.comet.joinBy())
}

// enterUntilRoomsLocked is enterRoomsLocked with an end time.
func (m member) enterUntilRoomsLocked(room string, untilMS int64) {
	m.enterRoomsLocked(room)
	m.out.Lock()
	defer m.out.Unlock()
	if untilMS != sameEnd && m.rooms.in.has(room) {
		m.setEndLocked(room, untilMS)
	}
}

// endStays takes the session out of the rooms whose time is over, and tells the client. It does
// not wait. The session stays in a room that a caller of the API has put the user into.
func (m member) endStays(now time.Time) {
	nowMS := now.UnixMilli()
	m.out.Lock()
	over := m.rooms.over(nowMS)
	m.out.Unlock()
	for _, room := range over {
		if m.endStay(room, nowMS) {
			m.notifyRoom(room, false, "", leftInTime)
		}
	}
}

// endStay takes the session out of a room if its time there is over at nowMS. It reports whether
// it was in it.
func (m member) endStay(room string, nowMS int64) bool {
	m.roomsMu().Lock()
	defer m.roomsMu().Unlock()
	m.out.Lock()
	due := slices.Contains(m.rooms.over(nowMS), room)
	if due {
		m.rooms.setEnd(room, 0)
	}
	granted := m.rooms.granted.has(room)
	m.out.Unlock()
	return due && !granted && m.exitRoomsLocked(room)
}

// asking is a worker's task: it asks logic about rooms of a session, one after the other, and tells
// the client what came of it. Nothing waits for it, and a session has one at most. It ends with the
// session, and when the comet stops.
type asking struct{ member }

// askLater has a worker ask logic about rooms. The caller does not hold the session's lock.
func (m member) askLater(rooms []string, again bool) {
	if len(rooms) == 0 {
		return
	}
	m.out.Lock()
	m.ownExtrasLocked()
	first := m.rooms.addAsks(rooms, again)
	m.out.Unlock()
	if first {
		m.comet.workers.Run(asking{m})
	}
}

// dropAsks forgets what logic was to be asked about a room, or about all if room is empty. An answer
// that comes later has no effect.
func (m member) dropAsks(room string) {
	m.roomsMu().Lock()
	defer m.roomsMu().Unlock()
	m.out.Lock()
	defer m.out.Unlock()
	m.rooms.dropAsks(room)
}

// Run asks until there is nothing left to ask.
func (a asking) Run() {
	for {
		a.out.Lock()
		next, over := a.rooms.asks[0], a.state != stateLive
		a.out.Unlock()
		if over || a.comet.calls.Err() != nil {
			return // the list stays, so that no other task begins
		}
		switch {
		case next.room == "":
		case next.again:
			a.askAgain(next.room)
		default:
			a.askFirst(next.room)
		}
		a.out.Lock()
		done := a.rooms.doneAsking()
		a.out.Unlock()
		if done {
			return
		}
	}
}

// askFirst joins a room of the auth packet if logic lets the session in.
func (a asking) askFirst(room string) {
	until, err := a.mayJoin(room, len(a.ownRooms()))
	if err != nil {
		a.out.Lock()
		wanted := a.rooms.asksNow(room)
		a.out.Unlock()
		if wanted {
			a.refused(room, err)
		}
		return
	}
	mu := a.roomsMu()
	mu.Lock()
	a.out.Lock()
	wanted := a.rooms.asksNow(room)
	a.out.Unlock()
	if wanted {
		a.enterUntilRoomsLocked(room, until)
	}
	mu.Unlock()
	if wanted && a.openRoom(room, a.comet.joinBy()) {
		a.notifyRoom(room, true, "", joinedByAsking)
	}
}

// askAgain leaves a room if logic does not let the session in any more, and notes a new end time.
func (a asking) askAgain(room string) {
	until, err := a.ask(room)
	if code, _ := refusalText(err); err != nil && code == envelope.CodeUnavailable {
		return
	}
	a.roomsMu().Lock()
	defer a.roomsMu().Unlock()
	a.out.Lock()
	wanted := a.rooms.in.has(room) && a.rooms.asksNow(room)
	if wanted && err == nil {
		a.setEndLocked(room, until)
	}
	a.out.Unlock()
	if wanted && err != nil && a.leaveUngrantedRoomsLocked(room) {
		a.refused(room, err)
	}
}

// refused tells the client that it is not in a room.
func (a asking) refused(room string, err error) {
	code, reason := refusalText(err)
	a.comet.metrics.refusals.WithLabelValues(string(code)).Inc()
	a.notifyRoom(room, false, code, reason)
}
