package comet

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"imgo/envelope"
	"imgo/internal/jsonquote"
	"imgo/protocol"
	"imgo/roles/comet/admission"
	"imgo/transport"
)

// connecting is a session on its way from its auth packet to being live.
type connecting struct {
	*session
	pending *admission.PendingConnect
	auth    authBody
}

// run asks logic who the client is, and makes the session live or closes it. It
// returns an error if logic could not decide.
func (s *connecting) run(ctx context.Context) error {
	c, p, auth := s.comet, s.pending, &s.auth
	s.out.Lock()
	if s.state != stateConnecting { // it was closed while it waited for another try
		s.out.Unlock()
		return nil
	}
	info := s.describeLocked()
	s.out.Unlock()
	info.Rooms = auth.rooms // it joins them once logic has admitted it
	request := &envelope.ConnectRequest{Session: info, Token: auth.token, Mid: auth.mid}
	if c.cfg.Handshake {
		request.AuthBody, request.Headers = p.Packet.Body, handshakeHeaders(p.Header)
	}
	reply, err := c.logic.Connect(ctx, request)
	p.Answered = !envelope.IsTemporary(err)
	switch {
	case !p.Answered && c.calls.Err() == nil:
		c.metrics.callErrors.WithLabelValues("connect").Inc()
		return err
	case err != nil:
		code, reason := refusal(err)
		c.metrics.refused.WithLabelValues(refusedLogic).Inc()
		c.log.Debug().Err(err).Uint64("session", s.id).Str("remote", remoteString(p.Conn)).Int32("code", int32(code)).Msg("client refused")
		if code == protocol.CloseOverload {
			c.metrics.callErrors.WithLabelValues("connect").Inc()
		}
		s.refuse(code, reason)
		return nil
	}
	c.metrics.connected.Observe(time.Since(p.Started).Seconds())
	s.activate(reply)
	return nil
}

// refuse closes the session, which does not become live.
func (s *connecting) refuse(code protocol.CloseCode, reason string) {
	s.comet.metrics.connects.WithLabelValues("refused").Observe(time.Since(s.pending.Started).Seconds())
	s.close(code, reason)
}

// activate makes the session live: the auth reply goes out first, then what was
// queued meanwhile. If a room is yet to be opened, it leaves the rest to PendingConnect.Finish. A session that was closed
// while logic was asked stays closed. Logic is told when it ends, as with any other.
func (s *connecting) activate(reply *envelope.ConnectReply) {
	c := s.comet
	s.out.Conn().Authenticated()
	m := member{s.session}
	granted := m.enterGranted(reply.GetUser(), reply.GetMemberships())
	s.out.Lock()
	if reply.GetDevice() != "" {
		s.device = reply.GetDevice()
	}
	s.floor = reply.GetFloor()
	if expires := reply.GetExpiresMs(); expires != 0 || reply.Access != nil {
		s.ownExtrasLocked()
		s.expires, s.rooms.access = expires, reply.GetAccess()
	}
	if reply.GetGlobalKey() {
		s.ownExtrasLocked()
		s.globalKey = true
	}
	key, rooms := s.key, s.auth.rooms
	s.out.Unlock()

	c.table.live.Add(1)
	c.table.place(s.session, reply.GetPartition())
	c.metrics.sessionsOf[s.speaks].Inc()
	if reply.GetAccess().GetRuled() {
		rooms = reply.GetJoined()
	}
	rooms = c.withRooms(rooms, reply.GetRooms())
	open := true
	for _, room := range rooms {
		m.enter(room)
		open = open && c.opener.isOpen(room)
	}
	for _, room := range granted { // it is in them already
		open = open && c.opener.isOpen(room)
	}
	// Here, before the session waits for its rooms: a newer session may come meanwhile.
	if key != "" {
		if older := c.table.claimKey(userKey{s.user, key}, s.session); older != nil { // s itself, if it was tried for long
			older.close(protocol.CloseReplacedByKey, "a newer session has the same key")
		}
	}
	if open {
		s.finish(reply)
		return
	}
	s.pending.Finish = &openingRooms{*s, reply, slices.Concat(rooms, granted), c.joinBy()}
}

// openingRooms is a session that logic has admitted, and that waits for the opening of its rooms.
type openingRooms struct {
	connecting
	reply *envelope.ConnectReply
	rooms []string
	until time.Time
}

// Run waits for the rooms and makes the session live, or closes it.
func (o *openingRooms) Run() {
	m := member{o.session}
	for i := 0; i < len(o.rooms) && m.openRoom(o.rooms[i], o.until); i++ {
	}
	o.finish(o.reply)
}

// finish is the end of activate, when all rooms are open or the session is closed.
func (s *connecting) finish(reply *envelope.ConnectReply) {
	if s.goLive(reply) {
		member{s.session}.askLater(reply.GetToAsk(), false)
	}
}

// goLive sends the auth reply and what was queued. It reports false if the session was closed meanwhile.
func (s *connecting) goLive(reply *envelope.ConnectReply) bool {
	c := s.comet
	s.out.Lock()
	defer s.out.Unlock()
	if s.state != stateConnecting {
		return false
	}
	s.state = stateLive
	if len(reply.GetBacklog().GetMessages()) > 0 && !s.pacedLocked() {
		s.out.HoldLocked() // the first backlog goes with the auth reply
	}
	s.out.StartLocked(s.session, s.encodeAuthReplyLocked(reply))
	s.auto.pacer().startLocked()
	s.heard.Store(int64(c.now()))
	if s.catchUp != nil && s.catchUp.state == catchUpSent {
		s.catchUp.sentAt = c.now()
	}
	if reply.GetBacklog() != nil {
		b := backlog{session: s.session, answer: reply.GetBacklog()}
		b.writeAnswerLocked()
		s.out.FlushLocked(s.session)
		c.metrics.add(&b.tally)
	}
	s.askIfDueLocked()
	if e := c.log.Debug(); e.Enabled() { // else the address is not formatted
		e.Str("user", s.user).Str("device", s.device).Uint64("session", s.id).
			Str("generation", s.speaks.String()).Str("remote", remoteString(s.out.Conn())).Msg("session connected")
	}
	return true
}

// encodeAuthReplyLocked makes op 8. Its body is empty, but for version 2:
//
//	{"session":"…","user":"…","heartbeat":25,"expires_in":3600,"pending":0,"max_body":65536,"rooms":["…"],
//	"refused":[{"room":"…","code":"forbidden","reason":"…"}],"undecided":["…"],"published":"7"}
//
// with times in seconds and sizes in bytes. expires_in is there if the token ends. rooms is there if
// callers of the API have put the user into some. refused is there if some rooms were asked for in
// vain, and undecided if logic has yet to be asked about some. published is there if the device has
// sent messages with ids.
func (s *connecting) encodeAuthReplyLocked(reply *envelope.ConnectReply) []byte {
	seq := s.pending.Packet.Seq
	if s.speaks != protocolV2 {
		return transport.EncodeReply(s.form, s.version, protocol.OpAuthReply, seq, 0, nil)
	}
	body := append(s.appendAuthReply(reply.GetExpiresMs()), `,"pending":`...)
	body = strconv.AppendUint(body, uint64(reply.GetPending()), 10)
	body = strconv.AppendInt(append(body, `,"max_body":`...), int64(s.comet.cfg.MaxBody), 10)
	for i, room := range s.rooms.granted.rooms {
		body = appendListStart(body, "rooms", i)
		body = jsonquote.Append(body, room)
	}
	body = appendListEnd(body, len(s.rooms.granted.rooms))
	refused := append(s.auth.refused, reply.GetRefused()...)
	for i, r := range refused {
		body = append(appendListStart(body, "refused", i), `{"room":`...)
		body = append(jsonquote.Append(body, r.GetRoom()), `,"code":`...)
		body = append(jsonquote.Append(body, r.GetCode()), `,"reason":`...)
		body = append(jsonquote.Append(body, r.GetReason()), '}')
	}
	body = appendListEnd(body, len(refused))
	for i, room := range reply.GetToAsk() {
		body = appendListStart(body, "undecided", i)
		body = jsonquote.Append(body, room)
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
	body = jsonquote.Append(body, s.addressKey().Name())
	body = append(body, `,"user":`...)
	body = jsonquote.Append(body, s.user)
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

// closeCodes are the close codes for errors of logic.Connect that are the client's fault.
var closeCodes = map[envelope.Code]protocol.CloseCode{
	envelope.CodeUnauthorized:   protocol.CloseAuthFailed,
	envelope.CodeNotFound:       protocol.CloseAuthFailed,
	envelope.CodeExpired:        protocol.CloseTokenExpired,
	envelope.CodeRevoked:        protocol.CloseTokenRevoked,
	envelope.CodeTooMany:        protocol.CloseTooManySessions,
	envelope.CodeTooManyDevices: protocol.CloseTooManyDevices,
	envelope.CodeInvalid:        protocol.CloseBadPacket,
	envelope.CodeTooLarge:       protocol.CloseTooLarge,
}

// refusal returns what a client is told about an error of logic.Connect. An
// error that is not the client's fault is told as overload, so that the client
// comes back. A session whose key a newer one has gets what it would get if it had been replaced a moment later.
func refusal(err error) (protocol.CloseCode, string) {
	var e *envelope.Error
	switch {
	case !errors.As(err, &e) || closeCodes[e.Code] == 0:
	case e.Code == envelope.CodeTooMany && e.Field == "key":
		return protocol.CloseReplacedByKey, e.Error()
	default:
		return closeCodes[e.Code], e.Error()
	}
	return protocol.CloseOverload, "the server cannot take the connection now"
}
