package router

import (
	"slices"
	"strings"
	"sync"
	"time"

	"imgo/envelope"
)

// session is one client connection as its owner remembers it. There is one for
// every client that is connected anywhere, so it is kept small; guarded by its
// partition's mu.
type session struct {
	kind   *kind
	id     uint64
	device string
	remote string
	since  int64
	rare   *rare   // nil: nothing of it
	nudge  *nudged // nil: the watch has told it nothing
	// suspect: the comet counts other sessions than the table has; this one
	// goes unless the comet announces it again.
	suspect bool
}

// kind is what a comet's sessions have in common.
type kind struct{ comet, generation, transport string }

// rare is what few sessions have.
type rare struct {
	key      string // as the client chose it
	platform string
	accepts  []int32
	rooms    []string
}

// nudged is what the watch last told, when, and how long it waits before it
// tells the same again.
type nudged struct {
	newest  uint64
	at      time.Time
	backoff time.Duration
}

// kinds has one of each kind; they are few and stay. Safe for concurrent use.
type kinds struct {
	mu  sync.Mutex
	all map[kind]*kind
}

// session is s as it is remembered.
func (ks *kinds) session(s *envelope.SessionInfo) *session {
	k := kind{s.Address.Comet, s.Generation, s.Transport}
	ks.mu.Lock()
	shared := ks.all[k]
	if shared == nil {
		if ks.all == nil {
			ks.all = make(map[kind]*kind)
		}
		shared = &kind{strings.Clone(k.comet), strings.Clone(k.generation), strings.Clone(k.transport)}
		ks.all[*shared] = shared
	}
	ks.mu.Unlock()
	r := &session{kind: shared, id: s.Address.Session, device: s.Device, remote: s.Remote, since: s.SinceMs}
	key := s.Key
	if r.addressKey().HasName(key) {
		key = ""
	}
	if key != "" || s.Platform != "" || len(s.Accepts) > 0 || len(s.Rooms) > 0 {
		r.rare = &rare{key: key, platform: s.Platform, accepts: s.Accepts, rooms: s.Rooms}
	}
	return r
}

func (s *session) comet() string { return s.kind.comet }

func (s *session) addressKey() envelope.AddressKey {
	return envelope.AddressKey{Comet: s.kind.comet, Session: s.id}
}

func (s *session) address() *envelope.Address { return s.addressKey().Address() }

// chosenKey is the key that the client chose; empty: it did not.
func (s *session) chosenKey() string {
	if s.rare == nil {
		return ""
	}
	return s.rare.key
}

// key is the session's key, as callers know it.
func (s *session) key() string {
	if key := s.chosenKey(); key != "" {
		return key
	}
	return s.addressKey().Name()
}

// describe returns the session as it was attached or announced. user is the
// user of its mailbox.
func (s *session) describe(user string) *envelope.SessionInfo {
	d := &envelope.SessionInfo{
		Address: s.address(), User: user, Device: s.device, Key: s.key(), Remote: s.remote,
		Generation: s.kind.generation, Transport: s.kind.transport, SinceMs: s.since,
	}
	if r := s.rare; r != nil {
		d.Platform, d.Accepts, d.Rooms = r.platform, slices.Clone(r.accepts), slices.Clone(r.rooms)
	}
	return d
}
