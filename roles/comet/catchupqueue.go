package comet

import (
	"context"
	"errors"
	"sync"
	"time"

	"imgo/envelope"
)

const (
	// maxCatchUpCalls bounds the catch-ups that logic is asked for at a time.
	maxCatchUpCalls = 32
	// maxCatchUpTries bounds those of them that are for partitions that fail.
	maxCatchUpTries = maxCatchUpCalls / 4
)

// errPartitionFails is the error of a catch-up that logic is not asked for, because the
// partition of its user fails.
var errPartitionFails = errors.New("the last catch-up of the partition has failed")

// catchUpQueue asks logic for the catch-ups of sessions that are behind. Its
// goroutines exist only while there is something to ask. A session is queued
// at most once, so the queue is bounded by the number of sessions.
//
// A partition may have an owner that does not answer. While it fails, one session of it at a time is
// asked for, to find out whether it has recovered. The catch-ups of its other sessions fail at once, so that
// they do not delay those of other partitions.
type catchUpQueue struct {
	comet *Comet

	mu       sync.Mutex
	sessions []*session
	running  int
	failing  map[uint32]nextTry // by partition that fails
	tries    int                // calls under way for partitions that fail
	stopped  bool
	wg       sync.WaitGroup
}

// nextTry is when a partition that fails may be tried next, on comet's clock, and the pause before that.
type nextTry struct{ at, pause time.Duration }

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

	err := q.call(c.table.partitionOf(s), req)
	switch {
	case err == nil:
		c.metrics.catchUps.WithLabelValues("asked").Inc()
		return
	case !errors.Is(err, errPartitionFails):
		c.metrics.catchUps.WithLabelValues("failed").Inc()
		c.metrics.callErrors.WithLabelValues("catch_up").Inc()
		c.log.Debug().Err(err).Str("user", req.User).Uint64("session", s.id).Msg("catch-up failed, asking again")
	}
	s.out.Lock()
	defer s.out.Unlock()
	if u := s.catchUp; u != nil && u.state == catchUpSent && u.after == req.After { // no answer came after all
		u.failed(c.now())
		s.askIfDueLocked()
	}
}

// call calls logic, or returns errPartitionFails.
func (q *catchUpQueue) call(partition uint32, req *envelope.CatchUpRequest) error {
	c := q.comet
	q.mu.Lock()
	next, fails := q.failing[partition]
	if fails {
		if c.now() < next.at || q.tries == maxCatchUpTries {
			q.mu.Unlock()
			return errPartitionFails
		}
		q.failing[partition] = nextTry{c.now() + c.cfg.CallTimeout, next.pause} // no other session tries it meanwhile
		q.tries++
	}
	q.mu.Unlock()

	ctx, cancel := context.WithTimeout(c.calls, c.cfg.CallTimeout)
	defer cancel()
	err := c.logic.CatchUp(ctx, req)

	q.mu.Lock()
	defer q.mu.Unlock()
	if fails {
		q.tries--
	}
	if envelope.IsTemporary(err) {
		pause := min(max(2*next.pause, firstCatchUpPause), lastCatchUpPause)
		q.failing[partition] = nextTry{c.now() + pause, pause}
	} else {
		delete(q.failing, partition)
	}
	return err
}

// stop drops the queue and waits for the calls under way.
func (q *catchUpQueue) stop() {
	q.mu.Lock()
	q.stopped = true
	q.sessions = nil
	q.mu.Unlock()
	q.wg.Wait()
}
