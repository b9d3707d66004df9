package router

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"imgo/envelope"
)

// session is one client connection as its owner remembers it. There is one for
// every client that is connected anywhere, so it is kept small. Its partition's
// mu guards it.
type session struct {
	kind     *sessionKind
	id       uint64
	device   string
	remote   string
	since    int64
	extra    *sessionExtra // nil: it has nothing of it
	reminder *reminder     // nil: the watch has told it nothing
	// suspect is set if the session may have ended without a word. Its comet counts
	// other sessions than the table has (presence.compare), or another router owned
	// the partition meanwhile (presenceRecorder.regainLocked). Each of the two has the
	// comet announce its sessions again. A session that is announced replaces the
	// suspect one. When the time is over, all that are still suspect go, also those
	// that the other one marked. If such a session lives, its announcement is under way.
	suspect bool
	arrival uint32 // see envelope.SessionInfo
}

// sessionKind is what many sessions of a comet have in common.
type sessionKind struct {
	comet, clientProtocol, transport string
	incarnation                      uint64 // of the comet
}

// sessionExtra is what few sessions have.
type sessionExtra struct {
	key string // as the client chose it
	// globalKey is set if the key names the session without its user.
	globalKey bool
	platform  string
	accepts   []int32
	rooms     []string
	roomsAt   uint64 // of the list of memberships that it follows
}

// sessionKinds has one of each sessionKind. They are few: those of a comet go when it
// restarts or is silent. It is safe for concurrent use.
type sessionKinds struct {
	mu  sync.Mutex
	all map[sessionKind]*sessionKind
}

func (ks *sessionKinds) get(k sessionKind) *sessionKind {
	ks.mu.Lock()
	defer ks.mu.Unlock()
	shared := ks.all[k]
	if shared == nil {
		if ks.all == nil {
			ks.all = make(map[sessionKind]*sessionKind)
		}
		shared = &sessionKind{strings.Clone(k.comet), strings.Clone(k.clientProtocol), strings.Clone(k.transport), k.incarnation}
		ks.all[*shared] = shared
	}
	return shared
}

// forget forgets the kinds of a comet. Its sessions keep theirs.
func (ks *sessionKinds) forget(comet string) {
	ks.mu.Lock()
	defer ks.mu.Unlock()
	maps.DeleteFunc(ks.all, func(k sessionKind, _ *sessionKind) bool { return k.comet == comet })
}

// newSession returns the session as it is remembered.
func (ks *sessionKinds) newSession(info *envelope.SessionInfo) *session {
	s := &session{
		kind: ks.get(sessionKind{info.Address.Comet, info.Generation, info.Transport, info.Incarnation}),
		id:   info.Address.Session, device: info.Device, remote: info.Remote, since: info.SinceMs,
		arrival: info.Arrival,
	}
	if info.Key != "" || info.Platform != "" || len(info.Accepts) > 0 || len(info.Rooms) > 0 || info.RoomsAt > 0 {
		s.extra = &sessionExtra{
			key: info.Key, globalKey: info.Key != "" && info.GlobalKey, platform: info.Platform, accepts: info.Accepts, rooms: info.Rooms,
			roomsAt: info.RoomsAt,
		}
	}
	return s
}

// describe returns the session as it was attached or announced. user is the
// user of its account.
func (s *session) describe(user string) *envelope.SessionInfo {
	info := &envelope.SessionInfo{
		Address: s.address().Address(), User: user, Device: s.device, Remote: s.remote,
		Generation: s.kind.clientProtocol, Transport: s.kind.transport, SinceMs: s.since, Incarnation: s.kind.incarnation,
		Arrival: s.arrival,
	}
	if x := s.extra; x != nil {
		info.Key, info.GlobalKey, info.Platform, info.RoomsAt = x.key, x.globalKey, x.platform, x.roomsAt
		info.Accepts, info.Rooms = slices.Clone(x.accepts), slices.Clone(x.rooms)
	}
	return info
}

func (s *session) address() envelope.AddressKey {
	return envelope.AddressKey{Comet: s.kind.comet, Session: s.id}
}

// isNewer reports whether the client of a session came after the one of info. It is false if that is not known: each comet
// has a clock of its own. A suspect session is no newer one, since its client may have left.
func (s *session) isNewer(info *envelope.SessionInfo) bool {
	sameComet := s.kind.comet == info.Address.Comet && s.kind.incarnation == info.Incarnation
	return sameComet && !s.suspect && envelope.ArrivedAfter(s.arrival, info.Arrival)
}

// globalKey returns the key that names the session without its user, or an empty
// string if there is none.
func (s *session) globalKey() string {
	if s.extra == nil || !s.extra.globalKey {
		return ""
	}
	return s.extra.key
}

// target returns the session as one that is to get a message. Both messages
// take one allocation.
func (s *session) target(prev uint64) *envelope.ResolvedTarget {
	t := &struct {
		target  envelope.ResolvedTarget
		address envelope.Address
	}{}
	t.address.Comet, t.address.Session = s.kind.comet, s.id
	t.target.To, t.target.Prev = &t.address, prev
	return &t.target
}

// reminder is what the watch last told a session, when, and how long it waits
// before it tells the same again.
type reminder struct {
	newest uint64
	at     time.Time
	pause  time.Duration
}

// sessionTable has the sessions of a partition by comet and by key. The lock of its
// methods is the partition's mu.
type sessionTable struct {
	kinds *sessionKinds
	gauge prometheus.Gauge
	// byComet has the accounts of the sessions on each comet, by session id.
	byComet map[string]map[uint64]*account
	// byKey has the accounts with a session that the key names without its user.
	byKey map[string][]*account
	// online counts the accounts that have a session.
	online int
}

func newSessionTable(kinds *sessionKinds, gauge prometheus.Gauge) sessionTable {
	return sessionTable{kinds: kinds, gauge: gauge, byComet: make(map[string]map[uint64]*account), byKey: make(map[string][]*account)}
}

// addLocked puts a session into the table, in place of one with the same address. place is where it stands among the user's
// sessions, from the oldest on.
func (t *sessionTable) addLocked(a *account, info *envelope.SessionInfo, place int) {
	s := t.kinds.newSession(info)
	t.removeLocked(a, s.address())
	if len(a.sessions) == 0 {
		t.online++
	}
	a.sessions = slices.Insert(a.sessions, place, s)
	of := t.byComet[s.kind.comet]
	if of == nil {
		of = make(map[uint64]*account)
		t.byComet[s.kind.comet] = of
	}
	of[s.id] = a
	if key := s.globalKey(); key != "" {
		t.byKey[key] = append(t.byKey[key], a)
	}
	t.gauge.Inc()
}

// placeOf returns where a session that comes back into the table stands among the user's sessions: where it is, or before
// the first one that began later by the clocks of their comets.
func (a *account) placeOf(info *envelope.SessionInfo) int {
	address := info.Address.AsKey()
	if i := slices.IndexFunc(a.sessions, func(s *session) bool { return s.address() == address }); i >= 0 {
		return i
	}
	if i := slices.IndexFunc(a.sessions, func(s *session) bool { return s.since > info.SinceMs }); i >= 0 {
		return i
	}
	return len(a.sessions)
}

// removeLocked takes a session out of the table. It reports whether it was there.
func (t *sessionTable) removeLocked(a *account, address envelope.AddressKey) bool {
	s := a.session(address)
	if s == nil {
		return false
	}
	a.sessions = slices.DeleteFunc(a.sessions, func(o *session) bool { return o == s })
	if of := t.byComet[address.Comet]; of != nil {
		delete(of, address.Session)
		if len(of) == 0 {
			delete(t.byComet, address.Comet)
		}
	}
	if key := s.globalKey(); key != "" {
		t.removeKeyLocked(key, a)
	}
	t.gauge.Dec()
	if len(a.sessions) == 0 {
		t.online--
	}
	return true
}

func (t *sessionTable) removeKeyLocked(key string, a *account) {
	of := t.byKey[key]
	if i := slices.Index(of, a); i >= 0 {
		of = slices.Delete(of, i, i+1)
	}
	if len(of) == 0 {
		delete(t.byKey, key)
	} else {
		t.byKey[key] = of
	}
}

// withKeyLocked appends to out the session that has key as its name, whether or not its
// client chose a key, or the sessions that key names without their user.
func (t *sessionTable) withKeyLocked(out []*envelope.SessionInfo, key string) []*envelope.SessionInfo {
	if address, ok := envelope.ParseSessionName(key); ok {
		if a := t.byComet[address.Comet][address.Session]; a != nil {
			info := a.session(address).describe(a.User())
			info.Key = key // what the caller knows it by
			out = append(out, info)
		}
		return out
	}
	for i, a := range t.byKey[key] {
		if slices.Contains(t.byKey[key][:i], a) {
			continue // an account is there once for each of its sessions
		}
		for _, s := range a.sessions {
			if s.globalKey() == key {
				out = append(out, s.describe(a.User()))
			}
		}
	}
	return out
}

// eachLocked calls do for each session on a comet. do may remove the session.
func (t *sessionTable) eachLocked(comet string, do func(*account, *session)) {
	for id, a := range t.byComet[comet] {
		if s := a.session(envelope.AddressKey{Comet: comet, Session: id}); s != nil {
			do(a, s)
		}
	}
}
