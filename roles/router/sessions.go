package router

import (
	"slices"
	"time"

	"imgo/envelope"
)

// comets is a partition's view of which sessions are on which comet; it is
// guarded by the partition's mutex.
type comets map[string]map[uint64]*mailbox

func (c comets) add(s *session, m *mailbox) {
	of := c[s.comet()]
	if of == nil {
		of = make(map[uint64]*mailbox)
		c[s.comet()] = of
	}
	of[s.id] = m
}

func (c comets) remove(a envelope.AddressKey) {
	if of := c[a.Comet]; of != nil {
		delete(of, a.Session)
		if len(of) == 0 {
			delete(c, a.Comet)
		}
	}
}

// peer is what router knows of a comet as a whole.
type peer struct {
	incarnation uint64 // 0: it has not announced itself yet
	// seen is its last sign of life, buried when its sessions were last
	// dropped because there was none.
	seen, buried time.Time
	// drops counts how often the comet's sessions were dropped: it is part of
	// the epoch, so that a comet that was thought dead announces them again.
	drops uint64
	rooms map[string]uint32
	// doubt counts the announcements since the comet was asked to announce
	// its sessions again because its count differs; 0: it was not.
	doubt int
	// odd counts announcements in a row whose number of sessions differed
	// from the table's, by partition.
	odd map[uint32]mismatch
}

type mismatch struct {
	want, have uint32
	times      int
}

// oddLimit is how many announcements in a row may differ in the same way
// before the table is taken to be wrong: one may merely cross a connect.
const oddLimit = 3

// epoch is what a comet compares to know whether this router still has the
// sessions that it announced.
// All that is added only grows.
func (r *Router) epoch(p *peer) uint64 { return r.started + p.drops }

// peer is what is known of a comet; one that was not known is met now. The
// caller holds peersMu.
func (r *Router) peer(comet string, now time.Time) *peer {
	p := r.peers[comet]
	if p == nil {
		p = &peer{seen: now, drops: r.forgotten, odd: make(map[uint32]mismatch)}
		r.peers[comet] = p
	}
	return p
}

// announce is a comet's sign of life; it carries sessions that the router
// does not have yet, and is answered with the epochs to compare.
func (r *Router) announce(req *envelope.AnnounceRequest, now time.Time) *envelope.AnnounceReply {
	r.peersMu.Lock()
	p := r.peer(req.Comet, now)
	// Also of one that was not known: sessions of an incarnation that died
	// before it could announce itself may be here.
	restarted := p.incarnation != req.Incarnation
	if restarted {
		p.incarnation = req.Incarnation
		p.drops++
	}
	p.seen = now
	if req.Rooms != nil {
		p.rooms = req.Rooms
	}
	reply := &envelope.AnnounceReply{Epochs: make(map[uint32]uint64), Rooms: make(map[string]uint32, len(req.Rooms))}
	for room := range req.Rooms {
		var n uint32
		for _, o := range r.peers {
			n += o.rooms[room]
		}
		reply.Rooms[room] = n
	}
	r.peersMu.Unlock()

	if restarted {
		r.dropComet(req.Comet, func(s *session) bool { return uint32(s.id>>32) != uint32(req.Incarnation) })
	}
	for _, s := range req.Sessions {
		r.register(s, now)
	}
	if len(req.Sessions) == 0 {
		r.compare(req, p)
	}
	r.peersMu.Lock()
	epoch := r.epoch(p)
	r.peersMu.Unlock()
	for _, p := range r.local() {
		if !p.owned.Load() {
			continue
		}
		p.mu.Lock()
		if p.here() == nil {
			reply.Epochs[uint32(p.index)] = epoch + p.gain.Load()
		}
		p.mu.Unlock()
	}
	return reply
}

// compare finds out whether a comet's count differs from the table's for
// several announcements in the same way. The comet is then asked to announce
// its sessions again (the epoch changes); those that it has not named a few
// announcements later are gone, and until then nobody looks offline.
func (r *Router) compare(req *envelope.AnnounceRequest, p *peer) {
	r.peersMu.Lock()
	doubt := p.doubt
	if doubt > 0 {
		p.doubt++
	}
	if doubt > oddLimit {
		p.doubt = 0
	}
	r.peersMu.Unlock()
	if doubt > 0 {
		if doubt > oddLimit {
			n := r.dropComet(req.Comet, func(s *session) bool { return s.suspect })
			r.log.Warn().Str("comet", req.Comet).Int("sessions", n).Msg("sessions that their comet did not announce again left the table")
		}
		return
	}
	if !r.odd(req, p) {
		return
	}
	r.log.Warn().Str("comet", req.Comet).Msg("the comet counts other sessions than the table has: asking it to announce them again")
	r.sessionsOf(req.Comet, func(part *partition, _ *mailbox, s *session) { s.suspect = part.owned.Load() })
	r.peersMu.Lock()
	p.drops++
	p.doubt = 1
	r.peersMu.Unlock()
}

// odd says whether some partition's count has differed often enough.
func (r *Router) odd(req *envelope.AnnounceRequest, p *peer) (odd bool) {
	for _, part := range r.local() {
		if !part.owned.Load() {
			continue
		}
		i := part.index
		part.mu.Lock()
		have := uint32(len(part.comets[req.Comet]))
		part.mu.Unlock()
		want := req.Partitions[uint32(i)]
		r.peersMu.Lock()
		last := p.odd[uint32(i)]
		switch {
		case want == have:
			delete(p.odd, uint32(i))
		case last.want == want && last.have == have && last.times+1 >= oddLimit:
			delete(p.odd, uint32(i))
			odd = true
		case last.want == want && last.have == have:
			p.odd[uint32(i)] = mismatch{want, have, last.times + 1}
		default:
			p.odd[uint32(i)] = mismatch{want, have, 1}
		}
		r.peersMu.Unlock()
	}
	return odd
}

// register puts an announced session into the table. One of a partition that
// is not here, or has yet to find its place, is announced again: the comet is
// told no epoch of that partition.
func (r *Router) register(s *envelope.SessionInfo, now time.Time) {
	if s.GetAddress() == nil || s.User == "" {
		return
	}
	part := (*r.table.Load())[r.index(s.User)]
	if part == nil {
		return
	}
	part.mu.Lock()
	defer part.mu.Unlock()
	if part.here() != nil {
		return
	}
	m, err := part.mailbox(s.User, now)
	if err != nil {
		r.log.Error().Err(err).Str("user", s.User).Msg("an announced session is not in the table")
		return
	}
	part.addSession(m, s)
}

// sessionsOf calls do for each of a comet's sessions, with its partition's mu
// held; do may remove the session.
func (r *Router) sessionsOf(comet string, do func(*partition, *mailbox, *session)) {
	for _, part := range r.local() {
		part.mu.Lock()
		for id, m := range part.comets[comet] {
			if s := m.session(envelope.AddressKey{Comet: comet, Session: id}); s != nil {
				do(part, m, s)
			}
		}
		part.mu.Unlock()
	}
}

// dropComet forgets a comet's sessions (those that which names, or all).
func (r *Router) dropComet(comet string, which func(*session) bool) (n int) {
	r.sessionsOf(comet, func(part *partition, m *mailbox, s *session) {
		if which == nil || which(s) {
			part.removeSession(m, s.addressKey())
			n++
		}
	})
	return n
}

// forgetAfter is how long a comet that gives no sign of life is known.
const forgetAfter = 24 * time.Hour

// bury drops the sessions of comets that gave no sign of life for
// CometTimeout, and forgets comets that gave none for forgetAfter.
func (r *Router) bury(now time.Time) {
	here := r.cometsHere()
	var dead []string
	r.peersMu.Lock()
	for name := range here {
		// One that died before its first announcement came through is silent
		// from now on; nobody else will ever name it.
		r.peer(name, now)
	}
	for name, p := range r.peers {
		switch silent := now.Sub(p.seen); {
		case silent > forgetAfter:
			// Its epochs must not come back with it.
			r.forgotten = max(r.forgotten, p.drops+1)
			delete(r.peers, name)
		case silent > r.cfg.CometTimeout && now.Sub(p.buried) > r.cfg.CometTimeout:
			dead = append(dead, name)
			// Keep the drops: the comet may come back in the same incarnation.
			p.drops++
			p.rooms, p.buried = nil, now
		}
	}
	r.peersMu.Unlock()
	for _, name := range dead {
		if n := r.dropComet(name, nil); n > 0 {
			r.metrics.buried.Add(float64(n))
			r.log.Warn().Str("comet", name).Int("sessions", n).Dur("silent", r.cfg.CometTimeout).
				Msg("comet is silent: its sessions left the table")
		}
	}
}

// cometsHere are the comets that have a session in the table.
func (r *Router) cometsHere() map[string]struct{} {
	here := make(map[string]struct{})
	for _, part := range r.local() {
		part.mu.Lock()
		for name := range part.comets {
			here[name] = struct{}{}
		}
		part.mu.Unlock()
	}
	return here
}

// addSession and removeSession keep the partition's indexes of sessions. The
// caller holds mu.
func (p *partition) addSession(m *mailbox, announced *envelope.SessionInfo) {
	s := p.r.kinds.session(announced)
	p.removeSession(m, s.addressKey())
	if len(m.sessions) == 0 {
		p.online++
	}
	m.sessions = append(m.sessions, s)
	p.comets.add(s, m)
	if key := s.chosenKey(); key != "" {
		p.keys[key] = append(p.keys[key], m)
	}
	p.r.metrics.sessions.Inc()
	p.touch(m, 0)
}

func (p *partition) removeSession(m *mailbox, a envelope.AddressKey) *session {
	s := m.removeSession(a)
	if s == nil {
		return nil
	}
	p.comets.remove(a)
	if key := s.chosenKey(); key != "" {
		p.removeKey(key, m)
	}
	p.r.metrics.sessions.Dec()
	if len(m.sessions) == 0 {
		p.online--
		delete(p.watching, m)
	}
	return s
}

// withKey are the mailboxes with a session that has a key. The caller holds mu.
func (p *partition) withKey(key string) []*mailbox {
	found := p.keys[key]
	if a, ok := envelope.ParseSessionName(key); ok {
		if m := p.comets[a.Comet][a.Session]; m != nil && !slices.Contains(found, m) {
			found = append(slices.Clip(found), m)
		}
	}
	return found
}

func (p *partition) removeKey(key string, m *mailbox) {
	of := p.keys[key]
	for i := range of {
		if of[i] == m {
			of[i] = of[len(of)-1]
			of[len(of)-1] = nil
			of = of[:len(of)-1]
			break
		}
	}
	if len(of) == 0 {
		delete(p.keys, key)
	} else {
		p.keys[key] = of
	}
}
