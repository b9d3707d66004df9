package comet

import (
	"context"
	"errors"
	"sync"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/transport"
)

const (
	// maxAdmitting is how many clients logic is asked about at a time, at the
	// most. It bounds what a reconnect of all clients at once costs in stacks;
	// the others wait their turn without a goroutine.
	maxAdmitting = 256
	// leastAdmitting is below what an answer that took long never lowers that:
	// it may be the network that is long.
	leastAdmitting = 16
	// maxAdmissionBytes bounds the auth packets of those who wait, in bytes.
	maxAdmissionBytes = 64 << 20
	// noticeLeft is how long a client must have waited for it to be worth a
	// system call whether it is still there.
	noticeLeft = 100 * time.Millisecond
	// Bounds of the pause after logic did not answer, or could not.
	firstAdmissionPause, lastAdmissionPause = 50 * time.Millisecond, time.Second
)

// admission lets clients in: in the order in which they came, at the connect
// rate, and as many at a time as logic answers soon. While logic answers late
// fewer are asked about; while it does not answer, one is, again and again.
// Who waits costs its socket and its auth packet. It waits in our queue, so no
// handshake timeout counts; the bound is ConnectWait: who would wait longer is
// told at once where the rate says so, and else when that time has passed. Who
// has left meanwhile costs nothing.
//
// Goroutines stay while there are many to let in, since what they do grows
// their stacks, and a few beyond that.
type admission struct {
	comet *Comet

	mu      sync.Mutex
	queue   []*arrival // those who have not had a turn, in order
	again   []*arrival // those whose turn came to nothing: they are first
	bytes   int        // of their auth packets
	ready   []*arrival // those whose turn it is
	running int        // goroutines
	idle    int
	unused  int        // the fewest that were idle since the last trim
	leave   int        // of those that are idle no more, how many are to end
	some    *sync.Cond // something is ready
	timer   *time.Timer
	turning bool      // the limiter has given the first of queue its turn: turn
	turn    time.Time //
	closing bool      // nobody is let in any more
	stopped bool
	wg      sync.WaitGroup

	pace pace
}

// arrival is a client with a complete auth packet.
type arrival struct {
	conn    transport.Conn
	packet  transport.Packet
	started time.Time
	latest  time.Time // until when it may wait
	over    bool      // it has waited for too long, or the comet stops
	auth    authBody
	// done is closed when it is decided, for a connection that has a goroutine;
	// session is what came of it, from its first turn on.
	done    chan struct{}
	session *session
}

// pace is how many clients logic is asked about at a time. It follows how logic
// answers: up with each answer, down by a quarter with one that took long, by
// half with a failure, but once for all that were asked before it went down.
type pace struct {
	limit   int
	under   int       // questions that are under way
	lowered time.Time // when limit went down last
	pause   time.Duration
	until   time.Time // nobody is asked about before
}

func (p *pace) answered(began, now time.Time, slow time.Duration) {
	p.pause, p.until = 0, time.Time{}
	switch {
	case now.Sub(began) <= slow:
		p.limit = min(p.limit+1, maxAdmitting)
	case p.limit > leastAdmitting && began.After(p.lowered):
		p.limit, p.lowered = max(p.limit*3/4, leastAdmitting), now
	}
}

// failed says whether this is the first failure after an answer.
func (p *pace) failed(began, now time.Time) (first bool) {
	first = p.pause == 0
	if !began.After(p.lowered) && !first {
		return false
	}
	p.limit, p.lowered = max(p.limit/2, 1), now
	p.pause = min(max(2*p.pause, firstAdmissionPause), lastAdmissionPause)
	p.until = now.Add(p.pause)
	return first
}

func newAdmission(c *Comet) *admission {
	a := &admission{comet: c, pace: pace{limit: maxAdmitting / 4}}
	a.some = sync.NewCond(&a.mu)
	a.timer = time.AfterFunc(time.Hour, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.pump()
	})
	a.timer.Stop()
	return a
}

// add queues an arrival; false: it would have to wait for too long, or the
// comet is stopping.
func (a *admission) add(v *arrival) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closing || a.bytes+len(v.packet.Body) > maxAdmissionBytes || a.tooMany(v.started) {
		return false
	}
	v.latest = v.started.Add(a.comet.cfg.ConnectWait)
	a.bytes += len(v.packet.Body)
	a.queue = append(a.queue, v)
	a.pump()
	return true
}

// tooMany says whether one more would have to wait for too long by the connect
// rate alone. Holds mu.
func (a *admission) tooMany(now time.Time) bool {
	r := a.comet.connectRate
	if r == nil {
		return false
	}
	before := float64(len(a.queue) + 1)
	if a.turning {
		before-- // its turn is counted in the limiter
	}
	wait := (before - r.TokensAt(now)) / float64(r.Limit())
	return wait > a.comet.cfg.ConnectWait.Seconds()
}

// waiting counts those who wait.
func (a *admission) waiting() float64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return float64(len(a.queue) + len(a.again))
}

// pump gives those a turn who may have one now, and sees to it that it is
// called when the next one may. Holds mu.
func (a *admission) pump() {
	for now := time.Now(); len(a.again)+len(a.queue) > 0; {
		from := &a.again
		if len(a.again) == 0 {
			from = &a.queue
		}
		v := (*from)[0]
		v.over = a.closing || now.After(v.latest)
		if !v.over {
			at, soon := a.when(now, from == &a.queue)
			if !soon || now.Before(at) {
				if !soon || v.latest.Before(at) { // the end of a question calls pump, too
					at = v.latest.Add(1)
				}
				a.timer.Reset(at.Sub(now))
				return
			}
			a.pace.under++
		}
		if from == &a.queue && !v.over {
			a.turning = false // of one that is refused the next has it
		}
		(*from)[0] = nil
		if *from = (*from)[1:]; len(*from) == 0 {
			*from = nil
		}
		a.bytes -= len(v.packet.Body)
		a.ready = append(a.ready, v)
		if a.idle > 0 {
			a.idle-- // here, or the next one would count on the same goroutine
			a.unused = min(a.unused, a.idle)
			a.some.Signal()
		} else {
			a.running++
			a.wg.Add(1)
			go a.work()
		}
	}
	a.timer.Stop()
}

// when is when the first of those who wait may have its turn; false: when a
// question has ended. Holds mu.
func (a *admission) when(now time.Time, byRate bool) (at time.Time, soon bool) {
	if a.pace.under >= a.pace.limit {
		return time.Time{}, false
	}
	at = a.pace.until
	if r := a.comet.connectRate; byRate && r != nil {
		if !a.turning {
			a.turning = true
			a.turn = now.Add(r.ReserveN(now, 1).DelayFrom(now))
		}
		if a.turn.After(at) {
			at = a.turn
		}
	}
	return at, true
}

func (a *admission) work() {
	defer a.wg.Done()
	p := patience{comet: a.comet}
	defer p.end()
	patient := p.context
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		if len(a.ready) == 0 {
			a.ready = nil
			if a.stopped || a.leave > 0 {
				a.leave = max(a.leave-1, 0)
				a.running--
				return
			}
			a.idle++
			a.some.Wait()
			continue
		}
		v := a.ready[0]
		a.ready[0] = nil
		a.ready = a.ready[1:]
		asked := !v.over
		a.mu.Unlock()
		began := time.Now()
		err := a.admit(v, patient)
		a.mu.Lock()
		if asked {
			a.settle(v, began, err)
		}
		a.pump()
	}
}

// settle takes note of how a turn ended; err is that logic could not say. Holds mu.
func (a *admission) settle(v *arrival, began time.Time, err error) {
	c, now := a.comet, time.Now()
	a.pace.under--
	if err == nil {
		if a.pace.pause > 0 {
			c.log.Info().Msg("logic lets clients in again")
		}
		a.pace.answered(began, now, c.cfg.CallTimeout/5)
		return
	}
	if a.pace.failed(began, now) {
		c.log.Warn().Err(err).Int("waiting", len(a.queue)+len(a.again)).Msg("logic does not say whom to let in, asking again until it does")
	}
	a.bytes += len(v.packet.Body)
	a.again = append(a.again, v)
}

// admit makes a session of an arrival whose turn it is, or refuses it. An error
// says that logic could not say: it is to have another turn. patient bounds the
// question.
func (a *admission) admit(v *arrival, patient func() context.Context) error {
	c := a.comet
	switch {
	case v.over && v.session == nil:
		c.refuseWaiting(v)
	case v.over && c.stopping():
		v.session.shutDown()
	case v.over:
		c.metrics.refused.WithLabelValues(refusedWait).Inc()
		v.session.refused(v.started, protocol.CloseOverload, "the server cannot take the connection now")
	case v.session == nil && a.left(v):
		c.metrics.refused.WithLabelValues(refusedLeft).Inc()
	default:
		if v.session == nil {
			v.session = c.authenticate(v)
		}
		if v.session == nil {
			break
		}
		if err := v.session.connect(patient(), v); err != nil {
			return err
		}
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
	return nil
}

// left says whether a client that has waited is not there any more.
func (a *admission) left(v *arrival) bool {
	poll, ok := v.conn.(transport.Pollable)
	return ok && time.Since(v.started) > noticeLeft && poll.Gone()
}

// passing says whether logic could not say, so that it is to be asked again.
func passing(err error) bool {
	return errors.Is(err, envelope.ErrUnavailable) || errors.Is(err, envelope.ErrNotReady)
}

// shut turns away who waits, and who comes.
func (a *admission) shut() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closing = true
	a.pump()
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
	a.shut()
	a.mu.Lock()
	a.stopped = true
	a.some.Broadcast()
	a.mu.Unlock()
	a.wg.Wait()
}
