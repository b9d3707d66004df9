package comet

import (
	"context"
	"slices"
	"sync"
	"time"

	"imgo/envelope"
)

const (
	// maxCatchUpCalls bounds the catch-ups that logic is asked for at a time.
	maxCatchUpCalls = 32
	// maxCatchUpTries bounds those of them that are for partitions that fail. One router may own dozens of partitions.
	maxCatchUpTries = maxCatchUpCalls * 3 / 4
)

// catchUpQueue asks logic for the catch-ups of sessions that are behind. Its
// goroutines exist only while there is something to ask. A session is queued
// at most once, so the queue is bounded by the number of sessions.
//
// A partition may have an owner that does not answer. While it fails, one session of it at a time is
// asked for, to find out whether it has recovered. The catch-ups of its other sessions fail at once, so that
// they do not delay those of other partitions. If more partitions fail than may be tried at a time, they take turns.
type catchUpQueue struct {
	comet *Comet

	mu       sync.Mutex
	sessions []*session
	running  int
	failing  map[uint32]nextTry // by partition that fails
	tries    int                // calls under way for partitions that fail
	waiting  []catchUpCall      // for a try: one session at most of each partition that fails
	stopped  bool
	wg       sync.WaitGroup
}

// nextTry is when a partition that fails may be tried next, on comet's clock, and the pause before that. If taken is set, a
// session is being asked for, or is in waiting.
type nextTry struct {
	at, pause time.Duration
	taken     bool
}

// catchUpCall is a call for a session of a partition.
type catchUpCall struct {
	*session
	partition uint32
	pause     time.Duration // before the call, if the partition fails
	try       bool          // the call is one of catchUpQueue.tries
}

// add queues s, which is locked. It never blocks.
func (q *catchUpQueue) add(s *session) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped {
		return
	}
	q.sessions = append(q.sessions, s)
	if q.running < maxCatchUpCalls {
		q.running++
		q.wg.Go(q.run)
	}
}

func (q *catchUpQueue) run() {
	for {
		call, ok := q.next()
		if !ok {
			return
		}
		if !call.try {
			call.partition = q.comet.table.partitionOf(call.session)
		}
		q.ask(call)
	}
}

// next returns the next call. ok is false if the goroutine is to end. A call that waits for a try is the next one whenever
// there are fewer tries than allowed: a goroutine that ends a try comes here.
func (q *catchUpQueue) next() (call catchUpCall, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case len(q.waiting) > 0 && q.tries < maxCatchUpTries:
		call = q.waiting[0]
		q.waiting = slices.Delete(q.waiting, 0, 1)
		call.try = true
		q.tries++
	case len(q.sessions) > 0:
		call.session = q.sessions[0]
		q.sessions[0] = nil
		q.sessions = q.sessions[1:]
	default:
		q.sessions = nil
		q.running--
		return call, false
	}
	return call, true
}

// ask calls logic for one session, unless its partition fails. The answer comes as a delivery.
func (q *catchUpQueue) ask(call catchUpCall) {
	c, s := q.comet, call.session
	s.out.Lock()
	if s.state != stateLive || s.catchUp == nil {
		if s.catchUp != nil {
			s.catchUp.state = catchUpNone
		}
		s.out.Unlock()
		q.skip(call)
		return
	}
	now, later := q.begin(&call)
	if later { // next returns it
		s.out.Unlock()
		return
	}
	if !now {
		s.catchUp.failed(c.now())
		s.askIfDueLocked()
		s.out.Unlock()
		return
	}
	s.catchUp.sent(c.now(), s.last)
	most := c.cfg.CatchUpMessages
	if s.pacedLocked() {
		most = min(most, maxPaced)
	}
	req := &envelope.CatchUpRequest{
		To: s.addressKey().Address(), User: s.user, Device: s.device, After: s.last, Floor: s.floor,
		MaxMessages: uint32(most), MaxBytes: uint32(c.cfg.CatchUpBytes),
	}
	s.out.Unlock()

	ctx, cancel := context.WithTimeout(c.calls, c.cfg.CallTimeout)
	err := c.logic.CatchUp(ctx, req)
	cancel()
	q.end(call, err)
	if err == nil {
		c.metrics.catchUps.WithLabelValues("asked").Inc()
		return
	}
	c.metrics.catchUps.WithLabelValues("failed").Inc()
	c.metrics.callErrors.WithLabelValues("catch_up").Inc()
	c.log.Debug().Err(err).Str("user", req.User).Uint64("session", s.id).Msg("catch-up failed, asking again")
	s.out.Lock()
	defer s.out.Unlock()
	if u := s.catchUp; u != nil && u.state == catchUpSent && u.after == req.After { // no answer came after all
		u.failed(c.now())
		s.askIfDueLocked()
	}
}

// begin reports whether logic is to be asked now. If later is set the call waits for a try. If neither is set, the partition
// of the session fails and another session of it is the one to be asked for.
func (q *catchUpQueue) begin(call *catchUpCall) (now, later bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	next, fails := q.failing[call.partition]
	switch {
	case call.try || !fails:
		return true, false
	case q.stopped || next.taken || q.comet.now() < next.at:
		return false, false
	}
	call.pause = next.pause
	next.taken = true
	q.failing[call.partition] = next
	if q.tries == maxCatchUpTries || len(q.waiting) > 0 {
		q.waiting = append(q.waiting, *call)
		return false, true
	}
	call.try = true
	q.tries++
	return true, false
}

// end takes note of what logic has answered to a call.
func (q *catchUpQueue) end(call catchUpCall, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if call.try {
		q.tries--
	}
	if !envelope.IsTemporary(err) {
		delete(q.failing, call.partition)
		return
	}
	pause := min(max(2*call.pause, firstCatchUpPause), lastCatchUpPause)
	taken := !call.try && q.failing[call.partition].taken
	q.failing[call.partition] = nextTry{q.comet.now() + pause, pause, taken}
}

// skip leaves the try to another session, because the one of the call needs none any more.
func (q *catchUpQueue) skip(call catchUpCall) {
	if !call.try {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.tries--
	if next, fails := q.failing[call.partition]; fails {
		next.taken = false
		q.failing[call.partition] = next
	}
}

// stop drops the queue and waits for the calls under way.
func (q *catchUpQueue) stop() {
	q.mu.Lock()
	q.stopped = true
	q.sessions, q.waiting = nil, nil
	q.mu.Unlock()
	q.wg.Wait()
}
