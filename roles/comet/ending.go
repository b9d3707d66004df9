package comet

import (
	"time"

	"imgo/envelope"
)

// ending is a session from which nothing is read any more.
type ending struct {
	*session
	grace time.Duration // for how long the client may still take what is queued for it
}

// retire begins the end of a session, once, when nothing is read any more. It takes
// the session out of the table, so that nothing more arrives, and flushes what is
// queued. The caller then runs the ending, on a worker if it must not wait and the
// outbox is not idle.
func (r reader) retire(grace time.Duration) ending {
	s, c := r.session, r.comet
	c.table.remove(s)
	authenticated := s.user != "" // written by this goroutine only
	if authenticated {
		c.table.live.Add(-1)
		c.metrics.sessionsOf[s.speaks].Dec()
		member{s}.exitAll()
		s.out.Lock()
		key := s.key
		s.out.Unlock()
		if key != "" {
			c.table.releaseKey(userKey{s.user, key}, s)
		}
	}

	s.out.Lock()
	s.enqueueBroadcastsLocked()
	switch s.state {
	case stateConnecting:
		s.state = stateEnded
		s.out.DropLocked()
	case stateLive:
		s.auto.pacer().flushLocked()
		s.state = stateEnded
	case stateClosing:
		grace = max(time.Until(s.closeBy), 0)
	}
	s.upQueue.endLocked()
	s.setBehindLocked(false)
	s.out.FlushLocked(s)
	s.out.Unlock()
	return ending{s, grace}
}

// Run waits for what is queued, for at most the grace, and ends the session.
func (e ending) Run() {
	e.out.Wait(e.grace)
	e.conclude()
	e.comet.admission.Release(e.out.Conn())
}

// conclude closes the connection and tells logic what has arrived and that the session
// is gone. It does not wait if the outbox is idle.
func (e ending) conclude() {
	c := e.comet
	e.out.Lock()
	e.auto.ackArrivedLocked(false)
	code, reason := e.code, e.reason
	e.out.Unlock()
	_ = e.out.Conn().Close(code, reason)
	e.out.Wait(-1) // not for long: the connection is closed
	c.metrics.ended(code)
	if e.user == "" { // it was never authenticated
		return
	}
	if reason == "" {
		reason = "closed by the client"
	}
	// The session is counted for its owner until just before the owner is told. A
	// count that differs for longer makes the owner doubt all sessions of this comet.
	c.table.unplace(e.session)
	// The client may be back in a moment. By then logic must know what it has.
	c.acks.flush()
	c.detaches.add(&envelope.Detached{Session: e.addressKey().Address(), User: e.user, Device: e.device, Reason: reason})
	c.log.Debug().Str("user", e.user).Str("device", e.device).Uint64("session", e.id).
		Int32("code", int32(code)).Str("reason", reason).Msg("session ended")
}
