package comet

import (
	"context"
	"sync"

	"imgo/envelope"
)

// maxCatchUpCalls bounds the catch-ups that logic is asked for at a time.
const maxCatchUpCalls = 32

// catchUpQueue asks logic for the catch-ups of sessions that are behind. Its
// goroutines exist only while there is something to ask. A session is queued
// at most once, so the queue is bounded by the number of sessions.
type catchUpQueue struct {
	comet *Comet

	mu       sync.Mutex
	sessions []*session
	running  int
	stopped  bool
	wg       sync.WaitGroup
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
		q.mu.Lock()
		if len(q.sessions) == 0 {
			q.sessions = nil
			q.running--
			q.mu.Unlock()
			return
		}
		s := q.sessions[0]
		q.sessions[0] = nil
		q.sessions = q.sessions[1:]
		q.mu.Unlock()
		q.ask(s)
	}
}

// ask calls logic for one session. The answer comes as a delivery.
func (q *catchUpQueue) ask(s *session) {
	c := q.comet
	s.out.Lock()
	if s.state != stateLive || s.catchUp == nil {
		if s.catchUp != nil {
			s.catchUp.state = catchUpNone
		}
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
	defer cancel()
	err := c.logic.CatchUp(ctx, req)
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

// stop drops the queue and waits for the calls under way.
func (q *catchUpQueue) stop() {
	q.mu.Lock()
	q.stopped = true
	q.sessions = nil
	q.mu.Unlock()
	q.wg.Wait()
}
