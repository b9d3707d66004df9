package router

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"imgo/envelope"
)

const (
	// forgetAfter is how long a comet that gives no sign of life is known.
	forgetAfter = 24 * time.Hour
	// mismatchLimit is how many announcements in a row may differ in the same
	// way before the table is taken to be wrong: one may merely cross a connect.
	mismatchLimit = 3
)

// cometTable is what a router knows of comets as a whole. It is safe for
// concurrent use. Its mu is never held while a partition's is taken.
type cometTable struct {
	// started tells this router's memory from that of the process before.
	started uint64
	mu      sync.Mutex
	comets  map[string]*cometState
	// rooms has the sessions of all comets in each room.
	rooms map[string]uint32
	// forgottenDrops is what the drops of a comet that is met begin at.
	forgottenDrops uint64
}

func newCometTable() *cometTable {
	return &cometTable{started: rand.Uint64(), comets: make(map[string]*cometState), rooms: make(map[string]uint32)}
}

// cometState is what a router knows of one comet.
type cometState struct {
	incarnation uint64 // 0: it has not announced itself yet
	number      uint64 // of its last announcement of counts
	// seen is its last sign of life. expired is when its sessions were last
	// dropped because there was none.
	seen, expired time.Time
	// drops counts how often the comet's sessions were dropped. It is part of
	// the epoch, so that a comet that was thought dead announces them again.
	drops uint64
	rooms map[string]uint32
	// review counts the announcements since the comet was asked to announce its
	// sessions again because its count differs, or has last announced some. It is 0 if the comet was not asked.
	review int
	// mismatches has the partitions in which its count differs from the table's.
	mismatches map[uint32]mismatch
}

// mismatch is by how much a count of sessions differs from the table's, in so many
// announcements in a row. Both counts may change meanwhile: sessions come and go.
type mismatch struct {
	difference int64
	times      int
}

// getLocked returns what is known of a comet; one that was not known is met now.
func (t *cometTable) getLocked(comet string, now time.Time) *cometState {
	c := t.comets[comet]
	if c == nil {
		c = &cometState{seen: now, drops: t.forgottenDrops, mismatches: make(map[uint32]mismatch)}
		t.comets[comet] = c
	}
	return c
}

// announced notes a comet's sign of life. It returns how many sessions all
// comets have in the rooms that the comet named. restarted reports whether the
// comet's incarnation was not known. counts reports whether req has counts that are to be compared. It is false if they have
// come before, by another logic.
func (t *cometTable) announced(req *envelope.AnnounceRequest, now time.Time) (rooms map[string]uint32, restarted, counts bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.getLocked(req.Comet, now)
	// Also of a comet that was not known: sessions of an incarnation that died
	// before it could announce itself may be here.
	if restarted = c.incarnation != req.Incarnation; restarted {
		c.incarnation, c.number = req.Incarnation, 0
		c.drops++
	}
	c.seen = now
	if len(req.Sessions) == 0 {
		t.setRoomsLocked(c, req.Rooms)
		counts = req.Number == 0 || req.Number > c.number
		c.number = max(c.number, req.Number)
	} else {
		c.review = min(c.review, 1) // it still announces sessions, so it gets its time anew
	}
	rooms = make(map[string]uint32, len(req.Rooms))
	for room := range req.Rooms {
		rooms[room] = t.rooms[room]
	}
	return rooms, restarted, counts
}

// setRoomsLocked replaces the numbers of a comet's sessions in rooms.
func (t *cometTable) setRoomsLocked(c *cometState, rooms map[string]uint32) {
	for room, n := range c.rooms {
		if t.rooms[room] -= n; t.rooms[room] == 0 {
			delete(t.rooms, room)
		}
	}
	for room, n := range rooms {
		t.rooms[room] += n
	}
	c.rooms = rooms
}

// epoch returns what a comet compares to know whether this router still has the
// sessions that it announced. All that it is the sum of only grows.
func (t *cometTable) epoch(comet string, now time.Time) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.started + t.getLocked(comet, now).drops
}

// forget notes that a comet's sessions are dropped because a caller asked for
// it. A comet that is alive announces them again.
func (t *cometTable) forget(comet string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.comets[comet]; c != nil {
		c.drops++
		t.setRoomsLocked(c, nil)
	}
}

// reviewStep counts an announcement of a comet that was asked to announce its
// sessions again. reviewing is false if it was not asked. over is true when it
// has had the time: sessions that it did not announce again are gone.
func (t *cometTable) reviewStep(comet string, now time.Time) (reviewing, over bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.getLocked(comet, now)
	if c.review == 0 {
		return false, false
	}
	c.review++
	if over = c.review > mismatchLimit+1; over {
		c.review = 0
	}
	return true, over
}

// beginReview has the comet announce its sessions again: its epoch changes.
func (t *cometTable) beginReview(comet string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.getLocked(comet, now)
	c.drops++
	c.review = 1
}

// miscounted reports whether the number of a comet's sessions in a partition
// differed from the table's by the same in enough announcements in a row. want is the
// comet's number, have the table's.
func (t *cometTable) miscounted(comet string, partition, want, have uint32, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.getLocked(comet, now)
	next := mismatch{int64(want) - int64(have), 1}
	if last := c.mismatches[partition]; last.difference == next.difference {
		next.times = last.times + 1
	}
	if want == have || next.times >= mismatchLimit {
		delete(c.mismatches, partition)
		return want != have
	}
	c.mismatches[partition] = next
	return false
}

// expire returns the comets that gave no sign of life for timeout, and forgets
// those that gave none for forgetAfter. present are comets that have a session
// here; one that is not known yet is silent from now on.
func (t *cometTable) expire(present map[string]struct{}, timeout time.Duration, now time.Time) (silent []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name := range present {
		// No announcement ever names a comet that died before its first one came
		// through.
		t.getLocked(name, now)
	}
	for name, c := range t.comets {
		switch d := now.Sub(c.seen); {
		case d > forgetAfter:
			// Its epochs must not come back with it.
			t.forgottenDrops = max(t.forgottenDrops, c.drops+1)
			t.setRoomsLocked(c, nil)
			delete(t.comets, name)
		case d > timeout && now.Sub(c.expired) > timeout:
			silent = append(silent, name)
			// The comet may come back in the same incarnation.
			c.drops++
			c.expired = now
			t.setRoomsLocked(c, nil)
		}
	}
	return silent
}

// presence keeps the sessions of all partitions true to what comets announce.
// It is safe for concurrent use.
type presence struct {
	*resources
	parts  *ownership
	comets *cometTable
}

func newPresence(parts *ownership) *presence {
	return &presence{resources: parts.resources, parts: parts, comets: newCometTable()}
}

// announce takes a comet's sign of life. It carries sessions that the router
// does not have yet, and is answered with the epochs to compare. The comet announces
// the sessions of a partition again that has no epoch in the reply.
func (pr *presence) announce(ctx context.Context, req *envelope.AnnounceRequest) *envelope.AnnounceReply {
	now := pr.now()
	rooms, restarted, counts := pr.comets.announced(req, now)
	reply := &envelope.AnnounceReply{Epochs: make(map[uint32]uint64), Rooms: rooms}
	if restarted {
		pr.kinds.forget(req.Comet)
		pr.drop(req.Comet, now, func(s *session) bool { return s.kind.incarnation != req.Incarnation })
	}
	unfinished := pr.register(ctx, req.Sessions)
	if counts {
		pr.compare(req, now)
	}
	epoch := pr.comets.epoch(req.Comet, now)
	for _, p := range pr.parts.local() {
		if !p.owned.Load() {
			continue
		}
		p.mu.Lock()
		if p.hereLocked() == nil {
			if len(req.Sessions) == 0 {
				p.presence.announcedLocked(req.Comet, req.Partitions[uint32(p.index)], now)
			}
			if !unfinished[p] {
				reply.Epochs[uint32(p.index)] = epoch + p.gain.Load()
			}
		}
		p.mu.Unlock()
	}
	return reply
}

// compare finds out whether a comet's count differs from the table's for
// several announcements in the same way. The comet is then asked to announce
// its sessions again. Those that it has not named a few announcements later are
// gone; until then no session looks offline.
func (pr *presence) compare(req *envelope.AnnounceRequest, now time.Time) {
	if reviewing, over := pr.comets.reviewStep(req.Comet, now); reviewing {
		if over {
			n := pr.drop(req.Comet, now, func(s *session) bool { return s.suspect })
			pr.log.Warn().Str("comet", req.Comet).Int("sessions", n).
				Msg("sessions that their comet did not announce again left the table")
		}
		return
	}
	miscounted := false
	for _, p := range pr.parts.local() {
		if !p.owned.Load() {
			continue
		}
		i := uint32(p.index)
		p.mu.Lock()
		here, have := p.hereLocked() == nil, uint32(len(p.sessions.byComet[req.Comet]))
		p.mu.Unlock()
		// A partition that has yet to find its place takes no sessions.
		if here && pr.comets.miscounted(req.Comet, i, req.Partitions[i], have, now) {
			miscounted = true
		}
	}
	if !miscounted {
		return
	}
	pr.log.Warn().Str("comet", req.Comet).Msg("the comet counts other sessions than the table has: asking it to announce them again")
	pr.each(req.Comet, func(p *partition, _ *account, s *session) { s.suspect = p.owned.Load() })
	pr.comets.beginReview(req.Comet, now)
}

// register puts announced sessions into the table, in all of their partitions at the same time: one may wait for the store.
// unfinished has the partitions that have not taken all of theirs. register ends before ctx does, so that the reply is in
// time.
func (pr *presence) register(ctx context.Context, sessions []*envelope.SessionInfo) (unfinished map[*partition]bool) {
	if by, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(by)*3/4)
		defer cancel()
	}
	parts := make(map[*partition][]*envelope.SessionInfo)
	for _, info := range sessions {
		if info.GetAddress() == nil || info.User == "" {
			continue
		}
		if p := pr.parts.peek(info.User); p != nil {
			parts[p] = append(parts[p], info)
		}
	}
	unfinished = make(map[*partition]bool)
	var mu sync.Mutex // guards unfinished
	var g sync.WaitGroup
	for p, part := range parts {
		g.Go(func() {
			if !p.register(ctx, part) {
				mu.Lock()
				defer mu.Unlock()
				unfinished[p] = true
			}
		})
	}
	g.Wait()
	return unfinished
}

// register puts announced sessions into the table, with mu taken once for as many as possible: while the partition is read
// back, whoever takes it waits. It reports false if the partition has yet to find its place, or if ctx was done first.
func (p *partition) register(ctx context.Context, sessions []*envelope.SessionInfo) (all bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, info := range sessions {
		if ctx.Err() != nil || p.hereLocked() != nil {
			return false
		}
		a, err := p.accounts.openLocked(ctx, info.User)
		switch {
		case err == nil:
			p.addSessionLocked(a, info, a.placeOf(info), p.now())
			if info.RoomsAt < a.Rooms().Memberships().GetAt() {
				p.remindRoomsLocked(a)
			}
		case ctx.Err() != nil:
			return false
		default:
			p.log.Error().Err(err).Str("user", info.User).Msg("an announced session is not in the table")
		}
	}
	return true
}

// each calls do for each of a comet's sessions, with its partition's mu held.
// do may remove the session.
func (pr *presence) each(comet string, do func(*partition, *account, *session)) {
	for _, p := range pr.parts.local() {
		p.mu.Lock()
		p.sessions.eachLocked(comet, func(a *account, s *session) { do(p, a, s) })
		p.mu.Unlock()
	}
}

// drop forgets those of a comet's sessions that which reports true for, or all
// if it is nil. They have ended at a time; their devices are noted as seen until
// then. drop returns how many there were.
func (pr *presence) drop(comet string, at time.Time, which func(*session) bool) (n int) {
	pr.each(comet, func(p *partition, a *account, s *session) {
		if which == nil || which(s) {
			p.endSessionLocked(a, s.address(), s.device, at)
			n++
		}
	})
	return n
}

// expireComets drops the sessions of comets that gave no sign of life for
// CometTimeout.
func (pr *presence) expireComets(now time.Time) {
	present := make(map[string]struct{})
	for _, p := range pr.parts.local() {
		p.mu.Lock()
		for name := range p.sessions.byComet {
			present[name] = struct{}{}
		}
		p.mu.Unlock()
	}
	for _, name := range pr.comets.expire(present, pr.cfg.CometTimeout, now) {
		pr.kinds.forget(name)
		if n := pr.drop(name, now.Add(-pr.cfg.CometTimeout), nil); n > 0 {
			pr.metrics.expiredSessions.Add(float64(n))
			pr.log.Warn().Str("comet", name).Int("sessions", n).Dur("silent", pr.cfg.CometTimeout).
				Msg("comet is silent: its sessions left the table")
		}
	}
}
