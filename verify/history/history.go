// Package history judges what a push server did, from the outside: it is told
// which pushes were tried and how they were answered, and what every session
// of every device received, and says where that breaks what the server
// promises (docs/ARCHITECTURE.md):
//
//	I2  every accepted push reached every device that it covers;
//	I3  no session saw an id twice, and no push came under two ids;
//	I4  ids grow in every session and, as first seen, on every device; and a
//	    push that began after another was answered has the higher id.
//
// A push is known by its number, which its body carries and which is used
// once. A push without an answer may arrive or not; it counts as lost only
// once it was accepted. Pushes that are not kept have no id: of them it is
// only asked that nobody gets one twice in a session, or one that was for
// somebody else.
//
// It guarantees that whatever it is told is judged at once, but for losses:
// those are the one verdict that more time may change, so they are asked for
// (Lost). It talks to no server and keeps everything in memory, about 100
// bytes for each push and 16 for each reception, unless it is told to Forget.
package history

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Kind is what is wrong.
type Kind string

// The kinds of violations, with the invariants that they break.
const (
	// KindLost: an accepted push that a covered device never saw (I2).
	KindLost Kind = "I2: lost"
	// KindAgain: an id, or a push that is not kept, twice in one session (I3).
	KindAgain Kind = "I3: twice in a session"
	// KindTwoIDs: one push under two ids (I3).
	KindTwoIDs Kind = "I3: two ids"
	// KindOrder: an id that is lower than it may be (I4).
	KindOrder Kind = "I4: order"
	// KindMixed: two pushes under one id, a kept push without an id, or an id
	// where there can be none.
	KindMixed Kind = "wrong id"
	// KindStranger: a push that was not for this user, or that nobody made.
	KindStranger Kind = "not for this user"
	// KindRefused: a push that came although the answer had ruled that out.
	KindRefused Kind = "refused and delivered"
)

// Violation is one thing that went wrong.
type Violation struct {
	Kind   Kind
	User   string
	Device string // empty: it does not concern one alone
	Push   uint64 // the push's number
	ID     uint64 // 0: none
	Detail string
}

func (v Violation) String() string {
	who := v.User
	if v.Device != "" {
		who += "/" + v.Device
	}
	s := fmt.Sprintf("%s: push %d to %s", v.Kind, v.Push, who)
	if v.ID != 0 {
		s += fmt.Sprintf(", id %d", v.ID)
	}
	if v.Detail != "" {
		s += ": " + v.Detail
	}
	return s
}

// Violations are an error when there are some.
type Violations []Violation

// shown is how many violations an error's text has.
const shown = 10

func (v Violations) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d violations", len(v))
	for i, one := range v {
		if i == shown {
			b.WriteString("\n  …")
			break
		}
		b.WriteString("\n  " + one.String())
	}
	return b.String()
}

// remembered bounds the violations that are kept; the others are counted.
const remembered = 1000

// Stats count what a history has seen.
type Stats struct {
	// Tried are pushes to one user each: a push to three users counts three.
	// Accepted are those of them that were.
	Tried, Accepted int64
	// Sessions counts sessions, Received the kept messages that they got,
	// and Repeated those of Received that their device had seen before.
	Sessions, Received, Repeated int64
	// Live counts the receptions of pushes that are not kept.
	Live int64
	// Violations counts all, those that are no longer remembered too. Losses
	// are not among them.
	Violations int64
}

// History is a record of pushes and receptions. Safe for concurrent use.
type History struct {
	mu    sync.RWMutex
	users map[string]*user
	live  map[uint64][]string // pushes that are not kept, and whom they are for
	lived []uint64            // their numbers, as they were tried
	keep  int                 // as Forget was told; 0: for ever

	bad        sync.Mutex
	violations Violations
	watch      func(Violation)

	tried, accepted, sessions, received, repeated, liveReceived, broken atomic.Int64
}

// New makes an empty history.
func New() *History {
	return &History{users: make(map[string]*user), live: make(map[uint64][]string)}
}

// Watch has found called with each violation as it is found, losses aside, by
// whoever found it and one at a time. It must be called before anything else,
// and found must not call the history.
func (h *History) Watch(found func(Violation)) { h.watch = found }

// user is what concerns one user; mu guards all of it, its devices' too.
type user struct {
	h    *History
	name string

	mu      sync.Mutex
	pushes  map[uint64]*push  // by number
	order   []*push           // as they were tried
	numbers map[uint64]uint64 // id → the push's number
	devices map[string]*device
	// answered is the highest id that an answer has named.
	answered uint64
	// forgotten is the highest id that is remembered no more.
	forgotten uint64
	// forgetAt is how many pushes there must be before some are forgotten again.
	forgetAt int
}

// push is a kept push as one user sees it.
type push struct {
	number uint64
	id     uint64 // as an answer or a reception first said; 0: neither did
	// floor is the highest id that was answered when the push began: its own
	// must be higher.
	floor             uint64
	accepted, refused bool
	twoIDs            bool // it was found to have two ids, and is not judged further
}

// device is one device of a user.
type device struct {
	name string
	// from is how many pushes had been tried when it became known: the later
	// ones cover it.
	from int
	ids  []uint64 // what it has seen, sorted
}

func (h *History) user(name string) *user {
	h.mu.RLock()
	u := h.users[name]
	h.mu.RUnlock()
	if u != nil {
		return u
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if u = h.users[name]; u == nil {
		u = &user{h: h, name: name, pushes: make(map[uint64]*push), numbers: make(map[uint64]uint64), devices: make(map[string]*device)}
		h.users[name] = u
	}
	return u
}

// Device says that a device is known to the server by now: every push that is
// tried from now on covers it. A session makes its device known too.
func (h *History) Device(userName, deviceName string) {
	u := h.user(userName)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.device(deviceName)
}

func (u *user) device(name string) *device {
	d := u.devices[name]
	if d == nil {
		d = &device{name: name, from: len(u.order)}
		u.devices[name] = d
	}
	return d
}

// Tried says that a kept push is about to be sent. It must be called before
// its first byte is, and once, however often the push is repeated.
func (h *History) Tried(number uint64, users ...string) {
	for _, name := range users {
		u := h.user(name)
		u.mu.Lock()
		if u.pushes[number] == nil {
			p := &push{number: number, floor: u.answered}
			u.pushes[number] = p
			u.order = append(u.order, p)
			u.forget()
			h.tried.Add(1)
		}
		u.mu.Unlock()
	}
}

// TriedLive says that a push that is not kept is about to be sent, to these
// users or to everybody (none named). users must not be changed afterwards.
func (h *History) TriedLive(number uint64, users ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.live[number] = users
	h.lived = append(h.lived, number)
	if most := liveFor * h.keep; most > 0 && len(h.lived) > most {
		delete(h.live, h.lived[0])
		h.lived = h.lived[1:]
	}
}

// Accepted says that a kept push was answered: accepted for this user under
// this id. A repeated push may be answered several times.
func (h *History) Accepted(number uint64, userName string, id uint64) {
	u := h.user(userName)
	u.mu.Lock()
	defer u.mu.Unlock()
	p := u.pushes[number]
	switch {
	case p == nil && id != 0 && id <= u.forgotten:
		return // the answer came long after the push
	case p == nil:
		h.fail(Violation{KindStranger, userName, "", number, id, "accepted, but never tried"})
		return
	case id == 0:
		h.fail(Violation{KindMixed, userName, "", number, 0, "accepted without an id"})
		return
	}
	if !p.accepted {
		p.accepted = true
		h.accepted.Add(1)
	}
	u.assign(p, id, "", "the answer says")
	u.answered = max(u.answered, id)
}

// Refused says that an answer ruled out that the push has any effect. Without
// it, a push that failed may still arrive.
func (h *History) Refused(number uint64, users ...string) {
	for _, name := range users {
		u := h.user(name)
		u.mu.Lock()
		if p := u.pushes[number]; p != nil {
			p.refused = true
			if p.id != 0 {
				h.fail(Violation{KindRefused, name, "", number, p.id, ""})
			}
		}
		u.mu.Unlock()
	}
}

// assign notes a push's id, or that it has another one already. mu is held.
func (u *user) assign(p *push, id uint64, device, source string) {
	if p.id == id || p.twoIDs {
		return
	}
	if p.id != 0 {
		p.twoIDs = true
		u.h.fail(Violation{KindTwoIDs, u.name, device, p.number, id, fmt.Sprintf("%s %d, before it was %d", source, id, p.id)})
		return
	}
	p.id = id
	if other, taken := u.numbers[id]; taken {
		u.h.fail(Violation{KindMixed, u.name, device, p.number, id, fmt.Sprintf("%s %d, which is push %d", source, id, other)})
	} else {
		u.numbers[id] = p.number
	}
	if id <= p.floor {
		u.h.fail(Violation{KindOrder, u.name, device, p.number, id, fmt.Sprintf("it began when id %d had been answered", p.floor)})
	}
}

func (h *History) fail(v Violation) {
	h.broken.Add(1)
	h.bad.Lock()
	defer h.bad.Unlock()
	if len(h.violations) < remembered {
		h.violations = append(h.violations, v)
	}
	if h.watch != nil {
		h.watch(v)
	}
}

// Violations are what went wrong so far, losses aside; at most 1,000 are
// remembered, Stats counts all.
func (h *History) Violations() Violations {
	h.bad.Lock()
	defer h.bad.Unlock()
	return slices.Clone(h.violations)
}

// Lost are accepted pushes that a covered device has not seen yet, at most
// limit of them (0: all). More time may change it.
func (h *History) Lost(limit int) Violations {
	h.mu.RLock()
	users := slices.Collect(maps.Values(h.users))
	h.mu.RUnlock()
	slices.SortFunc(users, func(a, b *user) int { return strings.Compare(a.name, b.name) })
	var lost Violations
	for _, u := range users {
		lost = u.lost(lost, limit)
		if limit > 0 && len(lost) >= limit {
			break
		}
	}
	return lost
}

func (u *user) lost(lost Violations, limit int) Violations {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(u.devices)) {
		d := u.devices[name]
		for _, p := range u.order[d.from:] {
			if !p.accepted || p.twoIDs {
				continue
			}
			if _, seen := slices.BinarySearch(d.ids, p.id); seen {
				continue
			}
			if lost = append(lost, Violation{KindLost, u.name, d.name, p.number, p.id, "accepted, never seen"}); len(lost) == limit {
				return lost
			}
		}
	}
	return lost
}

// Verdict is nil if nothing is wrong and nothing is lost, else Violations.
func (h *History) Verdict() error {
	if all := append(h.Violations(), h.Lost(0)...); len(all) > 0 {
		return all
	}
	return nil
}

// Stats are the counts so far.
func (h *History) Stats() Stats {
	return Stats{
		Tried: h.tried.Load(), Accepted: h.accepted.Load(),
		Sessions: h.sessions.Load(), Received: h.received.Load(), Repeated: h.repeated.Load(),
		Live: h.liveReceived.Load(), Violations: h.broken.Load(),
	}
}
