package comet

import (
	"errors"
	"io"
	"time"

	"imgo/roles/comet/admission"
	"imgo/transport"
)

// halfCloseTimeout is how long a client that ended its side of the stream still
// gets what is queued for it.
const halfCloseTimeout = time.Second

// maxInline is how many packets of a session the poller's goroutine handles
// itself. A worker handles the rest.
const maxInline = 16

// reader is the read side of a session. One goroutine at a time reads: that of the
// poller, a worker, or the goroutine of a connection that has one.
type reader struct{ *session }

// Readable is called by the poller's goroutine when there is something to read.
func (s *session) Readable(alone bool) {
	if alone {
		reader{s}.readInline()
	} else {
		s.comet.workers.Run(s)
	}
}

// Run reads until the connection is parked or has ended. It makes a session an
// admission.Task.
func (s *session) Run() { reader{s}.read() }

// readInline runs on the poller's goroutine while nothing else happens on any
// connection. It handles packets itself, which spares waking another goroutine, and
// leaves to a worker whatever may have to wait.
func (r reader) readInline() {
	for range maxInline {
		p, err := admission.ReadPacket(r.out.Conn())
		switch {
		case errors.Is(err, transport.ErrIdle):
			return
		case err != nil:
			r.endInline(err)
			return
		}
		live, delay := r.received()
		switch {
		case !live:
		case delay > 0 || mayWait(p.Op):
			r.comet.workers.Run(&unhandled{r, p, delay})
			return
		default:
			r.handle(p)
		}
	}
	r.comet.workers.Run(r.session)
}

// unhandled is a packet that the poller's goroutine has read and left to a
// worker, with the delay that has to pass before it is handled.
type unhandled struct {
	reader
	packet transport.Packet
	delay  time.Duration
}

// Run handles the packet and goes on reading.
func (u *unhandled) Run() {
	u.pause(u.delay)
	u.handle(u.packet)
	u.read()
}

// read handles packets until the connection is parked or has ended, and with it
// the session. A session that is closing reads on and drops the packets, so that
// no reset destroys its goodbye.
func (r reader) read() {
	for {
		p, err := admission.ReadPacket(r.out.Conn())
		switch {
		case errors.Is(err, transport.ErrIdle):
			return
		case err != nil:
			r.end(r.retire(r.readError(err)))
			return
		}
		if live, delay := r.received(); live {
			r.pause(delay)
			r.handle(p)
		}
	}
}

// received takes note of a packet. It reports whether the session is live, so
// that the packet is to be handled, and returns the delay that has to pass
// before that, so that the client keeps to its rate.
func (r reader) received() (live bool, delay time.Duration) {
	now := r.comet.now()
	r.heard.Store(int64(now))
	r.out.Lock()
	live = r.state == stateLive
	r.ackArrivedLocked(true)
	r.out.Unlock()
	if !live {
		return false, 0
	}
	if delay = r.throttle.take(now, r.comet.cfg.UpstreamRate, r.comet.cfg.UpstreamBurst); delay > 0 {
		r.comet.metrics.throttled.Inc()
	}
	return true, delay
}

// readError notes why reading failed. It returns for how long the client may
// still take what is queued for it.
func (r reader) readError(err error) (grace time.Duration) {
	var bad *transport.ProtocolError
	switch {
	case errors.Is(err, io.EOF):
		return halfCloseTimeout
	case errors.As(err, &bad):
		r.comet.metrics.badPackets.WithLabelValues(bad.Kind).Inc()
		r.close(bad.Code, bad.Reason)
	}
	return 0
}

// endInline ends the session on the poller's goroutine if nothing has to be
// waited for, and else on a worker.
func (r reader) endInline(err error) {
	grace := r.retire(r.readError(err))
	if r.out.Idle() != nil {
		r.comet.workers.Run(&unfinished{r, grace})
		return
	}
	r.end(0)
}

// end ends the session after retire. The client may take what is queued for it
// within the grace.
func (r reader) end(grace time.Duration) {
	r.out.Wait(grace)
	r.conclude()
	r.comet.admission.Release(r.out.Conn())
}

// unfinished is a session whose end has to wait for what is queued.
type unfinished struct {
	reader
	grace time.Duration
}

// Run ends the session.
func (u *unfinished) Run() { u.end(u.grace) }

// pause holds the reader back for d. It returns early if the session is being
// closed.
func (r reader) pause(d time.Duration) {
	const step = 100 * time.Millisecond
	for ; d > 0; d -= step {
		time.Sleep(min(d, step))
		r.out.Lock()
		live := r.state == stateLive
		r.out.Unlock()
		if !live {
			return
		}
	}
}

// throttle limits the rate of a session's packets. It is a token bucket, kept as
// the time on comet's clock at which the bucket is full again.
type throttle time.Duration

// take takes a token at the time now. It returns how long to wait before the
// token may be used: 0 or less for no wait. A rate of 0 or less is no limit.
func (t *throttle) take(now time.Duration, rate float64, burst int) time.Duration {
	if rate <= 0 {
		return 0
	}
	each := time.Duration(float64(time.Second) / rate)
	full := max(time.Duration(*t), now) + each
	*t = throttle(full)
	return full - now - each*time.Duration(max(burst, 1))
}
