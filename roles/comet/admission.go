package comet

import (
	"context"
	"sync"
	"time"

	"imgo/transport"
)

// maxAdmitting is how many clients logic is asked about at a time. It bounds
// what a reconnect of all clients at once costs in stacks; the others wait
// their turn without a goroutine.
const maxAdmitting = 256

// admission lets clients in: in the order in which they came, at the connect
// rate, a bounded number at a time. Who would have to wait for longer than the
// handshake may take is told at once. Goroutines stay while there are many to
// let in, since what they do grows their stacks, and a few beyond that.
type admission struct {
	comet *Comet

	mu      sync.Mutex
	queue   []*arrival
	running int
	idle    int
	unused  int // the fewest that were idle since the last trim
	leave   int // of those that are idle no more, how many are to end
	some    *sync.Cond
	stopped bool
	wg      sync.WaitGroup
}

// arrival is a client with a complete auth packet.
type arrival struct {
	conn    transport.Conn
	packet  transport.Packet
	started time.Time
	due     time.Time // its turn by the connect rate
	// Of a connection that has a goroutine: done is closed when it is decided,
	// and session is what came of it.
	done    chan struct{}
	session *session
}

func newAdmission(c *Comet) *admission {
	a := &admission{comet: c}
	a.some = sync.NewCond(&a.mu)
	return a
}

// add queues an arrival; false: it would have to wait for too long, or the
// comet has stopped.
func (a *admission) add(v *arrival) bool {
	c := a.comet
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopped || c.calls.Err() != nil {
		return false
	}
	if c.connectRate != nil {
		// Under mu, so that turns are in the order of the queue.
		turn := c.connectRate.ReserveN(v.started, 1)
		wait := turn.DelayFrom(v.started)
		if wait > c.cfg.HandshakeTimeout {
			turn.CancelAt(v.started)
			return false
		}
		v.due = v.started.Add(wait)
	}
	a.queue = append(a.queue, v)
	switch {
	case a.idle > 0:
		a.idle-- // here, or the next one would count on the same goroutine
		a.unused = min(a.unused, a.idle)
		a.some.Signal()
	case a.running < maxAdmitting:
		a.running++
		a.wg.Add(1)
		go a.work()
	}
	return true
}

func (a *admission) work() {
	defer a.wg.Done()
	p := patience{comet: a.comet}
	defer p.end()
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		if len(a.queue) == 0 {
			a.queue = nil
			if a.stopped || a.leave > 0 {
				a.leave = max(a.leave-1, 0)
				a.running--
				return
			}
			a.idle++
			a.some.Wait()
			continue
		}
		v := a.queue[0]
		a.queue[0] = nil
		a.queue = a.queue[1:]
		a.mu.Unlock()
		a.admit(v, &p)
		a.mu.Lock()
	}
}

// admit waits for an arrival's turn and makes a session of it.
func (a *admission) admit(v *arrival, p *patience) {
	c := a.comet
	turn := true
	if wait := time.Until(v.due); wait > 0 {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-c.calls.Done():
			turn = false
		}
		timer.Stop()
	}
	if turn {
		v.session = c.authenticate(p.context(), v)
	} else {
		c.refuseRate(v)
	}
	switch {
	case v.done != nil:
		close(v.done)
	case v.session != nil:
		if !v.conn.(transport.Pollable).Rest() {
			c.readers.run(v.session)
		}
	default:
		c.over(v.conn)
	}
}

// patience is how long one goroutine's calls of logic may take: calls that
// begin one soon after the other share a context, since a deadline of its own
// costs each call a timer and five allocations.
type patience struct {
	comet *Comet
	ctx   context.Context
	stop  context.CancelFunc
	renew time.Time
}

// context is for one call, the only one at a time: it has at least seven
// eighths of CallTimeout.
func (p *patience) context() context.Context {
	if now := time.Now(); p.ctx == nil || now.After(p.renew) {
		p.end()
		timeout := p.comet.cfg.CallTimeout
		p.ctx, p.stop = context.WithTimeout(p.comet.calls, timeout)
		p.renew = now.Add(timeout / 8)
	}
	return p.ctx
}

func (p *patience) end() {
	if p.stop != nil {
		p.stop()
	}
}

// trim ends the goroutines that nobody needed since it was called last, but for
// a few.
func (a *admission) trim() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for n := min(a.unused, a.idle-idleReaders); n > 0; n-- {
		a.idle--
		a.leave++
		a.some.Signal()
	}
	a.unused = a.idle
}

// stop ends the goroutines, when nobody comes any more.
func (a *admission) stop() {
	a.mu.Lock()
	a.stopped = true
	a.some.Broadcast()
	a.mu.Unlock()
	a.wg.Wait()
}
