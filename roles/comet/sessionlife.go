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
func (s *session) activate(seq int32, auth *authBody, reply *envelope.ConnectReply) {
	c := s.comet
	s.out.Conn().Authenticated()
	m := member{s}
	granted := m.takeGranted(reply.GetUser(), reply.GetMemberships())
	s.out.Lock()
	if reply.GetDevice() != "" {
		s.device = reply.GetDevice()
	}
	s.floor = reply.GetFloor()
	if expires := reply.GetExpiresMs(); expires != 0 || reply.Access != nil {
		s.ownExtras()
		s.expires, s.rooms.access = expires, reply.GetAccess()
	}
	if reply.GetGlobalKey() {
		s.ownExtras()
		s.globalKey = true
	}
	key, rooms := s.key, auth.rooms
	s.out.Unlock()

	c.table.live.Add(1)
	c.table.place(s, reply.GetPartition())
	c.metrics.sessionsOf[s.gen].Inc()
	until := c.joinBy()
	if reply.GetAccess().GetRuled() {
		rooms = reply.GetJoined()
	}
	rooms = c.withRooms(rooms, reply.GetRooms())
	ok := true
	for i := 0; ok && i < len(rooms); i++ {
		ok = m.join(rooms[i], until)
	}
	for i := 0; ok && i < len(granted); i++ {
		ok = m.openRoom(granted[i], until) // it is in them already
	}
	if key != "" {
		if older := c.table.claimKey(userKey{s.user, key}, s); older != nil {
			older.close(protocol.CloseReplacedByKey, "a newer session has the same key")
		}
	}

	if s.goLive(seq, auth, reply) {
		m.askLater(reply.GetToAsk(), false)
	}
}

// goLive is the end of activate. It reports false if the session was closed meanwhile.
func (s *session) goLive(seq int32, auth *authBody, reply *envelope.ConnectReply) bool {
	c := s.comet
	s.out.Lock()
	defer s.out.Unlock()
	if s.state != stateConnecting {
		return false
	}
	s.state = stateLive
	backlog := reply.GetBacklog()
	if len(backlog.GetMessages()) > 0 && !s.pacedLocked() {
		s.out.HoldLocked() // the first window goes with the auth reply
	}
	s.out.StartLocked(s, s.encodeAuthReplyLocked(seq, reply, append(auth.refused, reply.GetRefused()...)))
	s.auto.pacer().startLocked()
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
	return true
}

// encodeAuthReplyLocked makes op 8. Its body is empty, but for version 2:
//
//	{"session":"…","user":"…","heartbeat":25,"expires_in":3600,"pending":0,"rooms":["…"],
//	"refused":[{"room":"…","code":"forbidden","reason":"…"}],"undecided":["…"],"published":"7"}
//
// with times in seconds. expires_in is there if the token ends, rooms if callers of
// the API have put the user into some, refused if some rooms were asked for in
// vain, undecided if logic is yet to be asked about some, and published if the device
// has sent messages with ids.
func (s *session) encodeAuthReplyLocked(seq int32, reply *envelope.ConnectReply, refused []*envelope.RoomRefusal) []byte {
	if s.gen != genV2 {
		return transport.EncodeReply(s.form, s.version, protocol.OpAuthReply, seq, 0, nil)
	}
	body := append(s.appendAuthReply(reply.GetExpiresMs()), `,"pending":`...)
	body = strconv.AppendUint(body, uint64(reply.GetPending()), 10)
	for i, room := range s.rooms.granted.rooms {
		body = appendListStart(body, "rooms", i)
		body = appendQuoted(body, room)
	}
	body = appendListEnd(body, len(s.rooms.granted.rooms))
	for i, r := range refused {
		body = append(appendListStart(body, "refused", i), `{"room":`...)
		body = append(appendQuoted(body, r.GetRoom()), `,"code":`...)
		body = append(appendQuoted(body, r.GetCode()), `,"reason":`...)
		body = append(appendQuoted(body, r.GetReason()), '}')
	}
	body = appendListEnd(body, len(refused))
	for i, room := range reply.GetToAsk() {
		body = appendListStart(body, "undecided", i)
		body = appendQuoted(body, room)
	}
	body = appendListEnd(body, len(reply.GetToAsk()))
	if id := reply.GetPublished(); id > 0 {
		body = append(strconv.AppendUint(append(body, `,"published":"`...), id, 10), '"')
	}
	body = append(body, '}')
	return transport.EncodeReply(s.form, protocol.Version2, protocol.OpAuthReply, seq, 0, body)
}

// appendAuthReply returns what the replies to the first auth and to a new token have
// in common, up to the closing brace. A token ends at expiresMS, Unix milliseconds;
// 0: never.
func (s *session) appendAuthReply(expiresMS int64) []byte {
	body := append(make([]byte, 0, 192), `{"session":`...)
	body = appendQuoted(body, s.addressKey().Name())
	body = append(body, `,"user":`...)
	body = appendQuoted(body, s.user)
	body = append(body, `,"heartbeat":`...)
	body = strconv.AppendFloat(body, s.comet.cfg.Heartbeat.Seconds(), 'f', -1, 64)
	if expiresMS != 0 {
		left := time.Until(time.UnixMilli(expiresMS))
		body = append(body, `,"expires_in":`...)
		body = strconv.AppendInt(body, max(int64(left.Round(time.Second)/time.Second), 0), 10)
	}
	return body
}

// appendListStart begins element i of a list in an object that has members already.
func appendListStart(body []byte, name string, i int) []byte {
	if i > 0 {
		return append(body, ',')
	}
	return append(append(append(body, `,"`...), name...), `":[`...)
}

// appendListEnd ends a list of n elements, of which nothing is there if n is 0.
func appendListEnd(body []byte, n int) []byte {
	if n == 0 {
		return body
	}
	return append(body, ']')
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
		member{s}.exitAll()
		s.out.Lock()
		key := s.key
		s.out.Unlock()
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
		s.auto.pacer().flushLocked()
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
	s.auto.ackArrivedLocked(false)
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

// ackedByClient is the label of acknowledgements that clients send.
const ackedByClient = "client"

// acknowledge tells logic, in a batch with others, that kept messages have
// arrived. by is the label of the counter. The session may be locked.
func (c *Comet) acknowledge(s *session, ids []uint64, by string) {
	c.metrics.acks.WithLabelValues(by).Add(float64(len(ids)))
	c.acks.add(&envelope.Ack{User: s.user, Device: s.device, Ids: ids, Auto: by != ackedByClient})
}
