package comet

import (
	"context"
	"sync"

	"imgo/envelope"
)

// maxAskers bounds the catch-ups that are being asked of logic at a time.
const maxAskers = 32

// askers asks logic for the catch-ups of sessions that are behind. Its
// goroutines exist only while there is something to ask. A session is queued
// at most once, so the queue is bounded by their number.
type askers struct {
	comet *Comet

	mu      sync.Mutex
	queue   []*session
	running int
	stopped bool
	wg      sync.WaitGroup
}

// add queues s; its mu is held. It never blocks.
func (a *askers) add(s *session) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopped {
		return
	}
	a.queue = append(a.queue, s)
	if a.running < maxAskers {
		a.running++
		a.wg.Add(1)
		go a.run()
	}
}

func (a *askers) run() {
	defer a.wg.Done()
	for {
		a.mu.Lock()
		if len(a.queue) == 0 {
			a.queue = nil
			a.running--
			a.mu.Unlock()
			return
		}
		s := a.queue[0]
		a.queue[0] = nil
		a.queue = a.queue[1:]
		a.mu.Unlock()
		a.ask(s)
	}
}

// ask calls logic for one session. The answer comes as a delivery.
func (a *askers) ask(s *session) {
	c := a.comet
	s.mu.Lock()
	if s.state != stateLive || !s.behind {
		if s.behind {
			s.ask = askNone
		}
		s.mu.Unlock()
		return
	}
	s.ask, s.askedAt, s.askedAfter = askSent, c.now(), s.last
	req := &envelope.CatchUpRequest{
		To: s.address(), User: s.user, Device: s.device, After: s.last, Floor: s.floor,
		MaxMessages: uint32(c.cfg.CatchUpMessages), MaxBytes: uint32(c.cfg.CatchUpBytes),
	}
	s.mu.Unlock()

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
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ask == askSent && s.askedAfter == req.After { // no answer came after all
		s.ask = askNone
		s.fails = max(s.fails, 1) // never at once
		s.pace(false)
		s.maybeAsk()
	}
}

// stop drops the queue and waits for the calls under way.
func (a *askers) stop() {
	a.mu.Lock()
	a.stopped = true
	a.queue = nil
	a.mu.Unlock()
	a.wg.Wait()
}
