package comet

import (
	"errors"
	"io"
	"time"

	"imgo/protocol"
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
		p, err := admission.ReadStep(r.out.Conn())
		if errors.Is(err, transport.ErrIdle) {
			return
		}
		if ended(err) {
			r.endInline(err)
			return
		}
		handle, delay := r.received(p, err)
		m := r.upstreamMessage(p, handle)
		switch {
		case delay > 0 || handle && (mayWait(p.Op) || r.upstreamFull(m)):
			r.comet.workers.Run(&unhandled{r, p, m, handle, delay})
			return
		case handle:
			r.handle(p, m)
		}
	}
	r.comet.workers.Run(r.session)
}

// ended reports whether err, of ReadStep, ends the connection.
func ended(err error) bool {
	return err != nil && !errors.Is(err, transport.ErrFrame) && !errors.Is(err, transport.ErrPart)
}

// unhandled is a packet that the poller's goroutine has read and left to a
// worker, with the delay that has to pass before it is handled.
type unhandled struct {
	reader
	packet  transport.Packet
	message *upstreamMessage // in the packet. It is nil if there is none
	handle  bool             // otherwise there is only the delay
	delay   time.Duration
}

// Run handles the packet and goes on reading.
func (u *unhandled) Run() {
	u.pause(u.delay)
	if u.handle && u.awaitSpace(u.message) {
		u.reader.handle(u.packet, u.message)
	}
	u.read()
}

// read handles packets until the connection is parked or has ended, and with it
// the session. A session that is closing reads on and drops the packets, so that
// no reset destroys its goodbye.
func (r reader) read() {
	for {
		p, err := admission.ReadStep(r.out.Conn())
		if errors.Is(err, transport.ErrIdle) {
			return
		}
		if ended(err) {
			r.retire(r.readError(err)).Run()
			return
		}
		handle, delay := r.received(p, err)
		r.pause(delay)
		if m := r.upstreamMessage(p, handle); handle && r.awaitSpace(m) {
			r.handle(p, m)
		}
	}
}

// received takes note of a packet, or of what err says came instead. It reports
// whether there is a packet to be handled, and returns the delay that has to pass
// before that, so that the client keeps to its rate. A session that is closing
// keeps to it, too.
func (r reader) received(p transport.Packet, err error) (handle bool, delay time.Duration) {
	now := r.comet.now()
	if err == nil {
		r.heard.Store(int64(now))
		r.out.Lock()
		handle = r.state == stateLive
		r.auto.ackArrivedLocked(true)
		r.out.Unlock()
	}
	if delay = r.throttle.reserve(now, r.comet.cfg.UpstreamRate, r.comet.cfg.UpstreamBurst, cost(p)); delay > 0 {
		r.comet.metrics.throttled.Inc()
	}
	return handle, delay
}

// Tokens that a packet takes of limits.upstream_rate. A packet of a few bytes counts
// once, like a control frame, a fragment, or a read that brings a part of a packet.
const (
	bytesPerToken = 4 << 10
	waitTokens    = 10 // because logic, or the log, may have to be waited for
)

// cost returns what p counts for.
func cost(p transport.Packet) int {
	n := 1 + len(p.Body)/bytesPerToken
	if mayWait(p.Op) || p.Op == protocol.OpLeaveRoom {
		n += waitTokens - 1
	}
	return n
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
	e := r.retire(r.readError(err))
	if r.out.Idle() != nil {
		r.comet.workers.Run(e)
		return
	}
	e.Run()
}

// pause holds the reader back for d. It returns early when the session begins to
// close, and when a session that is closing has to end.
func (r reader) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	const step = 100 * time.Millisecond
	before, _ := r.closing()
	for ; d > 0; d -= step {
		time.Sleep(min(d, step))
		if now, by := r.closing(); now != before || now && !time.Now().Before(by) {
			return
		}
	}
}

// closing reports whether the session is being closed, and by when it ends.
func (r reader) closing() (bool, time.Time) {
	r.out.Lock()
	defer r.out.Unlock()
	return r.state > stateLive, r.closeBy
}

// throttle limits the rate of a session's packets. It is a token bucket, kept as
// the time on comet's clock at which the bucket is full again.
type throttle time.Duration

// reserve takes n tokens at the time now. It returns how long to wait before they may
// be used: 0 or less for no wait. A rate of 0 or less is no limit.
func (t *throttle) reserve(now time.Duration, rate float64, burst, n int) time.Duration {
	if rate <= 0 {
		return 0
	}
	each := time.Duration(float64(time.Second) / rate)
	full := max(time.Duration(*t), now) + each*time.Duration(n)
	*t = throttle(full)
	return full - now - each*time.Duration(max(burst, 1))
}
