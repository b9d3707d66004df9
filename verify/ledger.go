package verify

import (
	"math/bits"
	"slices"
	"sync"
	"time"
)

// ledger knows of every push what is still to come of it, and so how long
// things take. Times are since the beginning of the run. Safe for concurrent
// use.
//
// It remembers the pushes that have not arrived everywhere, and the last
// remembered others, so that what goes wrong can be told in full.
type ledger struct {
	now  func() time.Duration
	late time.Duration

	mu     sync.Mutex
	pushes map[uint64]*pushRecord
	// open are the pushes in their order from the oldest that has not arrived
	// everywhere, with some that have; done those that have.
	open, done []uint64

	// waits counts the deliveries that are accepted and have not happened.
	waits int64
	// flying are the pushes that were begun and have no answer yet; idle is
	// since when none of them was accepted.
	flying int
	idle   time.Duration

	longestRefusal, longestPush, longestDelivery time.Duration
	delays                                       histogram
	lates                                        int64
	lateOnes                                     []lateDelivery
	counts                                       counts
	marks                                        []*mark
}

// remembered is how many pushes that have arrived everywhere are remembered.
const remembered = 100_000

// counts are what the ledger counts. Kept are pushes to one user or several;
// Deliveries are first receptions of them on a device.
type counts struct {
	kept, accepted, live, liveAccepted int64
	unanswered, abandoned, refusals    int64
	repeated                           int64
	received, liveReceived             int64
}

// pushRecord is a kept push.
type pushRecord struct {
	number uint64
	// began and tried are when the first and the last call with it began.
	began, tried time.Duration
	// accepted is when the answer came, which said so; by is who gave it.
	accepted time.Duration
	by       string
	attempts int
	ended    bool // there will be no (further) answer
	to       []recipient
}

// recipient is a user whom a push is for.
type recipient struct {
	user    int
	missing uint64 // devices that have not received it, a bit each
}

func (r *pushRecord) missing() (n int) {
	for _, to := range r.to {
		n += bits.OnesCount64(to.missing)
	}
	return n
}

// lateDelivery is one that took long.
type lateDelivery struct {
	number       uint64
	user, device int
	took         time.Duration
}

// maxLate is how many late deliveries are told of; all are counted.
const maxLate = 20

func newLedger(now func() time.Duration, late time.Duration) *ledger {
	return &ledger{now: now, late: late, pushes: make(map[uint64]*pushRecord)}
}

// begin notes a kept push before it is sent.
func (l *ledger) begin(number uint64, users []int, devices int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	r := &pushRecord{number: number, began: now, to: make([]recipient, len(users))}
	for i, user := range users {
		r.to[i] = recipient{user, ^uint64(0) >> (64 - devices)}
	}
	l.pushes[number] = r
	l.open = append(l.open, number)
	l.counts.kept++
	if l.flying++; l.flying == 1 {
		l.idle = now
	}
}

// attempt notes that a call with a push begins.
func (l *ledger) attempt(number uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.pushes[number]; r != nil {
		r.tried = l.now()
		r.attempts++
	}
}

// accept notes that a push was accepted, for the first time.
func (l *ledger) accept(number uint64, by string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.counts.accepted++
	r := l.pushes[number]
	r.accepted, r.by, r.ended = now, by, true
	l.answered(r, now)
	l.idle = now
	l.waits += int64(r.missing())
	l.settled(r)
}

// end notes that a push will have no answer that says accepted: abandoned says
// that it was tried again and again.
func (l *ledger) end(number uint64, abandoned bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.unanswered++
	if abandoned {
		l.counts.abandoned++
	}
	r := l.pushes[number]
	r.ended = true
	l.answered(r, l.now())
	l.settled(r)
}

// answered notes how long a push took, which ends now, and for how long none
// has been accepted. mu is held.
func (l *ledger) answered(r *pushRecord, now time.Duration) {
	l.flying--
	push, refusal := now-r.began, now-l.idle
	l.longestPush, l.longestRefusal = max(l.longestPush, push), max(l.longestRefusal, refusal)
	for _, m := range l.marks {
		if m.touches(r.began, now) {
			m.push = max(m.push, push)
		}
		if m.touches(l.idle, now) {
			m.refusal = max(m.refusal, refusal)
		}
	}
}

// settled forgets old pushes of which nothing more is to come. mu is held.
func (l *ledger) settled(r *pushRecord) {
	if !r.over() {
		return
	}
	l.done = append(l.done, r.number)
	if len(l.done) > remembered {
		delete(l.pushes, l.done[0])
		l.done = l.done[1:]
	}
	for len(l.open) > 0 {
		if first := l.pushes[l.open[0]]; first != nil && !first.over() {
			break
		}
		l.open = l.open[1:]
	}
}

// over says that nothing more is to come of a push: one that was not accepted
// may still arrive, but need not.
func (r *pushRecord) over() bool { return r.ended && (r.accepted == 0 || r.missing() == 0) }

// receive notes that a device received a kept push for the first time. since is
// when it last began to want to be connected: what it missed while it stayed
// away of its own will is nobody's delay.
func (l *ledger) receive(number uint64, user, device int, since time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.received++
	r := l.pushes[number]
	if r == nil {
		return
	}
	at := slices.IndexFunc(r.to, func(to recipient) bool { return to.user == user })
	if at < 0 || r.to[at].missing>>device&1 == 0 {
		return
	}
	r.to[at].missing &^= 1 << device
	now := l.now()
	from := max(r.tried, since)
	took := max(now-from, 0)
	l.delays.add(took)
	l.longestDelivery = max(l.longestDelivery, took)
	for _, m := range l.marks {
		if m.touches(from, now) {
			m.delivery = max(m.delivery, took)
		}
	}
	if took > l.late {
		if l.lates++; len(l.lateOnes) < maxLate {
			l.lateOnes = append(l.lateOnes, lateDelivery{number, user, device, took})
		}
	}
	if r.accepted != 0 {
		l.waits--
		l.settled(r)
	}
}

// count changes the counts.
func (l *ledger) count(change func(*counts)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.counts)
}

// reconnected notes that a device lost its connection against its will.
func (l *ledger) reconnected() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for _, m := range l.marks {
		if m.touches(now, now) {
			m.reconnects++
		}
	}
}

// waiting is how many deliveries are accepted and have not happened.
func (l *ledger) waiting() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waits
}

// refusal is for how long no push has been accepted though there was one.
// mu is held.
func (l *ledger) refusal() time.Duration {
	if l.flying == 0 {
		return 0
	}
	return l.now() - l.idle
}

// oldest is how long the oldest accepted delivery has been waiting. mu is held.
func (l *ledger) oldest() time.Duration {
	for _, number := range l.open {
		if r := l.pushes[number]; r != nil && r.accepted != 0 && r.missing() > 0 {
			return l.now() - r.tried
		}
	}
	return 0
}

// record is a copy of what is known of a push; nil: it is not remembered.
func (l *ledger) record(number uint64) *pushRecord {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.pushes[number]
	if r == nil {
		return nil
	}
	c := *r
	c.to = slices.Clone(r.to)
	return &c
}

// histogram counts durations, each within 1/16 of what it is.
type histogram struct {
	n      int64
	max    time.Duration
	counts [64 * 16]int64
}

// slot is where a duration is counted: by its highest bit, and the four below.
func slot(d time.Duration) int {
	u := uint64(max(d, 0))
	if u < 16 {
		return int(u)
	}
	high := bits.Len64(u) - 1
	return (high-3)*16 + int(u>>(high-4)&15)
}

// ceiling is the longest duration in a slot.
func ceiling(slot int) time.Duration {
	if slot < 16 {
		return time.Duration(slot)
	}
	high := slot/16 + 3
	return time.Duration((uint64(16+slot%16)+1)<<(high-4) - 1)
}

func (h *histogram) add(d time.Duration) {
	h.n++
	h.max = max(h.max, d)
	h.counts[slot(d)]++
}

// quantile is a duration that share q of all do not exceed.
func (h *histogram) quantile(q float64) time.Duration {
	rank, seen := int64(q*float64(h.n)), int64(0)
	for i, n := range h.counts {
		if seen += n; n > 0 && seen >= rank {
			return min(ceiling(i), h.max)
		}
	}
	return 0
}
