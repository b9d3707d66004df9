package router

import (
	"slices"
	"strconv"
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
	last   uint64
	floor  uint64
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
func (ks *kinds) session(s *envelope.Session) *session {
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
	r := &session{kind: shared, id: s.Address.Session, device: s.Device, remote: s.Remote, since: s.SinceMs, last: s.Last, floor: s.Floor}
	key := s.Key
	if envelope.IsSessionName(key, shared.comet, r.id) {
		key = ""
	}
	if key != "" || s.Platform != "" || len(s.Accepts) > 0 || len(s.Rooms) > 0 {
		r.rare = &rare{key: key, platform: s.Platform, accepts: s.Accepts, rooms: s.Rooms}
	}
	return r
}

// parseName is the session that a name of the server's own names.
func parseName(name string) (comet string, id uint64, ok bool) {
	i := strings.LastIndexByte(name, '-')
	if i < 0 {
		return "", 0, false
	}
	id, err := strconv.ParseUint(name[i+1:], 16, 64)
	return name[:i], id, err == nil && envelope.IsSessionName(name, name[:i], id)
}

func (s *session) comet() string { return s.kind.comet }

func (s *session) address() *envelope.Address {
	return &envelope.Address{Comet: s.kind.comet, Session: s.id}
}

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
	return envelope.SessionName(s.kind.comet, s.id)
}

// describe is the session in full; user is its mailbox's.
func (s *session) describe(user string) *envelope.Session {
	d := &envelope.Session{
		Address: s.address(), User: user, Device: s.device, Key: s.key(), Remote: s.remote,
		Generation: s.kind.generation, Transport: s.kind.transport, SinceMs: s.since, Last: s.last, Floor: s.floor,
	}
	if r := s.rare; r != nil {
		d.Platform, d.Accepts, d.Rooms = r.platform, slices.Clone(r.accepts), slices.Clone(r.rooms)
	}
	return d
}
