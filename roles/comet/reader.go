package comet

import (
	"errors"
	"io"
	"time"

	"imgo/roles/comet/admission"
	"imgo/transport"
)

// This file is the read side of a session. One goroutine at a time reads: that
// of the poller, a worker, or the goroutine of a connection that has one.

// halfCloseTimeout is how long a client that ended its side of the stream still
// gets what is queued for it.
const halfCloseTimeout = time.Second

// maxInline is how many packets of a session the poller's goroutine handles
// itself. A worker handles the rest.
const maxInline = 16

// Readable is called by the poller's goroutine when there is something to read.
// While nothing else happens, that goroutine handles the packets itself, which
// spares waking another one. It leaves to a worker whatever may have to wait.
func (s *session) Readable(alone bool) {
	if !alone {
		s.comet.workers.Run(s)
		return
	}
	for range maxInline {
		p, err := admission.ReadPacket(s.out.Conn())
		switch {
		case errors.Is(err, transport.ErrIdle):
			return
		case err != nil:
			s.endInline(err)
			return
		}
		live, pause := s.received()
		switch {
		case !live:
		case pause > 0 || mayWait(p.Op):
			s.comet.workers.Run(&unhandled{s, p, pause})
			return
		default:
			s.handle(p)
		}
	}
	s.comet.workers.Run(s)
}

// unhandled is a packet that the poller's goroutine has read and left to a
// worker, with the pause that has to pass before it is handled.
type unhandled struct {
	s      *session
	packet transport.Packet
	pause  time.Duration
}

// Run handles the packet and goes on reading.
func (u *unhandled) Run() {
	u.s.pause(u.pause)
	u.s.handle(u.packet)
	u.s.Run()
}

// Run handles packets until the connection is parked or has ended, and with it
// the session. A session that is closing reads on and drops the packets, so that
// no reset destroys its goodbye.
func (s *session) Run() {
	for {
		p, err := admission.ReadPacket(s.out.Conn())
		switch {
		case errors.Is(err, transport.ErrIdle):
			return
		case err != nil:
			s.finish(s.readError(err))
			s.comet.admission.Release(s.out.Conn())
			return
		}
		if live, pause := s.received(); live {
			s.pause(pause)
			s.handle(p)
		}
	}
}

// received takes note of a packet. It reports whether the session is live, so
// that the packet is to be handled, and returns the pause that has to pass
// before that, so that the client keeps to its rate.
func (s *session) received() (live bool, pause time.Duration) {
	now := s.comet.now()
	s.heard.Store(int64(now))
	s.out.Lock()
	live = s.state == stateLive
	s.ackArrivedLocked(true)
	s.out.Unlock()
	if !live {
		return false, 0
	}
	if pause = s.throttle.take(now, s.comet.cfg.UpstreamRate, s.comet.cfg.UpstreamBurst); pause > 0 {
		s.comet.metrics.throttled.Inc()
	}
	return true, pause
}

// readError notes why reading failed. It returns for how long the client may
// still take what is queued for it.
func (s *session) readError(err error) (grace time.Duration) {
	var bad *transport.ProtocolError
	switch {
	case errors.Is(err, io.EOF):
		return halfCloseTimeout
	case errors.As(err, &bad):
		s.comet.metrics.badPackets.WithLabelValues(bad.Kind).Inc()
		s.close(bad.Code, bad.Reason)
	}
	return 0
}

// endInline ends the session on the poller's goroutine if nothing has to be
// waited for, and else on a worker.
func (s *session) endInline(err error) {
	grace := s.retire(s.readError(err))
	if s.out.Idle() != nil {
		s.comet.workers.Run(&unfinished{s, grace})
		return
	}
	s.conclude()
	s.comet.admission.Release(s.out.Conn())
}

// unfinished is a session whose end has to wait for what is queued.
type unfinished struct {
	s     *session
	grace time.Duration
}

// Run ends the session.
func (u *unfinished) Run() {
	u.s.awaitWriter(u.grace)
	u.s.conclude()
	u.s.comet.admission.Release(u.s.out.Conn())
}

// pause holds the reader back for d. It returns early if the session is being
// closed.
func (s *session) pause(d time.Duration) {
	const step = 100 * time.Millisecond
	for ; d > 0; d -= step {
		time.Sleep(min(d, step))
		s.out.Lock()
		live := s.state == stateLive
		s.out.Unlock()
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
