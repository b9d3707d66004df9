package comet

import (
	"slices"
	"time"

	"imgo/envelope"
)

// This file has what a backend decides about a session's rooms (join = "webhook"). A stay in a room may
// have an end. A question that no packet of the client waits for is asked by a worker of its own.

// stay says when a session has to leave a room.
type stay struct {
	room    string
	untilMS int64 // Unix milliseconds
}

// stayLocked notes until when the session may be in a room; 0: for ever.
func (s *session) stayLocked(room string, untilMS int64) {
	if len(s.stays) == 0 && untilMS == 0 {
		return
	}
	s.stays = slices.DeleteFunc(s.stays, func(e stay) bool { return e.room == room })
	if untilMS != 0 {
		s.ownExtras()
		s.stays = append(s.stays, stay{room, untilMS})
		s.comet.roomsEnd.Store(true)
	}
}

// joinUntil is join for a room that the session has to leave at some time, in Unix milliseconds;
// 0: never.
func (s *session) joinUntil(room string, untilMS int64) bool {
	mu := s.roomsMu()
	mu.Lock()
	s.enterUntil(room, untilMS)
	mu.Unlock()
	return s.openRoom(room, s.comet.joinBy())
}

// enterUntil is enter with an end time, with roomsMu held.
func (s *session) enterUntil(room string, untilMS int64) {
	s.enter(room)
	s.out.Lock()
	defer s.out.Unlock()
	if s.rooms.has(room) {
		s.stayLocked(room, untilMS)
	}
}

// endStays takes the session out of the rooms whose time is over, and tells the client. It does
// not wait. The session stays in a room that a caller of the API has put the user into.
func (s *session) endStays(now time.Time) {
	ms := now.UnixMilli()
	s.out.Lock()
	var over []string
	for _, e := range s.stays {
		if e.untilMS <= ms {
			over = append(over, e.room)
		}
	}
	s.out.Unlock()
	for _, room := range over {
		if s.endStay(stay{room, ms}) {
			s.tellRoom(room, false, leftInTime)
		}
	}
}

// endStay takes the session out of a room if its time there is over at over.untilMS. It reports whether
// it was in it.
func (s *session) endStay(over stay) bool {
	mu := s.roomsMu()
	mu.Lock()
	defer mu.Unlock()
	s.out.Lock()
	due := slices.ContainsFunc(s.stays, func(e stay) bool { return e.room == over.room && e.untilMS <= over.untilMS })
	if due {
		s.stayLocked(over.room, 0)
	}
	granted := s.granted.has(over.room)
	s.out.Unlock()
	return due && !granted && s.exit(over.room)
}

// roomAsk is a room that logic is to be asked about.
type roomAsk struct {
	room string
	// again: the session is in the room already. It leaves it if logic refuses, and stays as
	// it is if logic cannot decide.
	again bool
}

// asking is a worker's task: it asks logic about rooms of a session, one after the other, and tells
// the client what came of it. Nothing waits for it, and a session has one at most. It ends with the
// session, and when the comet stops.
type asking struct{ *session }

// askLater has a worker ask logic about rooms. The caller does not hold the session's lock.
func (s *session) askLater(rooms []string, again bool) {
	if len(rooms) == 0 {
		return
	}
	s.out.Lock()
	s.ownExtras()
	start := len(s.asks) == 0
	for _, room := range rooms {
		if !slices.ContainsFunc(s.asks, func(a roomAsk) bool { return a.room == room }) {
			s.asks = append(s.asks, roomAsk{room, again})
		}
	}
	s.out.Unlock()
	if start {
		s.comet.workers.Run(asking{s})
	}
}

// dropAsks forgets what logic was to be asked about a room, or about all if room is empty. An answer
// that comes later has no effect.
func (s *session) dropAsks(room string) {
	mu := s.roomsMu()
	mu.Lock()
	defer mu.Unlock()
	s.out.Lock()
	defer s.out.Unlock()
	for i := range s.asks { // they stay in the list, where asking takes them out
		if room == "" || s.asks[i].room == room {
			s.asks[i].room = ""
		}
	}
}

// Run asks until there is nothing left to ask.
func (a asking) Run() {
	for {
		a.out.Lock()
		next, over := a.asks[0], a.state != stateLive
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
		a.asks = slices.Delete(a.asks, 0, 1)
		done := len(a.asks) == 0
		a.out.Unlock()
		if done {
			return
		}
	}
}

// wantedLocked reports whether the room that is asked about was not left or changed meanwhile.
func (a asking) wantedLocked(room string) bool { return len(a.asks) > 0 && a.asks[0].room == room }

// askFirst joins a room of the auth packet if logic lets the session in.
func (a asking) askFirst(room string) {
	until, err := a.admit(room, len(a.ownRooms()))
	if err != nil {
		a.out.Lock()
		wanted := a.wantedLocked(room)
		a.out.Unlock()
		if wanted {
			a.refused(room, err)
		}
		return
	}
	mu := a.roomsMu()
	mu.Lock()
	a.out.Lock()
	wanted := a.wantedLocked(room)
	a.out.Unlock()
	if wanted {
		a.enterUntil(room, until)
	}
	mu.Unlock()
	if wanted && a.openRoom(room, a.comet.joinBy()) {
		a.tellRoom(room, true, joinedByAsking)
	}
}

// askAgain leaves a room if logic does not let the session in any more, and notes a new end time.
func (a asking) askAgain(room string) {
	until, err := a.ask(room)
	if code, _ := refusalText(err); err != nil && code == envelope.CodeUnavailable {
		return
	}
	if err != nil {
		if a.leaveUngranted(room) {
			a.refused(room, err)
		}
		return
	}
	mu := a.roomsMu()
	mu.Lock()
	defer mu.Unlock()
	a.out.Lock()
	defer a.out.Unlock()
	if a.rooms.has(room) && a.wantedLocked(room) {
		a.stayLocked(room, until)
	}
}

// refused tells the client that it is not in a room.
func (a asking) refused(room string, err error) {
	code, reason := refusalText(err)
	a.comet.metrics.refusals.WithLabelValues(string(code)).Inc()
	a.tellRoomCode(room, false, code, reason)
}
