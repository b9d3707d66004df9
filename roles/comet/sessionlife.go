package comet

import (
	"strconv"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/transport"
)

// activate makes a session live: the auth reply goes out first, then what was
// queued meanwhile. A session that was closed while logic was asked stays closed.
// Logic is told when it ends, as with any other.
func (s *session) activate(seq int32, rooms []string, reply *envelope.ConnectReply) {
	c := s.comet
	s.out.Conn().Authenticated()
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
	if reply.GetGlobalKey() {
		s.ownExtras()
		s.globalKey = true
	}
	key := s.key
	s.out.Unlock()

	c.table.live.Add(1)
	c.table.place(s, reply.GetPartition())
	c.metrics.sessionsOf[s.gen].Inc()
	until := c.joinBy()
	for _, room := range rooms {
		if !(reader{s}).join(room, until) {
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
	if len(backlog.GetMessages()) > 0 && !s.pacedLocked() {
		s.out.HoldLocked() // the first window goes with the auth reply
	}
	s.out.StartLocked(s, s.encodeAuthReply(seq, reply))
	s.startPacerLocked()
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
	if e := c.log.Debug(); e.Enabled() { // else the address is not formatted
		e.Str("user", s.user).Str("device", s.device).Uint64("session", s.id).
			Str("generation", s.gen.String()).Str("remote", remoteString(s.out.Conn())).Msg("session connected")
	}
}

// encodeAuthReply makes op 8. Its body is empty, but for version 2:
//
//	{"session":"…","user":"…","heartbeat":25,"pending":0}
//
// with the heartbeat in seconds.
func (s *session) encodeAuthReply(seq int32, reply *envelope.ConnectReply) []byte {
	if s.gen != genV2 {
		return transport.EncodeReply(s.form, s.version, protocol.OpAuthReply, seq, 0, nil)
	}
	body := append(make([]byte, 0, 192), `{"session":`...)
	body = appendQuoted(body, s.addressKey().Name())
	body = append(body, `,"user":`...)
	body = appendQuoted(body, reply.GetUser())
	body = append(body, `,"heartbeat":`...)
	body = strconv.AppendFloat(body, s.comet.cfg.Heartbeat.Seconds(), 'f', -1, 64)
	body = append(body, `,"pending":`...)
	body = append(strconv.AppendUint(body, uint64(reply.GetPending()), 10), '}')
	return transport.EncodeReply(s.form, protocol.Version2, protocol.OpAuthReply, seq, 0, body)
}

// retire begins the end of a session, once, when nothing is read any more. It takes
// the session out of the table, so that nothing more arrives, and flushes what is
// queued. The caller waits for the outbox, for at most the returned time, and then
// calls conclude.
func (s *session) retire(grace time.Duration) time.Duration {
	c := s.comet
	c.table.remove(s)
	authenticated := s.user != "" // written by this goroutine only
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
		s.flushPacedLocked()
		s.state = stateEnded
	case stateClosing:
		grace = max(time.Until(s.closeBy), 0)
	}
	s.setBehindLocked(false)
	s.out.FlushLocked(s)
	s.out.Unlock()
	return grace
}

// conclude ends a session that retire was called for: it closes the connection and
// tells logic what has arrived and that the session is gone. It does not wait if
// the outbox is idle.
func (s *session) conclude() {
	c := s.comet
	s.out.Lock()
	s.ackArrivedLocked(false)
	code, reason := s.code, s.reason
	s.out.Unlock()
	_ = s.out.Conn().Close(code, reason)
	s.out.Wait(-1) // not for long: the connection is closed
	c.metrics.ended(code)
	if s.user == "" { // it was never authenticated
		return
	}
	if reason == "" {
		reason = "closed by the client"
	}
	// The session is counted for its owner until just before the owner is told. A
	// count that differs for longer makes the owner doubt all sessions of this comet.
	c.table.unplace(s)
	// The client may be back in a moment. By then logic must know what it has.
	c.acks.flush()
	c.detaches.add(&envelope.Detached{Session: s.addressKey().Address(), User: s.user, Device: s.device, Reason: reason})
	c.log.Debug().Str("user", s.user).Str("device", s.device).Uint64("session", s.id).
		Int32("code", int32(code)).Str("reason", reason).Msg("session ended")
}

// acknowledge tells logic, in a batch with others, that kept messages have
// arrived. by is the label of the counter. The session may be locked.
func (c *Comet) acknowledge(s *session, ids []uint64, by string) {
	c.metrics.acks.WithLabelValues(by).Add(float64(len(ids)))
	c.acks.add(&envelope.Ack{User: s.user, Device: s.device, Ids: ids})
}
