package comet

import (
	"strconv"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/transport"
)

// activate makes a session live: the auth reply goes out first, then what was
// held meanwhile. A session that was closed while logic was asked stays so,
// and is detached like any other as it ends.
func (s *session) activate(seq int32, rooms []string, reply *envelope.ConnectReply) {
	c := s.comet
	s.out.Lock()
	s.user = reply.GetUser()
	if reply.GetDevice() != "" {
		s.device = reply.GetDevice()
	}
	s.floor = reply.GetFloor()
	if expires := reply.GetExpiresMs(); expires != 0 {
		s.ownExtras()
		s.expires = expires
	}
	key := s.key
	s.out.Unlock()

	c.table.live.Add(1)
	c.table.place(s, reply.GetPartition())
	c.metrics.sessionsOf[s.gen].Inc()
	until := c.joinBy()
	for _, room := range rooms {
		if !s.join(room, until) {
			break
		}
	}
	if key != "" {
		if older := c.table.claimKey(userKey{s.user, key}, s); older != nil {
			older.close(protocol.CloseReplacedByKey, "a newer session has the same key")
		}
	}

	s.out.Lock()
	defer s.out.Unlock()
	if s.state != stateConnecting {
		return
	}
	s.state = stateLive
	backlog := reply.GetBacklog()
	if len(backlog.GetMessages()) > 0 {
		s.out.HoldLocked() // the first window goes with the auth reply
	}
	s.out.StartLocked(s, s.authReply(seq, reply))
	s.heard.Store(int64(c.now()))
	if s.catchUp.state == catchUpSent {
		s.catchUp.sentAt = c.now()
	}
	if backlog != nil {
		var t tally
		s.backlogLocked(backlog, &t)
		s.out.FlushLocked(s)
		c.metrics.add(&t)
	}
	s.askIfDueLocked()
	if e := c.log.Debug(); e.Enabled() { // or the address is put into words for nobody
		e.Str("user", s.user).Str("device", s.device).Uint64("session", s.id).
			Str("generation", s.gen.String()).Str("remote", remoteString(s.out.Conn())).Msg("session connected")
	}
}

// authReply is op 8: empty, or for version 2 what the client is to know.
func (s *session) authReply(seq int32, reply *envelope.ConnectReply) []byte {
	if s.gen != genV2 {
		return transport.EncodeReply(s.form, s.version, protocol.OpAuthReply, seq, 0, nil)
	}
	// {"session":"…","user":"…","heartbeat":60,"pending":0}, the heartbeat in seconds.
	body := append(make([]byte, 0, 192), `{"session":`...)
	body = appendQuoted(body, s.publicName())
	body = append(body, `,"user":`...)
	body = appendQuoted(body, reply.GetUser())
	body = append(body, `,"heartbeat":`...)
	body = strconv.AppendFloat(body, s.comet.cfg.Heartbeat.Seconds(), 'f', -1, 64)
	body = append(body, `,"pending":`...)
	body = append(strconv.AppendUint(body, uint64(reply.GetPending()), 10), '}')
	return transport.EncodeReply(s.form, protocol.Version2, protocol.OpAuthReply, seq, 0, body)
}

// finish ends the session, once, when nothing is read any more: out of the
// table first, so that nothing else arrives, then the rest of what was queued
// (for a client that may still read it), then logic is told what arrived and
// that the session is gone.
func (s *session) finish(grace time.Duration) {
	s.awaitWriter(s.retire(grace))
	s.conclude()
}

// retire is the part of finish before the first wait. It returns for how long
// the client may still take what was queued.
func (s *session) retire(grace time.Duration) time.Duration {
	c := s.comet
	c.table.remove(s)
	authenticated := s.user != "" // set by this goroutine
	if authenticated {
		c.table.live.Add(-1)
		c.metrics.sessionsOf[s.gen].Dec()
		s.out.Lock()
		rooms, key := s.rooms, s.key
		s.out.Unlock()
		for _, room := range rooms {
			c.table.leave(room, s)
		}
		if key != "" {
			c.table.releaseKey(userKey{s.user, key}, s)
		}
	}

	s.out.Lock()
	s.takeBroadcastsLocked()
	switch s.state {
	case stateConnecting:
		s.state = stateEnded
		s.out.DropLocked()
	case stateLive:
		s.state = stateEnded
	case stateClosing:
		grace = max(time.Until(s.closeBy), 0)
	}
	s.setBehindLocked(false)
	s.out.FlushLocked(s)
	s.out.Unlock()
	return grace
}

// conclude is the part of finish after the first wait. It does not wait if the
// session's writer has ended.
func (s *session) conclude() {
	c := s.comet
	s.out.Lock()
	s.ackArrivedLocked(false)
	code, reason := s.code, s.reason
	s.out.Unlock()
	_ = s.out.Conn().Close(code, reason)
	s.awaitWriter(-1)
	c.metrics.ended(code)
	if s.user == "" { // it was never authenticated
		return
	}
	if reason == "" {
		reason = "closed by the client"
	}
	// Counted for its owner until the owner is told: counts that differ for
	// longer would make it doubt all sessions of this comet.
	c.table.unplace(s)
	// The client may be back in a moment: let logic know what it has by then.
	c.acks.flush()
	c.detaches.add(&envelope.Detached{Session: s.address(), User: s.user, Device: s.device, Reason: reason}, false)
	c.log.Debug().Str("user", s.user).Str("device", s.device).Uint64("session", s.id).
		Int32("code", int32(code)).Str("reason", reason).Msg("session ended")
}

// awaitWriter waits for the writer, if there is one, for at most d; negative:
// for as long as it takes, which is not long once the connection is closed.
func (s *session) awaitWriter(d time.Duration) {
	gone := s.out.Idle()
	if gone == nil || d == 0 {
		return
	}
	if d < 0 {
		<-gone
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-gone:
	case <-timer.C:
	}
}

// acknowledge tells logic, in a batch with others, that kept messages have
// arrived; by says who said so. The session's mu may be held.
func (c *Comet) acknowledge(s *session, ids []uint64, by string) {
	c.metrics.acks.WithLabelValues(by).Add(float64(len(ids)))
	c.acks.add(&envelope.Ack{User: s.user, Device: s.device, Ids: ids}, false)
}
