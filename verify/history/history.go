// Package history checks from the outside whether a push server keeps its promises. The caller
// reports which pushes it sent, how the server answered them, and what every session of every
// device received. The package reports each violation of these invariants (docs/ARCHITECTURE.md):
//
//	I2  every accepted push reached every device that it covers;
//	I3  no session saw an id twice, and no push came under two ids;
//	I4  ids grow in every session and, as first seen, on every device; and a
//	    push that began after another was answered has the higher id.
//
// A push is identified by its number, which is unique and part of its body. A push without an
// answer may arrive or not. It counts as lost only if it was accepted. Pushes that are not kept
// have no id. For them only two rules apply: no session receives one twice, and only the named
// users receive it.
//
// Every violation is reported at once, except losses. More time can still turn a loss into a
// delivery, so the caller asks for losses with Lost.
//
// The package does not talk to a server. It keeps everything in memory: about 100 bytes for each
// push and 16 bytes for each reception. Forget bounds this.
package history

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Kind is the kind of a violation.
type Kind string

// The kinds of violations, each with the invariant that it breaks.
const (
	// KindLost means that a covered device never received an accepted push (I2).
	KindLost Kind = "I2: lost"
	// KindAgain means that one session received an id twice, or twice a push that is not kept (I3).
	KindAgain Kind = "I3: twice in a session"
	// KindTwoIDs means that one push had two ids (I3).
	KindTwoIDs Kind = "I3: two ids"
	// KindOrder means that an id is lower than the order allows (I4).
	KindOrder Kind = "I4: order"
	// KindMixed means that two pushes have the same id, that a kept push has no id, or that a push
	// that is not kept has one.
	KindMixed Kind = "wrong id"
	// KindStranger means that a push was not for this user, or that this run never sent it.
	KindStranger Kind = "not for this user"
	// KindRefused means that a push arrived although its answer had ruled that out.
	KindRefused Kind = "refused and delivered"
)

// Violation is one broken invariant.
type Violation struct {
	Kind   Kind   `json:"kind"`
	User   string `json:"user"`
	Device string `json:"device,omitempty"`    // empty if the violation concerns no single device
	Push   uint64 `json:"push"`                // number of the push
	ID     uint64 `json:"id,omitempty,string"` // 0 if there is no id
	Detail string `json:"detail,omitempty"`
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

// Violations is a list of violations. It is an error if it is not empty.
type Violations []Violation

// shown is the number of violations in the text of an error.
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

// maxViolations is the largest number of violations that a history stores. Further ones are only
// counted.
const maxViolations = 1000

// Stats are the counters of a history.
type Stats struct {
	// Tried counts sent pushes for each user: a push to three users counts three. Accepted counts
	// those that the server accepted.
	Tried, Accepted int64
	// Sessions counts sessions. Received counts the kept messages that they received. Repeated
	// counts those of Received that the device had received before.
	Sessions, Received, Repeated int64
	// Live counts the received messages of pushes that are not kept.
	Live int64
	// Violations counts all violations except losses, including those that are no longer stored.
	Violations int64
}

// History is a record of pushes and receptions. It is safe for concurrent use.
type History struct {
	mu        sync.RWMutex
	users     map[string]*user
	live      map[uint64][]string // number of a push that is not kept → its users
	liveOrder []uint64            // the keys of live, in the order of sending
	keep      int                 // argument of Forget; 0 means without limit

	bad        sync.Mutex
	violations Violations
	watch      func(Violation)

	tried, accepted, sessions, received, repeated, liveReceived, broken atomic.Int64
}

// New returns an empty history.
func New() *History {
	return &History{users: make(map[string]*user), live: make(map[uint64][]string)}
}

// Watch sets a function that is called for each violation when it is found, except for losses.
// Calls happen one at a time, on the goroutine that found the violation. Call Watch before any
// other method. found must not call methods of the history, because locks are held.
func (h *History) Watch(found func(Violation)) { h.watch = found }

// user is the state of one user. mu guards all of it, including its devices.
type user struct {
	h    *History
	name string

	mu      sync.Mutex
	pushes  map[uint64]*push  // push number → push
	order   []*push           // in the order of sending
	numbers map[uint64]uint64 // id → push number
	devices map[string]*device
	// answered is the highest id in an answer so far.
	answered uint64
	// forgotten is the highest id of a forgotten push.
	forgotten uint64
	// forgetAt is the length of order at which forgetLocked runs again.
	forgetAt int
}

// push is a kept push to one user.
type push struct {
	number uint64
	id     uint64 // from the first answer or reception; 0 if there was neither
	// floor is the highest id that had been answered when the push began. The id of this push must
	// be higher.
	floor             uint64
	accepted, refused bool
	twoIDs            bool // the push has two ids and is not judged further
}

// device is one device of a user.
type device struct {
	name string
	// from is the index in user.order of the first push that covers the device. It is the number of
	// pushes sent before the device became known.
	from int
	ids  []uint64 // the ids that the device received, sorted
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

// Device records that the server knows a device by now. Every push that is sent from now on covers
// it. Session calls Device too.
func (h *History) Device(userName, deviceName string) {
	u := h.user(userName)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.deviceLocked(deviceName)
}

func (u *user) deviceLocked(name string) *device {
	d := u.devices[name]
	if d == nil {
		d = &device{name: name, from: len(u.order)}
		u.devices[name] = d
	}
	return d
}

// Tried records that a kept push is about to be sent. Call it once for each push, before the first
// byte is sent and not again for repeated attempts.
func (h *History) Tried(number uint64, users ...string) {
	for _, name := range users {
		u := h.user(name)
		u.mu.Lock()
		if u.pushes[number] == nil {
			p := &push{number: number, floor: u.answered}
			u.pushes[number] = p
			u.order = append(u.order, p)
			u.forgetLocked()
			h.tried.Add(1)
		}
		u.mu.Unlock()
	}
}

// TriedLive records that a push that is not kept is about to be sent to these users, or to all
// users if none is named. The caller must not change users afterwards.
func (h *History) TriedLive(number uint64, users ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.live[number] = users
	h.liveOrder = append(h.liveOrder, number)
	if most := liveFactor * h.keep; most > 0 && len(h.liveOrder) > most {
		delete(h.live, h.liveOrder[0])
		h.liveOrder = h.liveOrder[1:]
	}
}

// Accepted records that the server accepted a kept push for this user under this id. A repeated
// push may be answered several times.
func (h *History) Accepted(number uint64, userName string, id uint64) {
	u := h.user(userName)
	u.mu.Lock()
	defer u.mu.Unlock()
	p := u.pushes[number]
	switch {
	case p == nil && id != 0 && id <= u.forgotten:
		return // the answer came after the push was forgotten
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
	u.assignLocked(p, id, "", "the answer says")
	u.answered = max(u.answered, id)
}

// Refused records an answer that rules out that the push has any effect. A push that failed without
// such an answer may still arrive.
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

// assignLocked records the id of a push. It adds a violation if the push has another id already, if
// another push has the id, or if the id is too low.
func (u *user) assignLocked(p *push, id uint64, device, source string) {
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
	if len(h.violations) < maxViolations {
		h.violations = append(h.violations, v)
	}
	if h.watch != nil {
		h.watch(v)
	}
}

// Violations returns the violations so far, except losses. At most 1,000 are stored. Stats counts
// all of them.
func (h *History) Violations() Violations {
	h.bad.Lock()
	defer h.bad.Unlock()
	return slices.Clone(h.violations)
}

// Lost returns the accepted pushes that a covered device has not received yet. It returns at most
// limit of them (0 means all). The result may shrink with time.
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

// Stats returns the counters so far.
func (h *History) Stats() Stats {
	return Stats{
		Tried: h.tried.Load(), Accepted: h.accepted.Load(),
		Sessions: h.sessions.Load(), Received: h.received.Load(), Repeated: h.repeated.Load(),
		Live: h.liveReceived.Load(), Violations: h.broken.Load(),
	}
}
