package comet

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/transport"
)

// testReply is what imgo 2016 answered op 254.
const testReply = `{"test":"come on"}`

// handle acts on one packet of an authenticated session, as the server of its
// client's generation did. Only the reader calls it.
func (s *session) handle(p transport.Packet) {
	switch p.Op {
	case protocol.OpHeartbeat:
		s.countPacket("heartbeat")
		s.reply(p, protocol.OpHeartbeatReply, s.heartbeatBody())
		return
	case protocol.OpAuth:
		s.bad("second_auth", "auth was sent twice")
		return
	}
	if s.gen == genImgo {
		s.handleImgo(p)
		return
	}
	switch p.Op {
	case protocol.OpChangeRoom:
		s.changeRoom(p)
	case protocol.OpSubscribe:
		s.subscribe(p, protocol.OpSubscribeReply, insert)
	case protocol.OpUnsubscribe:
		s.subscribe(p, protocol.OpUnsubscribeReply, remove)
	default:
		if s.gen != genV2 || !s.handleV2(p) {
			s.upstream(p)
		}
	}
}

// mayWait reports whether to handle a packet of operation op may take a wait for
// logic, so that the poller's goroutine leaves it to a worker.
func mayWait(op int32) bool {
	return op == protocol.OpChangeRoom || op == protocol.OpJoinRoom
}

// handleImgo is imgo 2016's: op 4 is echoed as op 5, op 254 answered, and
// anything else ends the connection.
func (s *session) handleImgo(p transport.Packet) {
	switch p.Op {
	case protocol.OpSend:
		s.countPacket("send")
		s.reply(p, protocol.OpMessage, p.Body)
	case protocol.OpTest:
		s.countPacket("test")
		s.reply(p, protocol.OpTestReply, []byte(testReply))
	default:
		s.bad("unknown_op", fmt.Sprintf("operation %d is unknown", p.Op))
	}
}

// handleV2 is for the operations that only version 2 has; false: not one.
func (s *session) handleV2(p transport.Packet) bool {
	switch p.Op {
	case protocol.OpAck:
		s.ackPacket(p)
	case protocol.OpJoinRoom:
		s.joinRoom(p)
	case protocol.OpLeaveRoom:
		s.leaveRoom(p)
	default:
		return false
	}
	return true
}

// upstream is for op 4 and every operation that comet does not know: a message
// to the business system. goim answered with the same operation and no body.
// The way there comes later; until then it is counted and answered.
func (s *session) upstream(p transport.Packet) {
	op := "upstream"
	if p.Op == protocol.OpSend {
		op = "send"
	}
	s.countPacket(op)
	s.reply(p, p.Op, nil)
}

// reply answers packet p. A client that sends and does not read must not cost
// more than the session's bound: over it replies are dropped and counted.
func (s *session) reply(p transport.Packet, op int32, body []byte) {
	version := p.Version
	if s.gen == genV2 {
		version = protocol.Version2
	}
	b := transport.EncodeReply(s.form, version, op, p.Seq, 0, body)
	s.out.Lock()
	defer s.out.Unlock()
	switch {
	case s.state != stateLive:
	case !s.out.FitsLocked(len(b)):
		s.comet.metrics.count(kindReply, outDropped)
	default:
		s.enqueueLocked(b, 0)
		s.out.FlushLocked(s) // an answer is not held back, nor what comes before it
		s.comet.metrics.count(kindReply, outWritten)
	}
}

func (s *session) countPacket(op string) { s.comet.metrics.packets.WithLabelValues(op).Inc() }

// bad closes a session whose client sent what the protocol does not allow.
func (s *session) bad(kind, reason string) {
	s.comet.metrics.badPackets.WithLabelValues(kind).Inc()
	s.close(protocol.CloseBadPacket, reason)
}

// heartbeatBody is goim's room count, and nothing for the others.
func (s *session) heartbeatBody() []byte {
	if s.gen != genGoim {
		return nil
	}
	online := uint32(0)
	if rooms := s.roomList(); len(rooms) > 0 {
		online = min(s.comet.announcer.online(rooms[0]), math.MaxInt32)
	}
	return binary.BigEndian.AppendUint32(nil, online)
}

// text is a body that names something: its bytes, or the string in a JSON
// frame, where an absent body and {} are empty as they are in server frames.
func (s *session) text(body []byte) (string, error) {
	if !s.form.JSON() {
		return string(body), nil
	}
	if len(body) == 0 || string(body) == "{}" {
		return "", nil
	}
	var name string
	if json.Unmarshal(body, &name) != nil {
		return "", envelope.Invalid("body", "must be a string")
	}
	return name, nil
}

// room is the room that a packet names; empty is an error unless allowed.
func (s *session) room(p transport.Packet, empty bool) (string, bool) {
	s.countPacket("room")
	room, err := s.text(p.Body)
	if err == nil && !(empty && room == "") {
		err = envelope.CheckName("room", room)
	}
	if err != nil {
		s.bad("bad_room", err.Error())
		return "", false
	}
	return room, true
}

// changeRoom puts the session into one room only, or into none.
func (s *session) changeRoom(p transport.Packet) {
	room, ok := s.room(p, true)
	if !ok {
		return
	}
	for _, old := range slices.Clone(s.roomList()) {
		if old != room {
			s.leave(old)
		}
	}
	if room != "" && !s.join(room, s.comet.joinBy()) {
		return
	}
	s.reply(p, protocol.OpChangeRoomReply, p.Body)
}

func (s *session) joinRoom(p transport.Packet) {
	room, ok := s.room(p, false)
	if !ok {
		return
	}
	rooms := s.roomList()
	if limit := s.comet.cfg.RoomsPerSession; len(rooms) >= limit && !rooms.has(room) {
		s.bad("too_many_rooms", fmt.Sprintf("room: a session may be in at most %d", limit))
		return
	}
	if s.join(room, s.comet.joinBy()) {
		s.reply(p, protocol.OpJoinRoomReply, p.Body)
	}
}

func (s *session) leaveRoom(p transport.Packet) {
	if room, ok := s.room(p, false); ok {
		s.leave(room)
		s.reply(p, protocol.OpLeaveRoomReply, p.Body)
	}
}

// join and leave are the reader's; others read rooms under mu.

// roomList is for the reader, who alone changes it.
func (s *session) roomList() roomSet {
	s.out.Lock()
	defer s.out.Unlock()
	return s.rooms
}

// joinBy is how long a join that begins now may take.
func (c *Comet) joinBy() time.Time { return time.Now().Add(c.cfg.CallTimeout) }

// join returns once every message that is pushed to the room from then on
// reaches the session. Where that cannot be had in time the session is closed
// (false), as one is whose connect fails: its client comes back, perhaps
// elsewhere, and is never a member who misses messages without knowing it.
func (s *session) join(room string, until time.Time) bool {
	if s.roomList().has(room) {
		return true
	}
	s.comet.table.join(room, s)
	s.out.Lock()
	s.takeBroadcastsLocked()
	s.ownExtras()
	s.rooms.add(room)
	s.out.Unlock()
	if err := s.comet.opener.open(room, until); err != nil {
		s.comet.log.Debug().Err(err).Uint64("session", s.id).Str("room", room).Msg("room could not be opened: session closed")
		s.close(protocol.CloseOverload, "the room cannot be joined now")
		return false
	}
	return true
}

func (s *session) leave(room string) {
	if !s.roomList().has(room) {
		return
	}
	s.comet.table.leave(room, s)
	s.out.Lock()
	s.takeBroadcastsLocked()
	s.rooms.remove(room)
	s.out.Unlock()
}

// subscribe changes which operations the session accepts. goim took a list it
// could not read for an empty one; version 2 is told.
func (s *session) subscribe(p transport.Packet, replyOp int32, change func([]int32, int32) []int32) {
	s.countPacket("subscribe")
	ops, err := s.operations(p.Body)
	if err != nil && s.gen == genV2 {
		s.bad("bad_operations", err.Error())
		return
	}
	s.out.Lock()
	accepts := slices.Clone(s.accepts)
	s.out.Unlock()
	for _, op := range ops {
		if accepts = change(accepts, op); len(accepts) > maxAccepts {
			s.bad("too_many_operations", fmt.Sprintf("operations: a session may accept at most %d", maxAccepts))
			return
		}
	}
	s.out.Lock()
	s.takeBroadcastsLocked()
	s.ownExtras()
	s.accepts = accepts
	s.out.Unlock()
	s.reply(p, replyOp, p.Body)
}

// operations reads comma-separated operations; a JSON frame may also have them
// in an array.
func (s *session) operations(body []byte) ([]int32, error) {
	var ops []int32
	if s.form.JSON() && json.Unmarshal(body, &ops) == nil {
		return ops, nil
	}
	list, err := s.text(body)
	if err != nil || list == "" {
		return nil, err
	}
	for item := range strings.SplitSeq(list, ",") {
		op, err := strconv.ParseInt(strings.TrimSpace(item), 10, 32)
		if err != nil {
			return nil, envelope.Invalid("operations", "must be 32-bit integers separated by commas")
		}
		ops = append(ops, int32(op))
	}
	return ops, nil
}

// insert adds v to a sorted list, once.
func insert(list []int32, v int32) []int32 {
	i, ok := slices.BinarySearch(list, v)
	if ok {
		return list
	}
	return slices.Insert(list, i, v)
}

// remove takes v out of a sorted list.
func remove(list []int32, v int32) []int32 {
	if i, ok := slices.BinarySearch(list, v); ok {
		return slices.Delete(list, i, i+1)
	}
	return list
}

// ackPacket takes the client's acknowledgements. The answer, if one is asked
// for, says that comet has them; they are durable a moment later, and a
// message whose ack was lost on the way comes again at the next session.
func (s *session) ackPacket(p transport.Packet) {
	s.countPacket("ack")
	ids, err := s.ackIDs(p.Body)
	if err != nil {
		s.bad("bad_ack", err.Error())
		return
	}
	if len(ids) > 0 {
		s.comet.acknowledge(s, ids, "client")
	}
	if p.Seq != 0 {
		s.reply(p, protocol.OpAckReply, nil)
	}
}

func (s *session) ackIDs(body []byte) ([]uint64, error) {
	if !s.form.JSON() {
		if len(body) == 0 || len(body)%8 != 0 {
			return nil, envelope.Invalid("ack body", fmt.Sprintf("is %d bytes long, not one or more ids of 8", len(body)))
		}
		ids := make([]uint64, 0, len(body)/8)
		for ; len(body) > 0; body = body[8:] {
			ids = append(ids, binary.BigEndian.Uint64(body))
		}
		return ids, nil
	}
	var list []string
	if json.Unmarshal(body, &list) != nil {
		return nil, envelope.Invalid("ack body", "must be an array of decimal strings")
	}
	ids := make([]uint64, len(list))
	for i, text := range list {
		var err error
		if ids[i], err = strconv.ParseUint(text, 10, 64); err != nil {
			return nil, envelope.Invalid("ack body", fmt.Sprintf("has an id that is not one: %.32q", text))
		}
	}
	return ids, nil
}

// appendQuoted appends text as a JSON string, as quote makes it.
func appendQuoted(dst []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return append(dst, quote(text)...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, text...)
	return append(dst, '"')
}

// quote is text as a JSON string; what is not UTF-8 in it is replaced.
func quote(text string) string {
	b, err := json.Marshal(text)
	if err != nil { // a string always can be
		return `""`
	}
	return string(b)
}
