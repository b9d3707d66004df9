package model_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"imgo/envelope"
)

// errLost is the one verdict that more time may change.
var errLost = errors.New("I2: lost")

// history is what was accepted and what every session saw.
type history struct {
	mu       sync.Mutex
	accepted map[string][]string
	ids      map[string][]uint64 // of the accepted pushes
	readBy   map[string][]*envelope.Read
	sessions []*sessionHistory
	first    map[string]map[uint64]string // user/device → id → body as first seen
	maxFirst map[string]uint64
	// forgone has what a device acknowledged ahead in a session that then ended: user/device → id. If the message
	// was on its way already, its acknowledgement counts, and the device need not see it.
	forgone map[string]map[uint64]bool
	broken  error
	missing struct { // a message that judge found to be lost
		user string
		id   uint64
	}
}

func newHistory() *history {
	return &history{
		accepted: map[string][]string{}, ids: map[string][]uint64{}, readBy: map[string][]*envelope.Read{},
		first: map[string]map[uint64]string{}, maxFirst: map[string]uint64{}, forgone: map[string]map[uint64]bool{},
	}
}

func (h *history) accept(user, body string, id uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.accepted[user] = append(h.accepted[user], body)
	h.ids[user] = append(h.ids[user], id)
}

// recent returns the id of the push that was accepted n pushes ago; 0: there is none.
func (h *history) recent(user string, n int) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	ids := h.ids[user]
	if n >= len(ids) {
		return 0
	}
	return ids[len(ids)-1-n]
}

// reads notes that a user is about to read messages: no device need see them any more.
func (h *history) reads(read *envelope.Read) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.readBy[read.User] = append(h.readBy[read.User], read)
}

// read reports whether a user may have read a message.
func (h *history) read(user string, id uint64) bool {
	return slices.ContainsFunc(h.readBy[user], func(r *envelope.Read) bool { return id <= r.UpTo || slices.Contains(r.Ids, id) })
}

// sessionHistory is what one session saw.
type sessionHistory struct {
	h            *history
	n            int
	user, device string
	ids          []uint64
	ahead        []uint64 // acknowledged before they were seen
}

// acknowledgedAhead notes that the session acknowledges ids that it has not seen.
func (s *sessionHistory) acknowledgedAhead(ids []uint64) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	s.ahead = append(s.ahead, ids...)
}

// ended notes that the session sees nothing more.
func (s *sessionHistory) ended() {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	device := s.user + "/" + s.device
	if s.h.forgone[device] == nil {
		s.h.forgone[device] = map[uint64]bool{}
	}
	for _, id := range s.ahead {
		s.h.forgone[device][id] = true
	}
}

func (h *history) session(user, device string) *sessionHistory {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &sessionHistory{h: h, n: len(h.sessions), user: user, device: device}
	h.sessions = append(h.sessions, s)
	return s
}

func (h *history) fail(format string, args ...any) {
	if h.broken == nil {
		h.broken = fmt.Errorf(format, args...)
	}
}

func (s *sessionHistory) got(id uint64, body string) {
	h := s.h
	h.mu.Lock()
	defer h.mu.Unlock()
	device := s.user + "/" + s.device
	if slices.Contains(s.ids, id) {
		h.fail("I3: session %d of %s saw %d twice", s.n, device, id)
	}
	if n := len(s.ids); n > 0 && id < s.ids[n-1] {
		h.fail("I4: session %d of %s saw %d after %d", s.n, device, id, s.ids[n-1])
	}
	s.ids = append(s.ids, id)
	seen := h.first[device]
	if seen == nil {
		seen = map[uint64]string{}
		h.first[device] = seen
	}
	if was, ok := seen[id]; ok {
		if was != body {
			h.fail("%s saw %q and %q under the id %d", device, was, body, id)
		}
		return
	}
	// A router that is behind may hand out what was read meanwhile.
	if id < h.maxFirst[device] && !h.read(s.user, id) {
		h.fail("I4: %s first saw %d after %d", device, id, h.maxFirst[device])
	}
	for other, b := range seen {
		if b == body {
			h.fail("I3: %s saw push %s under the ids %d and %d", device, body, other, id)
		}
	}
	h.maxFirst[device] = max(h.maxFirst[device], id)
	seen[id] = body
}

// judge says what is wrong with the history so far.
func (h *history) judge() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.broken != nil {
		return h.broken
	}
	for _, user := range users {
		for _, device := range devices {
			seen := map[string]bool{}
			for _, body := range h.first[user+"/"+device] {
				seen[body] = true
			}
			var lost []string
			for i, body := range h.accepted[user] {
				id := h.ids[user][i]
				if !seen[body] && !h.read(user, id) && !h.forgone[user+"/"+device][id] {
					lost = append(lost, body)
					h.missing.user, h.missing.id = user, id
				}
			}
			if len(lost) > 0 {
				return fmt.Errorf("%w: %s/%s never saw %v of %d", errLost, user, device, lost, len(h.accepted[user]))
			}
		}
	}
	return nil
}
