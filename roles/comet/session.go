package comet

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"imgo/envelope"
	"imgo/internal/jsonquote"
	"imgo/protocol"
	"imgo/roles/comet/outbox"
	"imgo/transport"
)

// state is where a session is in its life. It only grows.
type state uint8

const (
	stateConnecting state = iota // logic was asked who the client is
	stateLive                    // authenticated
	stateClosing                 // op 6 is on its way, then the connection closes
	stateEnded                   // the client or the network ended it
)

// session is one client connection, from its auth packet to its end.
//
// One goroutine at a time reads from the connection and owns the session's life
// (connecting, reader, ending). The rooms change under a lock of their own too (see member).
// The lock of the outbox guards all other fields that change, unless their comment says
// otherwise. Nobody holds it while reading, calling logic or waiting for a client.
//
// A comet has as many sessions as clients. To save memory, only a session that is behind
// has a catchUp. Sessions that need no extras share one empty extras.
type session struct {
	comet *Comet
	out   outbox.Outbox
	id    uint64

	// Fixed before the session is in the table.
	since   int64 // Unix milliseconds
	arrival uint32
	at      int32 // place in its shard's list, guarded by the shard's lock
	version int16 // of the auth packet
	speaks  clientProtocol
	form    transport.Form // framed where the connection wants that

	partition uint32 // unplaced: none yet. Guarded by the table's partitionsMu
	state     state
	busy      bool // is in its shard's busy list
	windowed  bool // is in its shard's list for the end of the flush window
	retired   bool // is over: it enters no room any more

	heard    atomic.Int64 // when the last packet came, on comet's clock
	throttle throttle     // for the reading goroutine only

	user         string
	device       string
	floor        uint64 // id of the record that made the device known, or 0; goes with each catch-up
	last         uint64 // highest kept id written
	broadcastSeq uint64 // up to where it has taken the flush window's broadcasts
	// sent has what a client that acknowledges has yet to acknowledge. It is nil for nothing.
	sent *sentIDs

	*extras
	catchUp *catchUp // of a session that is behind: it misses kept messages, see deliver.go; else nil
}

// unplaced is the partition of a session that is not counted for one.
const unplaced = ^uint32(0)

// extras has the fields that few sessions need, or need for a short time. Sessions that
// need none of them share the empty extras of their comet. It is never written: call
// ownExtrasLocked before writing.
type extras struct {
	platform string
	key      string // as the client chose it. It is empty if the client chose none
	// globalKey is set if the key names the session without its user.
	globalKey bool
	expires   int64 // Unix milliseconds. 0 means never
	rooms     membership
	accepts   []int32        // sorted
	upQueue   *upstreamQueue // of messages for the backend. It is nil if none came
	auto      *autoAck       // nil: the client acknowledges, or has got nothing kept

	code    protocol.CloseCode // why the server closed it. It is 0 if the server did not
	reason  string
	closeBy time.Time // when the connection ends at the latest. It is zero if the server did not close it
}

// ownExtrasLocked gives the session extras of its own. It needs no lock while no other
// goroutine has the session.
func (s *session) ownExtrasLocked() {
	if s.extras == &s.comet.noExtras {
		s.extras = &extras{}
	}
}

func (s *session) addressKey() envelope.AddressKey {
	return envelope.AddressKey{Comet: s.comet.cfg.Name, Session: s.id}
}

// describeLocked returns the session as logic, router and the API know it.
func (s *session) describeLocked() *envelope.SessionInfo {
	return &envelope.SessionInfo{
		Address: s.addressKey().Address(), User: s.user, Device: s.device, Key: s.key, Platform: s.platform,
		Remote: remoteString(s.out.Conn()), Generation: s.speaks.String(), Transport: s.out.Conn().Traits().Scheme,
		SinceMs: s.since, Accepts: slices.Clone(s.accepts), Rooms: slices.Clone(s.rooms.in), RoomsAt: s.rooms.granted.at,
		Incarnation: s.comet.incarnation, GlobalKey: s.globalKey, Arrival: s.arrival,
	}
}

func remoteString(conn transport.Conn) string {
	switch remote := conn.Remote(); {
	case !remote.IsValid():
		return ""
	case remote.Port() == 0: // a proxy has told the address alone
		return remote.Addr().String()
	default:
		return remote.String()
	}
}

// wantsLocked reports whether a message of operation op is for this session.
// Every session gets OpMessage, and only those that accept it get another operation.
// A session of version 2 accepts those from FirstAcceptedOp on, since the lower ones
// are the protocol's own. goim sent a room's messages to every member.
func (s *session) wantsLocked(op int32, room bool) bool {
	switch {
	case op == protocol.OpMessage, op == protocol.OpIfAccepted && s.speaks != protocolGoim:
		return true
	case op == protocol.OpIfAccepted:
		op = protocol.OpMessage
	case room && s.speaks == protocolGoim:
		return true
	case op < protocol.FirstAcceptedOp && s.speaks == protocolV2:
		return false
	}
	_, ok := slices.BinarySearch(s.accepts, op)
	return ok
}

// enqueueLocked sends a frame behind all that is queued or waits in the flush
// window for this session.
func (s *session) enqueueLocked(frame []byte, id uint64) {
	s.enqueueBroadcastsLocked()
	s.out.EnqueueLocked(s, frame, id)
}

// close ends the session with a reason. The client gets all that is queued. Then a
// client of version 2 gets the reason in op 6, and if the comet stops, where else it
// may connect. To an application of an old client op 6 would look like a message.
// Closing twice does nothing.
func (s *session) close(code protocol.CloseCode, reason string) {
	s.out.Lock()
	defer s.out.Unlock()
	if s.state > stateLive {
		return
	}
	s.enqueueBroadcastsLocked()
	s.auto.pacer().flushLocked()
	s.ownExtrasLocked()
	s.state, s.code, s.reason = stateClosing, code, reason
	var last []byte
	if s.speaks == protocolV2 {
		last = encodeDisconnect(s.form, code, reason, s.comet.others(code, s.out.Conn().Traits().Scheme))
	}
	s.out.CloseLocked(s, last)
	// The deadline ends the reader, and with it the session, if the client does
	// not take what is queued.
	s.closeBy = time.Now().Add(s.comet.cfg.CloseTimeout)
	_ = s.out.Conn().SetReadDeadline(s.closeBy)
}

// markBusyLocked makes the sweep look at the session.
func (s *session) markBusyLocked() {
	if s.busy || s.state > stateLive {
		return
	}
	s.busy = true
	sh := s.comet.table.shard(s.id)
	sh.busyMu.Lock()
	sh.busy = append(sh.busy, s)
	sh.busyMu.Unlock()
}

// The following methods make a session an outbox.Owner and a transport.Waker.

// Outbox returns the session's outbox.
func (s *session) Outbox() *outbox.Outbox { return &s.out }

// Writable continues where the socket had no room.
func (s *session) Writable() { s.out.Writable(s) }

// noteSentLocked notes a kept message that is written to a client that acknowledges.
func (s *session) noteSentLocked(id uint64) {
	if s.out.Confirms() {
		return // WrittenLocked notes it
	}
	if s.sent == nil {
		s.sent = &sentIDs{}
	}
	s.sent.add(id)
}

// WrittenLocked notes a kept message that the kernel has, for a client that does
// not acknowledge.
func (s *session) WrittenLocked(id uint64, end int64) { s.autoLocked().writtenLocked(id, end) }

// BlockedLocked makes the sweep check whether the client takes anything.
func (s *session) BlockedLocked() { s.markBusyLocked() }

// IdleLocked continues when all that was queued has gone out.
func (s *session) IdleLocked() {
	s.auto.ackArrivedLocked(false)
	s.askIfDueLocked()
}

// AbortLocked ends the session because its connection failed with err. The outbox
// drops what is queued and closes the connection.
func (s *session) AbortLocked(err error) {
	if s.state <= stateLive {
		s.state = stateEnded
		if errors.Is(err, outbox.ErrSlow) && s.code == 0 {
			s.ownExtrasLocked()
			s.code, s.reason = protocol.CloseSlow, err.Error()
		}
	}
	s.auto.ackArrivedLocked(false)
}

// CloseReasonLocked returns why the server closed the session, or 0 if it did not.
func (s *session) CloseReasonLocked() (protocol.CloseCode, string) { return s.code, s.reason }

// encodeDisconnect makes op 6 for a client of version 2. others are addresses that the client may connect
// to instead.
func encodeDisconnect(form transport.Form, code protocol.CloseCode, reason string, others []string) []byte {
	body := jsonquote.Append(fmt.Appendf(nil, `{"code":%d,"reason":`, code), reason)
	body = fmt.Appendf(body, `,"reconnect":%t`, code.Reconnect())
	for i, address := range others {
		body = jsonquote.Append(appendListStart(body, "addresses", i), address)
	}
	body = append(appendListEnd(body, len(others)), '}')
	return transport.EncodeReply(form, protocol.Version2, protocol.OpDisconnect, 0, 0, body)
}
