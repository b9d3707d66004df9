package history

import (
	"fmt"
	"maps"
	"slices"
)

// Session records what one session of a device received, in the order of arrival. One goroutine at
// a time may use a Session. Different sessions may be used concurrently, even those of one device.
//
// Some clients drop duplicates by id themselves, over all their connections. Use one Session for
// the whole life of such a client, because it promises more than a connection.
type Session struct {
	h        *History
	u        *user
	d        *device
	n        int64
	ids      []uint64            // ids that arrived in this session, sorted
	last     uint64              // the id that arrived last
	seenLive map[uint64]struct{} // the numbers of received pushes that are not kept
}

// Session starts a new session of a device. It also registers the device, as Device does.
func (h *History) Session(userName, deviceName string) *Session {
	u := h.user(userName)
	u.mu.Lock()
	defer u.mu.Unlock()
	return &Session{h: h, u: u, d: u.deviceLocked(deviceName), n: h.sessions.Add(1), seenLive: make(map[uint64]struct{})}
}

// Got records that a message arrived. number is the push number in the body, and id is the message
// id (0 if the message is not kept). Got reports whether the device received the message for the
// first time.
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
		// All devices received this push long ago and the history has forgotten it. A repetition is
		// allowed if it is in another session, so only the order within this session is checked.
		s.arriveLocked(number, id)
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
	u.assignLocked(p, id, d.name, fmt.Sprintf("session %d saw it as", s.n))

	s.arriveLocked(number, id)

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

// arriveLocked records an id in the session. It adds a violation if the id repeats or is lower than an
// earlier id of the session.
func (s *Session) arriveLocked(number, id uint64) {
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

// GotStranger records that a message arrived that this run did not push. detail describes the
// message.
func (s *Session) GotStranger(id uint64, detail string) { s.fail(KindStranger, 0, id, detail) }

func (s *Session) gotLive(id, number uint64, to []string) (first bool) {
	s.h.liveReceived.Add(1)
	if id != 0 {
		s.fail(KindMixed, number, id, "a push that is not kept has an id")
	}
	if len(to) > 0 && !slices.Contains(to, s.u.name) {
		s.fail(KindStranger, number, id, "it is not kept, and was for others")
	}
	if _, again := s.seenLive[number]; again {
		s.fail(KindAgain, number, id, fmt.Sprintf("session %d; it is not kept", s.n))
		return false
	}
	s.seenLive[number] = struct{}{}
	if keep := s.h.keep; keep > 0 && len(s.seenLive) >= 2*keep {
		for _, old := range slices.Sorted(maps.Keys(s.seenLive))[:keep] {
			delete(s.seenLive, old)
		}
	}
	return true
}

func (s *Session) fail(kind Kind, number, id uint64, detail string) {
	s.h.fail(Violation{kind, s.u.name, s.d.name, number, id, detail})
}
