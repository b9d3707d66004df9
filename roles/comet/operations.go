package comet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"imgo/envelope"
	"imgo/internal/jsonquote"
	"imgo/protocol"
	"imgo/transport"
)

// testReply is what imgo 2016 answered op 254.
const testReply = `{"test":"come on"}`

// handle acts on one packet of an authenticated session, as the server that
// its client was written for did. m is the message for the backend in the packet, or nil.
func (r reader) handle(p transport.Packet, m *upstreamMessage) {
	switch p.Op {
	case protocol.OpHeartbeat:
		r.countPacket("heartbeat")
		r.reply(p, protocol.OpHeartbeatReply, r.heartbeatBody())
		return
	case protocol.OpAuth:
		if r.speaks == protocolV2 {
			r.refresh(p)
			return
		}
		if r.speaks != protocolGoim { // goim had no use for it and answered it as it answered any other
			r.bad("second_auth", "auth was sent twice")
			return
		}
	}
	if r.speaks == protocolImgo {
		r.handleImgo(p, m)
		return
	}
	switch v2 := r.speaks == protocolV2; {
	case p.Op == protocol.OpChangeRoom:
		r.changeRoom(p)
	case p.Op == protocol.OpSubscribe:
		r.subscribe(p, protocol.OpSubscribeReply, insert)
	case p.Op == protocol.OpUnsubscribe:
		r.subscribe(p, protocol.OpUnsubscribeReply, remove)
	case v2 && p.Op == protocol.OpAck:
		r.ackPacket(p)
	case v2 && p.Op == protocol.OpJoinRoom:
		r.joinRoom(p)
	case v2 && p.Op == protocol.OpLeaveRoom:
		r.leaveRoom(p)
	case v2 && p.Op == protocol.OpRead:
		r.markRead(p)
	default:
		r.upstream(p, m)
	}
}

// mayWait reports whether a packet of operation op may have to wait for logic. The
// poller's goroutine leaves such a packet to a worker.
func mayWait(op int32) bool {
	return op == protocol.OpChangeRoom || op == protocol.OpJoinRoom || op == protocol.OpAuth || op == protocol.OpRead
}

// handleImgo does what imgo 2016 did: op 4 is echoed as op 5, op 254 is answered,
// and any other operation ends the connection.
func (r reader) handleImgo(p transport.Packet, m *upstreamMessage) {
	switch p.Op {
	case protocol.OpSend:
		r.countPacket("send")
		r.enqueueUpstream(m)
		r.reply(p, protocol.OpMessage, p.Body)
	case protocol.OpTest:
		r.countPacket("test")
		r.reply(p, protocol.OpTestReply, []byte(testReply))
	default:
		r.bad("unknown_op", fmt.Sprintf("operation %d is unknown", p.Op))
	}
}

// errNoUpstream is the answer to a message for the backend that no rule takes.
var errNoUpstream = envelope.Errorf(envelope.CodeUnsupported, "this server takes no messages from clients: this one went nowhere")

// upstream answers op 4 and every operation that comet does not know. A message for
// the backend is carried there if a rule takes it. Otherwise it goes nowhere, and a client
// of version 2 is told so. One of goim gets what goim answered: the same operation and no body.
func (r reader) upstream(p transport.Packet, m *upstreamMessage) {
	op := "upstream"
	if p.Op == protocol.OpSend {
		op = "send"
	}
	r.countPacket(op)
	r.enqueueUpstream(m)
	switch {
	case m != nil && r.speaks == protocolV2: // a worker answers
	case r.speaks == protocolV2:
		r.refuse(p, errNoUpstream)
	case r.speaks == protocolGoim && p.Op == protocol.OpRaw: // goim wrote only the body of its answer, which is empty
	case r.speaks == protocolGoim && p.Op == protocol.OpHeartbeatReply:
		r.reply(p, p.Op, r.heartbeatBody())
	default:
		r.reply(p, p.Op, nil)
	}
}

// reply answers packet p. The replies to a client that sends and does not read are
// dropped and counted when they are over the session's bound.
func (r reader) reply(p transport.Packet, op int32, body []byte) {
	version := p.Version
	switch {
	case r.speaks == protocolV2:
		version = protocol.Version2
	case version == 0 && r.form.JSON():
		version = r.version // as for the server of 2016, which kept what it had read before
	}
	b := transport.EncodeReply(r.form, version, op, p.Seq, 0, body)
	r.out.Lock()
	defer r.out.Unlock()
	r.sendReplyLocked(b)
}

// sendReplyLocked sends a reply, unless the session is over or has too much queued.
func (s *session) sendReplyLocked(frame []byte) {
	switch {
	case s.state != stateLive:
	case !s.out.MakeRoomLocked(s, len(frame)):
		s.comet.metrics.count(kindReply, outDropped)
	default:
		s.enqueueLocked(frame, 0)
		s.out.FlushLocked(s) // neither a reply nor what comes before it is held back
		s.comet.metrics.count(kindReply, outWritten)
	}
}

// refuse answers packet p with the reason why it was not done. Clients of goim know
// the operation's own reply only: they get the reason as its body.
func (r reader) refuse(p transport.Packet, err error) {
	code, reason := refusalText(err)
	r.refuseAs(p, string(code), reason, 0)
}

// refuseAs is refuse with the code and the reason as the client gets them. retryMS is when another try may succeed. The
// answer does not name 0.
func (r reader) refuseAs(p transport.Packet, code, reason string, retryMS uint32) {
	r.comet.metrics.refusals.WithLabelValues(code).Inc()
	body := fmt.Appendf(make([]byte, 0, 128), `{"op":%d,"code":`, p.Op)
	body = append(jsonquote.Append(body, code), `,"reason":`...)
	body = jsonquote.Append(body, reason)
	if retryMS > 0 {
		body = fmt.Appendf(body, `,"retry_ms":%d`, retryMS)
	}
	body = append(body, '}')
	op := protocol.OpError
	if r.speaks != protocolV2 {
		op = p.Op + 1 // every reply of goim's has the number after its operation's
	}
	r.reply(p, op, body)
}

// refusalText returns what a client is told of an error. An error that is not the client's
// fault is told as "try again".
func refusalText(err error) (code envelope.Code, reason string) {
	var e *envelope.Error
	if errors.As(err, &e) {
		switch e.Code {
		case envelope.CodeForbidden, envelope.CodeInvalid, envelope.CodeTooMany, envelope.CodeTooLarge, envelope.CodeNotFound,
			envelope.CodeUnsupported,
			envelope.CodeUnauthorized, envelope.CodeExpired, envelope.CodeRevoked, envelope.CodeRateLimited:
			return e.Code, e.Error()
		}
	}
	return envelope.CodeUnavailable, "the server cannot do this now; try again later"
}

func (r reader) countPacket(op string) { r.comet.metrics.packets.WithLabelValues(op).Inc() }

// bad closes the session, whose client sent what the protocol does not allow.
func (r reader) bad(kind, reason string) {
	r.comet.metrics.badPackets.WithLabelValues(kind).Inc()
	r.close(protocol.CloseBadPacket, reason)
}

// heartbeatBody returns the number of sessions in the room for a goim client, and
// nothing for the others.
func (r reader) heartbeatBody() []byte {
	if r.speaks != protocolGoim {
		return nil
	}
	online := uint32(0)
	if rooms := member(r).ownRooms(); len(rooms) > 0 {
		online = min(r.comet.announcer.online(rooms[0]), math.MaxInt32)
	}
	return binary.BigEndian.AppendUint32(nil, online)
}

// room returns the room that a packet names. Without a valid one it refuses the
// packet, and ok is false: a name often comes from a user. An empty name is valid if allowEmpty is set.
func (r reader) room(p transport.Packet, allowEmpty bool) (room string, ok bool) {
	r.countPacket("room")
	room, err := bodyText(r.form, p.Body)
	if err == nil && !(allowEmpty && room == "") {
		err = envelope.CheckRoom("room", room)
	}
	if err != nil {
		r.refuse(p, err)
		return "", false
	}
	return room, true
}

// changeRoom puts the session into one room only, or into none, as goim did: the
// rooms that callers of the API have put it into do not count.
func (r reader) changeRoom(p transport.Packet) {
	room, ok := r.room(p, true)
	if !ok {
		return
	}
	m := member(r)
	var until int64
	if room != "" {
		var err error
		if until, err = m.mayJoin(room, 0); err != nil {
			r.refuse(p, err)
			return
		}
	}
	m.dropAsks("")
	for _, have := range m.ownRooms() {
		if have != room {
			m.leave(have)
		}
	}
	if room != "" && !m.joinUntil(room, until) {
		return
	}
	r.reply(p, protocol.OpChangeRoomReply, p.Body)
}

func (r reader) joinRoom(p transport.Packet) {
	room, ok := r.room(p, false)
	if !ok {
		return
	}
	m := member(r)
	until, err := m.mayJoin(room, len(m.ownRooms()))
	if err != nil {
		r.refuse(p, err)
		return
	}
	if m.joinUntil(room, until) {
		r.reply(p, protocol.OpJoinRoomReply, p.Body)
	}
}

func (r reader) leaveRoom(p transport.Packet) {
	if room, ok := r.room(p, false); ok {
		m := member(r)
		m.dropAsks(room)
		m.leave(room)
		r.reply(p, protocol.OpLeaveRoomReply, p.Body)
	}
}

// subscribe changes which operations the session accepts. A list that cannot be
// read is empty, as it was with goim, but version 2 is told that it is wrong.
func (r reader) subscribe(p transport.Packet, replyOp int32, change func([]int32, int32) []int32) {
	r.countPacket("subscribe")
	ops, err := bodyOperations(r.form, p.Body)
	if err != nil && r.speaks == protocolV2 {
		r.bad("bad_operations", err.Error())
		return
	}
	r.out.Lock()
	accepts := slices.Clone(r.accepts)
	r.out.Unlock()
	for _, op := range ops {
		if accepts = change(accepts, op); len(accepts) > maxAccepts {
			r.refuse(p, envelope.Errorf(envelope.CodeTooMany, "operations: a session may accept at most %d", maxAccepts))
			return
		}
	}
	r.out.Lock()
	r.enqueueBroadcastsLocked()
	r.ownExtrasLocked()
	r.accepts = accepts
	r.out.Unlock()
	r.reply(p, replyOp, p.Body)
}

// ackPacket takes the client's acknowledgements. The answer, if the client asks for
// one, says that comet has them. They are durable a moment later. A message whose
// acknowledgement is lost before that comes again at the next session. Ids that were
// not written to this session, or are acknowledged already, are counted and ignored.
func (r reader) ackPacket(p transport.Packet) {
	r.countPacket("ack")
	ids, err := bodyAckIDs(r.form, p.Body)
	if err != nil {
		r.bad("bad_ack", err.Error())
		return
	}
	r.out.Lock()
	named := len(ids)
	ids = r.removeSentLocked(ids)
	r.out.Unlock()
	r.comet.metrics.unknownAcks.Add(float64(named - len(ids)))
	if len(ids) > 0 {
		r.comet.acknowledge(r.session, ids, ackedByClient)
	}
	if p.Seq != 0 {
		r.reply(p, protocol.OpAckReply, nil)
	}
}

// removeSentLocked returns those of the acknowledged ids that count: they were
// written to this session, and are not acknowledged yet.
func (r reader) removeSentLocked(ids []uint64) []uint64 {
	if r.comet.cfg.Faults.BelieveAcks {
		return ids
	}
	if r.sent == nil {
		return nil
	}
	known := r.sent.removeKnown(ids)
	if len(*r.sent) == 0 {
		r.sent = nil
	}
	return known
}
