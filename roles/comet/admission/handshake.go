package admission

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"imgo/protocol"
	"imgo/transport"
)

// Bounds of what a binary client may send before its auth packet. goim ignored
// such packets, and its clients may rely on that. imgo 2016 closed the
// connection, but none of its clients ever sent one. On the wire the two cannot
// be told apart before auth, so a few packets are ignored. Text is imgo's alone
// and the longer header is version 2's, which is strict: there the first packet must be auth.
const (
	maxIgnored      = 16
	maxIgnoredBytes = 16 << 10
)

// maxFrames is how many control frames and fragments a client may send before its
// auth packet. A library that cuts the longest auth packet of the defaults into
// frames of 1 KiB needs 65.
const maxFrames = 100

// maxInline is how many reads of one connection the poller's goroutine does in
// succession, whatever they bring. A worker does the others.
const maxInline = 4

// checkGoneAfter is how long a client must have waited before a system call
// asks whether it is still there.
const checkGoneAfter = 100 * time.Millisecond

// handshake is a connection until it has a session or has ended. One goroutine
// at a time has it: the one that reads, then the queue, then a worker.
type handshake struct {
	PendingConnect
	controller *Controller
	poll       transport.Pollable     // Conn, or nil: the connection has a goroutine
	deadline   transport.DeadlineSlot // for the auth packet

	ignoredBytes int
	frames       int
	alone        bool // no other connection has an event now; guarded by the queue's mu once it is queued

	retryAt time.Time     // before which it is not tried again; zero: no try has failed
	decided chan struct{} // closed when it is admitted or refused; nil if poll is set
}

// Readable and Writable make a handshake a transport.Waker. To read a handshake
// never waits, so the poller's goroutine does it. Nothing waits to be written.
func (h *handshake) Readable(alone bool) {
	h.alone = alone
	for range maxInline {
		if !h.step() {
			return
		}
	}
	h.alone = false
	h.controller.workers.Run(unread{h})
}

// unread is a handshake whose reading the poller's goroutine leaves to a worker.
type unread struct{ *handshake }

// Run reads on.
func (u unread) Run() { u.read() }

// Writable does nothing.
func (h *handshake) Writable() {}

// start begins with a connection. If the connection has a goroutine, this one,
// start returns when the connection has ended.
func (h *handshake) start() {
	c := h.controller
	if h.poll != nil {
		h.poll.Attach(h)
	}
	if err := c.limiter.addOpen(h.Conn.Remote().Addr()); err != nil {
		h.refuse(err)
		return
	}
	c.deadlines.Start(&h.deadline, h.Conn)
	if h.poll != nil && h.poll.Rest() {
		return // nothing has come yet, and no read was needed to know that
	}
	if h.poll != nil {
		h.Readable(false)
		return
	}
	h.read()
}

// read reads up to the auth packet. All packets before it share one deadline, so
// a client cannot buy time a byte at a time.
func (h *handshake) read() {
	for h.step() {
	}
}

// step reads once. It reports whether to read on.
func (h *handshake) step() bool {
	p, err := ReadStep(h.Conn)
	switch {
	case errors.Is(err, transport.ErrIdle):
		return false
	case errors.Is(err, transport.ErrPart): // its bytes and the time are bounded
		return true
	case errors.Is(err, transport.ErrFrame):
		if h.frames++; h.frames <= maxFrames {
			return true
		}
		err = &transport.ProtocolError{
			Kind: "frames_before_auth", Code: protocol.CloseBadPacket,
			Reason: fmt.Sprintf("more than %d control frames and fragments before auth", maxFrames),
		}
	case err == nil && p.Op == protocol.OpAuth:
		h.Packet = p
		h.authenticate()
		return false
	}
	if err != nil {
		h.fail(err)
		return false
	}
	h.Packet = p
	h.Packet.Body = nil
	h.controller.cfg.Metrics.EarlyPackets.Inc()
	h.Ignored++
	h.ignoredBytes += len(p.Body)
	if h.Conn.Text() || p.Long || h.Ignored > maxIgnored || h.ignoredBytes > maxIgnoredBytes {
		h.fail(&transport.ProtocolError{
			Kind: "before_auth", Code: protocol.CloseBadPacket, Reason: "the first packet must be auth",
		})
		return false
	}
	return true
}

// fail refuses a connection that brought no auth packet.
func (h *handshake) fail(err error) {
	h.controller.deadlines.Cancel(&h.deadline)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = ErrHandshakeTimeout
		if h.controller.isClosed() {
			err = ErrStopping
		}
	}
	h.refuse(err)
}

// authenticate queues a client that has sent its auth packet. If the connection
// has a goroutine, this one, it goes on with the session.
func (h *handshake) authenticate() {
	c := h.controller
	if c.deadlines.Cancel(&h.deadline) { // the time ended at this very moment
		h.fail(os.ErrDeadlineExceeded)
		return
	}
	c.cfg.Metrics.AuthPackets.Inc()
	h.Started = time.Now()
	if h.poll == nil {
		h.decided = make(chan struct{})
	}
	if err := c.queue.add(h); err != nil {
		h.refuse(err)
		return
	}
	if h.poll != nil {
		return
	}
	<-h.decided
	if h.Session == nil {
		c.Release(h.Conn)
		return
	}
	// This goroutine has h for as long as the session lives.
	h.Packet.Body, h.Header, h.Finish = nil, nil, nil
	h.Session.Run()
}

// failed reports whether a try has failed.
func (h *handshake) failed() bool { return !h.retryAt.IsZero() }

// Run admits a client that has a slot, or refuses one whose Err is set. It is
// the worker's part.
func (h *handshake) Run() {
	c := h.controller
	began, slot := time.Now(), h.Err == nil
	if slot && h.gone(began) {
		h.Err = io.EOF
	}
	err := c.cfg.Admit(c.callContext(began), &h.PendingConnect)
	switch {
	case err != nil: // it is queued again
	case h.Finish != nil:
		c.workers.Run(unfinished{h})
	default:
		h.goOn()
	}
	if slot {
		c.queue.finish(h, began, err)
	}
}

// unfinished is a client that is admitted, for which Finish is still to be run.
type unfinished struct{ *handshake }

// Run finishes it and has the session read.
func (u unfinished) Run() {
	u.Finish.Run()
	u.goOn()
}

// goOn has the session read, or ends a connection that got none.
func (h *handshake) goOn() {
	switch {
	case h.decided != nil:
		close(h.decided)
	case h.Session == nil:
		h.controller.Release(h.Conn)
	case !h.poll.Rest():
		h.controller.workers.Run(h.Session)
	}
}

// gone reports whether a client that has waited has left meanwhile.
func (h *handshake) gone(now time.Time) bool {
	return h.poll != nil && now.Sub(h.Started) > checkGoneAfter && h.poll.Gone()
}

// refuse ends a connection that never waited for a slot.
func (h *handshake) refuse(err error) {
	c := h.controller
	h.Err = err
	_ = c.cfg.Admit(c.cfg.Context, &h.PendingConnect)
	c.Release(h.Conn)
}

// ReadStep returns the client's next packet, or says what came instead of it; see
// transport.Conn. The error transport.ErrIdle says that the connection is parked,
// and that its Waker is told when more comes.
func ReadStep(conn transport.Conn) (transport.Packet, error) {
	poll, ok := conn.(transport.Pollable)
	if !ok {
		return conn.ReadStep()
	}
	for {
		p, err := poll.TryReadPacket()
		if !errors.Is(err, transport.ErrIdle) || poll.Park() {
			return p, err
		}
	}
}
