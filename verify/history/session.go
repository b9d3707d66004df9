package history

import (
	"fmt"
	"maps"
	"slices"
)

// Session is what one session of a device received, in the order of arrival.
// It is for one goroutine at a time; different sessions, of one device too,
// may be used side by side.
//
// A client that drops by itself what it has by id, over all its connections,
// is one session all its life: such a client promises more.
type Session struct {
	h      *History
	u      *user
	d      *device
	n      int64
	ids    []uint64            // sorted
	last   uint64              // the last one that arrived
	lively map[uint64]struct{} // pushes that are not kept
}

// Session begins a session of a device.
func (h *History) Session(userName, deviceName string) *Session {
	u := h.user(userName)
	u.mu.Lock()
	defer u.mu.Unlock()
	return &Session{h: h, u: u, d: u.device(deviceName), n: h.sessions.Add(1), lively: make(map[uint64]struct{})}
}

// Got says that a message arrived: the number that its body carries, under the
// id (0: it is not kept). first says that the device had not seen it before.
func (s *Session) Got(id, number uint64) (first bool) {
	s.h.mu.RLock()
	to, live := s.h.live[number]
	s.h.mu.RUnlock()
	if live {
		return s.gotLive(id, number, to)
	}
	s.h.received.Add(1)
	u, d := s.u, s.d
	u.mu.Lock()
	defer u.mu.Unlock()
	p := u.pushes[number]
	switch {
	case p == nil && id != 0 && id <= u.forgotten:
		// It was everywhere long ago. To come again is for another session.
		s.arrive(number, id)
		s.h.repeated.Add(1)
		return false
	case p == nil:
		s.fail(KindStranger, number, id, "it was never tried for this user")
		return false
	case id == 0:
		s.fail(KindMixed, number, id, "a kept push without an id")
		return false
	case p.refused:
		s.fail(KindRefused, number, id, "")
	}
	u.assign(p, id, d.name, fmt.Sprintf("session %d saw it as", s.n))

	s.arrive(number, id)

	at, again := slices.BinarySearch(d.ids, id)
	if again {
		s.h.repeated.Add(1)
		return false
	}
	if at < len(d.ids) {
		s.fail(KindOrder, number, id, fmt.Sprintf("session %d: the device first saw it after %d", s.n, d.ids[len(d.ids)-1]))
	}
	d.ids = slices.Insert(d.ids, at, id)
	return true
}

// arrive judges an id by what the session had before.
func (s *Session) arrive(number, id uint64) {
	at, again := slices.BinarySearch(s.ids, id)
	switch {
	case again:
		s.fail(KindAgain, number, id, fmt.Sprintf("session %d, where the last was %d", s.n, s.last))
	case at < len(s.ids):
		s.fail(KindOrder, number, id, fmt.Sprintf("session %d saw it after %d", s.n, s.last))
	}
	if !again {
		s.ids = slices.Insert(s.ids, at, id)
	}
	s.last = id
	if keep := s.h.keep; keep > 0 && len(s.ids) >= 2*keep {
		s.ids = slices.Clone(s.ids[len(s.ids)-keep:])
	}
}

// GotStranger says that a message arrived that nobody here pushed; detail says
// what it was.
func (s *Session) GotStranger(id uint64, detail string) { s.fail(KindStranger, 0, id, detail) }

func (s *Session) gotLive(id, number uint64, to []string) (first bool) {
	s.h.liveReceived.Add(1)
	if id != 0 {
		s.fail(KindMixed, number, id, "a push that is not kept has an id")
	}
	if len(to) > 0 && !slices.Contains(to, s.u.name) {
		s.fail(KindStranger, number, id, "it is not kept, and was for others")
	}
	if _, again := s.lively[number]; again {
		s.fail(KindAgain, number, id, fmt.Sprintf("session %d; it is not kept", s.n))
		return false
	}
	s.lively[number] = struct{}{}
	if keep := s.h.keep; keep > 0 && len(s.lively) >= 2*keep {
		for _, old := range slices.Sorted(maps.Keys(s.lively))[:keep] {
			delete(s.lively, old)
		}
	}
	return true
}

func (s *Session) fail(kind Kind, number, id uint64, detail string) {
	s.h.fail(Violation{kind, s.u.name, s.d.name, number, id, detail})
}
