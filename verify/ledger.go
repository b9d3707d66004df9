package verify

import (
	"math/bits"
	"slices"
	"sync"
	"time"

	"imgo/internal/histogram"
)

// ledger records for every kept push which deliveries are still missing, and measures how long
// pushes and deliveries take. All times are times of the run. It is safe for concurrent use.
//
// It stores the unfinished pushes and the last maxFinished finished ones, so that the report can
// describe a violation in detail.
type ledger struct {
	now func() time.Duration

	mu     sync.Mutex
	pushes map[uint64]*pushRecord
	// open holds pushes in the order of sending, from the oldest unfinished one on. It may contain
	// finished pushes too. done holds the finished pushes, oldest first.
	open, done []uint64

	// waits counts the deliveries of accepted pushes that have not happened yet.
	waits int64
	// inFlight counts the kept pushes that have begun and have no final answer yet. idle is the
	// time of the last acceptance, or the time at which inFlight last became 1 if that is later.
	inFlight int
	idle     time.Duration

	// sent and delivered are what the report has of pushes and deliveries, without the delays.
	sent      Pushes
	delivered Deliveries
	delays    delays
	lates     []lateDelivery
	marks     []*mark
}

// maxFinished is the number of finished pushes that are stored.
const maxFinished = 100_000

// pushRecord is a kept push.
type pushRecord struct {
	number uint64
	// began is the time of the first call with the push, tried that of the last.
	began, tried time.Duration
	// accepted is the time of the answer that accepted the push, or 0. by is the address of the API
	// that gave it.
	accepted time.Duration
	by       string
	attempts int
	ended    bool // no further answer will come
	to       []recipient
}

// recipient is a user to whom a push goes.
type recipient struct {
	user    int
	missing uint64 // a bit for each device that has not received it
}

func (r *pushRecord) missing() (n int) {
	for _, to := range r.to {
		n += bits.OnesCount64(to.missing)
	}
	return n
}

// lateDelivery is a delivery that took longer than Config.Late.
type lateDelivery struct {
	number       uint64
	user, device int
	took         Millis
}

// maxLate is the number of late deliveries that the report lists. All are counted.
const maxLate = 20

func newLedger(now func() time.Duration, late time.Duration) *ledger {
	return &ledger{now: now, delivered: Deliveries{LateAfter: Millis(late)}, pushes: make(map[uint64]*pushRecord)}
}

// begin records a kept push before it is sent.
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
	l.sent.Kept++
	if l.inFlight++; l.inFlight == 1 {
		l.idle = now
	}
}

// attempt records the start of a call with a push.
func (l *ledger) attempt(number uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.pushes[number]; r != nil {
		r.tried = l.now()
		r.attempts++
	}
}

// accept records the first answer that accepted a push. by is the address that gave it.
func (l *ledger) accept(number uint64, by string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.sent.Accepted++
	r := l.pushes[number]
	r.accepted, r.by, r.ended = now, by, true
	l.answeredLocked(r, now)
	l.idle = now
	l.waits += int64(r.missing())
	l.finishLocked(r)
}

// end records that no answer will accept the push. abandoned reports whether the run stopped
// repeating it.
func (l *ledger) end(number uint64, abandoned bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent.Unanswered++
	if abandoned {
		l.sent.Abandoned++
	}
	r := l.pushes[number]
	r.ended = true
	l.answeredLocked(r, l.now())
	l.finishLocked(r)
}

// answeredLocked updates the longest push and the longest time without an acceptance. The push ends
// at now.
func (l *ledger) answeredLocked(r *pushRecord, now time.Duration) {
	l.inFlight--
	push, refusal := Millis(now-r.began), Millis(now-l.idle)
	l.sent.LongestPush, l.sent.LongestRefusal = max(l.sent.LongestPush, push), max(l.sent.LongestRefusal, refusal)
	for _, m := range l.marks {
		if m.touches(r.began, now) {
			m.LongestPush = max(m.LongestPush, push)
		}
		if m.touches(l.idle, now) {
			m.LongestRefusal = max(m.LongestRefusal, refusal)
		}
	}
}

// finishLocked moves a push to done if it is finished, and drops the oldest finished pushes.
func (l *ledger) finishLocked(r *pushRecord) {
	if !r.finished() {
		return
	}
	l.done = append(l.done, r.number)
	if len(l.done) > maxFinished {
		delete(l.pushes, l.done[0])
		l.done = l.done[1:]
	}
	for len(l.open) > 0 {
		if first := l.pushes[l.open[0]]; first != nil && !first.finished() {
			break
		}
		l.open = l.open[1:]
	}
}

// finished reports whether no delivery is expected any more. A push that was not accepted may still
// arrive, but need not.
func (r *pushRecord) finished() bool { return r.ended && (r.accepted == 0 || r.missing() == 0) }

// receive records that a device received a kept push for the first time. since is the time at which
// the device last began to connect. The delay starts there at the earliest, because time away by
// the device's own will is not a delay of the server.
func (l *ledger) receive(number uint64, user, device int, since time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.delivered.Received++
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
	took := Millis(max(now-from, 0))
	l.delays.add(time.Duration(took))
	for _, m := range l.marks {
		if m.touches(from, now) {
			m.LongestDelivery = max(m.LongestDelivery, took)
		}
	}
	if took > l.delivered.LateAfter {
		if l.delivered.Late++; len(l.lates) < maxLate {
			l.lates = append(l.lates, lateDelivery{number, user, device, took})
		}
	}
	if r.accepted != 0 {
		l.waits--
		l.finishLocked(r)
	}
}

// count adds one to counters of the ledger.
func (l *ledger) count(counters ...*int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range counters {
		*n++
	}
}

// reconnected records that a device lost its connection against its will.
func (l *ledger) reconnected() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for _, m := range l.marks {
		if m.touches(now, now) {
			m.Reconnects++
		}
	}
}

// waiting returns the number of accepted deliveries that have not happened yet.
func (l *ledger) waiting() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waits
}

// refusalLocked returns the time since the last acceptance, or 0 if no push is in flight.
func (l *ledger) refusalLocked() time.Duration {
	if l.inFlight == 0 {
		return 0
	}
	return l.now() - l.idle
}

// oldestLocked returns the age of the oldest accepted delivery that has not happened yet.
func (l *ledger) oldestLocked() time.Duration {
	for _, number := range l.open {
		if r := l.pushes[number]; r != nil && r.accepted != 0 && r.missing() > 0 {
			return l.now() - r.tried
		}
	}
	return 0
}

// record returns a copy of the record of a push, or nil if the push is not stored.
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

// delays counts durations, and has the longest one.
type delays struct {
	histogram.Histogram
	longest time.Duration
}

func (d *delays) add(took time.Duration) {
	d.Add(took)
	d.longest = max(d.longest, took)
}

// quantile returns a duration that a share q of all durations do not exceed.
func (d *delays) quantile(q float64) Millis { return Millis(min(d.Quantile(q), d.longest)) }
