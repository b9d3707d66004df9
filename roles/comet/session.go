package comet

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/transport"
)

// state is where a session is in its life; it only grows.
type state uint8

const (
	stateConnecting state = iota // logic was asked; what arrives is held
	stateLive                    // authenticated
	stateClosing                 // op 6 is on its way, then the connection closes
	stateEnded                   // the client or the network ended it
)

// askState is where a session's catch-up is.
type askState uint8

const (
	askNone   askState = iota
	askQueued          // waits for a goroutine to call logic
	askSent            // logic was called, the answer comes as a delivery
)

// session is one client connection, from its auth packet to its end.
//
// One goroutine at a time reads from the connection and owns the session's life
// (serve, finish); only it changes rooms and the table. Everything below mu is
// guarded by mu, which nobody holds while reading, calling logic or waiting for
// a client: writes under it are those of a connection that takes what it takes
// at once (direct). An idle session has no buffers.
//
// A comet has as many of these as clients, so what most of them do not need is
// elsewhere: see rare and pursuit.
type session struct {
	comet *Comet
	conn  transport.Conn
	id    uint64

	// Fixed before the session is in the table.
	since   int64          // Unix milliseconds
	at      int32          // place in its shard's list, guarded by the shard's mu
	version int16          // of the auth packet
	gen     generation     //
	form    transport.Form // framed where the connection wants that
	acks    bool           // the client acknowledges
	direct  bool           // conn is a transport.Pollable

	heard    atomic.Int64
	throttle throttle // the reader's

	mu     sync.Mutex
	state  state
	busy   bool // is in its shard's busy list
	behind bool
	// writing says that a writer exists or, of a direct session, that the
	// socket has no room; queue is what has not been taken yet, pending counts
	// the bytes that are not in the kernel.
	writing  bool
	corked   bool // what is queued waits for uncork
	windowed bool // is in its shard's window
	// partition and placed are guarded by the table's partitionsMu.
	placed    bool
	partition uint32
	pending   int32
	queue     *queue

	user   string
	device string
	floor  uint64
	last   uint64 // highest kept id written
	noted  uint64 // up to where it has taken up the window's notes

	*rare
	*pursuit
}

// rare is what few sessions have, or none for long. Those that have nothing of
// it share the empty one of their comet: who writes calls own first.
type rare struct {
	platform string
	key      string // as the client chose it; empty: it did not
	expires  int64  // Unix milliseconds; 0: never
	rooms    []string
	accepts  []int32 // sorted

	unsettled []mark // kept messages written, not known to have arrived

	code       protocol.CloseCode // why the server closed it; 0: it did not
	reason     string
	closeBy    time.Time     // when its goodbye ends; zero: the server did not close it
	writerGone chan struct{} // closed as the writer ends, where somebody waits
}

// own gives the session a rare of its own. Holds mu, or nobody else has the
// session yet.
func (s *session) own() {
	if s.rare == &s.comet.noRare {
		s.rare = &rare{}
	}
}

// pursuit is how a session that is behind catches up. One that is not shares
// the empty one of its comet.
type pursuit struct {
	ask        askState
	fails      uint8         // catch-ups in a row that failed, or that brought nothing
	again      uint8         // catch-ups in a row that got no answer
	seen       uint64        // highest kept id that passed by
	askedAfter uint64        // last, when the catch-up under way was asked for
	askAt      time.Duration // comet's clock: not to be asked before
	askedAt    time.Duration // comet's clock: when it was
}

// mark says that a kept message has arrived once the client's TCP has
// acknowledged the stream up to position end.
type mark struct {
	id  uint64
	end int64
}

// maxUnsettled bounds a session's marks. A client whose TCP acknowledges so
// little falls behind, and is fed again once it does.
const maxUnsettled = 4096

// insert adds v to a sorted list, once.
func insert(list []int32, v int32) []int32 {
	i, ok := slices.BinarySearch(list, v)
	if ok {
		return list
	}
	return slices.Insert(list, i, v)
}

// publicName names the session to callers and to its client.
func (s *session) publicName() string { return s.addressKey().Name() }

// keyName is the key that callers know the session by. Holds mu.
func (s *session) keyName() string {
	if s.key != "" || s.state == stateConnecting { // logic names it
		return s.key
	}
	return s.publicName()
}

func (s *session) addressKey() envelope.AddressKey {
	return envelope.AddressKey{Comet: s.comet.cfg.Name, Session: s.id}
}

func (s *session) address() *envelope.Address { return s.addressKey().Address() }

// describe returns the session as logic, router and the API know it. Holds mu.
func (s *session) describe() *envelope.SessionInfo {
	return &envelope.SessionInfo{
		Address: s.address(), User: s.user, Device: s.device, Key: s.keyName(), Platform: s.platform,
		Remote: remoteString(s.conn), Generation: s.gen.String(), Transport: s.conn.Traits().Scheme,
		SinceMs: s.since, Accepts: slices.Clone(s.accepts), Rooms: slices.Clone(s.rooms),
	}
}

func remoteString(conn transport.Conn) string {
	if remote := conn.Remote(); remote.IsValid() {
		return remote.String()
	}
	return ""
}

// wants says whether a message of operation op is for this session. goim sent
// a room's messages to every member; elsewhere an operation of 1000 and above
// goes to those who accept it. Holds mu.
func (s *session) wants(op int32, room bool) bool {
	if op < protocol.FirstAcceptedOp || room && s.gen == genGoim {
		return true
	}
	_, ok := slices.BinarySearch(s.accepts, op)
	return ok
}

// close ends the session with a reason that the client is told in op 6 after
// what is already queued for it. Closing twice does nothing.
func (s *session) close(code protocol.CloseCode, reason string) { s.closeFor(code, reason, nil) }

// closeFor is close for a client that may go to others instead.
func (s *session) closeFor(code protocol.CloseCode, reason string, others []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state > stateLive {
		return
	}
	s.catchUpNotes()
	if s.state == stateConnecting {
		s.discard() // it was held for a client that is not to get it
	}
	s.own()
	s.state, s.code, s.reason = stateClosing, code, reason
	s.enqueue(encodeDisconnect(s.form, s.version, code, reason, others), 0)
	s.uncork()
	// Ends the reader, and with it the session, where the goodbye does not
	// get through.
	s.closeBy = time.Now().Add(s.comet.cfg.CloseTimeout)
	_ = s.conn.SetReadDeadline(s.closeBy)
}

// fail ends the session for an error of its connection. Holds mu.
func (s *session) fail(code protocol.CloseCode, reason string) {
	if s.code == 0 && s.state <= stateLive {
		s.own()
		s.code, s.reason = code, reason
	}
	if s.state <= stateLive {
		s.state = stateEnded
	}
	s.discard()
	s.settle(false)
}

// markBusy has the sweep look at the session. Holds mu.
func (s *session) markBusy() {
	if s.busy || s.state > stateLive {
		return
	}
	s.busy = true
	sh := s.comet.table.shard(s.id)
	sh.busyMu.Lock()
	sh.busy = append(sh.busy, s)
	sh.busyMu.Unlock()
}

// settle acknowledges for a client that does not: the kept messages whose
// bytes its TCP has acknowledged. Where nobody can know that, a packet that
// arrived after they were written stands for it. Holds mu.
func (s *session) settle(packet bool) {
	if len(s.unsettled) == 0 {
		return
	}
	// Written first: bytes written in between then count as unacknowledged.
	arrived := s.conn.Written()
	if unacked, ok := s.conn.Unacked(); ok {
		arrived -= unacked
	} else if !packet {
		return
	}
	n := 0
	for n < len(s.unsettled) && s.unsettled[n].end <= arrived {
		n++
	}
	if n == 0 {
		return
	}
	ids := make([]uint64, n)
	for i, m := range s.unsettled[:n] {
		ids[i] = m.id
	}
	if s.unsettled = s.unsettled[n:]; len(s.unsettled) == 0 {
		s.unsettled = nil
	}
	s.comet.acknowledge(s, ids, "tcp")
}

// encodeDisconnect makes op 6. others are where else the client may connect.
func encodeDisconnect(form transport.Form, version int16, code protocol.CloseCode, reason string, others []string) []byte {
	body := fmt.Sprintf(`{"code":%d,"reason":%s,"reconnect":%t`, code, quote(reason), code.Reconnect())
	for i, address := range others {
		if i == 0 {
			body += `,"addresses":[`
		} else {
			body += ","
		}
		body += quote(address)
	}
	if len(others) > 0 {
		body += "]"
	}
	body += "}"
	return transport.EncodeReply(form, version, protocol.OpDisconnect, 0, 0, []byte(body))
}
