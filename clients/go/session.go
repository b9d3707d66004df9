package imgoclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"imgo/clients/go/raw"
)

const (
	// ackBatch is the largest number of ids in one ack packet. They take 4 KiB.
	ackBatch = 500
	// lastAckTimeout bounds the wait for the server to confirm the last acknowledgements.
	lastAckTimeout = 2 * time.Second
	// maxExpiry is the longest time to the end of a token that a client counts on.
	maxExpiry = 365 * 24 * time.Hour
	// defaultHeartbeat is the heartbeat interval if the auth reply has none.
	defaultHeartbeat = time.Minute
)

// session is a connection that the server has accepted. One goroutine runs serve. call is safe for
// concurrent use meanwhile.
type session struct {
	run       *run
	client    *Client
	conn      *raw.Conn
	activity  *activity
	paused    atomic.Bool // the queue is full, and the session does not read
	info      Session
	denied    []RoomChange        // rooms of the auth packet that the server did not let it into
	published *uint64             // the last id of a message that the device has published, if the server has one
	maxBody   int                 // the largest body that the server takes; 0 if it does not tell
	rooms     map[string]struct{} // the rooms in the auth packet
	lateJoins map[int32]string    // rooms that the auth packet did not contain, by the numbers of the packets that ask for them
	announced chan struct{}       // closed when the application knows that the session is live
	lastSent  uint64              // the id of the published message that was sent last; only publish uses it
	lastSeq   int32               // the number of its packets

	writing chan struct{} // holds a token while a packet is written

	failed chan struct{} // closed when err is set
	once   sync.Once
	err    *Error

	calls calls
}

// connect dials and authenticates.
func (r *run) connect(ctx context.Context) (*session, *Error) {
	c := r.client
	connecting, cancel := context.WithTimeout(ctx, c.cfg.ConnectTimeout)
	defer cancel()
	token := c.cfg.Token
	if c.cfg.TokenSource != nil {
		var err error
		if token, err = c.cfg.TokenSource(connecting); err != nil {
			return nil, &Error{Code: CodeToken, Text: "get a token", Err: err}
		}
	}
	to := r.route.next(connecting)
	c.mu.Lock()
	rooms := maps.Clone(c.rooms)
	c.mu.Unlock()
	auth, err := json.Marshal(struct {
		Token    string   `json:"token"`
		Device   string   `json:"device,omitempty"`
		Key      string   `json:"key,omitempty"`
		Platform string   `json:"platform,omitempty"`
		Ack      bool     `json:"ack"`
		Rooms    []string `json:"rooms,omitempty"`
		Accepts  []int32  `json:"accepts,omitempty"`
	}{token, c.cfg.Device, c.cfg.Key, c.cfg.Platform, true, slices.Sorted(maps.Keys(rooms)), c.cfg.Accepts})
	if err != nil {
		return nil, &Error{Code: CodeInvalid, Text: "write the auth packet", Err: err}
	}
	seen := newActivity()
	conn, err := raw.Dial(connecting, to, raw.Options{TLS: c.cfg.TLS, MaxBody: c.cfg.MaxBody,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return observedConn{conn, seen, c.cfg.RequestTimeout}, nil
		}})
	if err != nil {
		return nil, classify(CodeLost, "", err)
	}
	reply, failed := c.authenticate(ctx, conn, auth)
	if failed != nil {
		conn.Close()
		return nil, failed
	}
	return &session{
		run: r, client: c, conn: conn, activity: seen, info: reply.info, denied: reply.denied, published: reply.published,
		maxBody: reply.maxBody, rooms: rooms, announced: make(chan struct{}), writing: make(chan struct{}, 1), failed: make(chan struct{}),
		calls: calls{open: map[int32]chan raw.Packet{}, seq: 1},
	}, nil
}

// authReply is what an auth reply says.
type authReply struct {
	info      Session
	denied    []RoomChange
	published *uint64
	maxBody   int
}

// authenticate sends the auth packet and waits for the reply.
func (c *Client) authenticate(ctx context.Context, conn *raw.Conn, auth []byte) (authReply, *Error) {
	waiting, cancel := context.WithTimeout(ctx, c.cfg.AuthTimeout)
	defer cancel()
	// The end of ctx closes the connection, which ends the handshake.
	stop := context.AfterFunc(waiting, conn.Close)
	reply, err := handshake(waiting, conn, auth)
	if !stop() && err == nil {
		err = waiting.Err()
	}
	var closed *raw.CloseError
	if err != nil && waiting.Err() != nil && !errors.As(err, &closed) {
		err = waiting.Err()
	}
	if err != nil {
		return authReply{}, classify(CodeLost, "wait for the auth reply", err)
	}
	return reply, nil
}

func handshake(ctx context.Context, conn *raw.Conn, auth []byte) (authReply, error) {
	deadline, _ := ctx.Deadline()
	if err := conn.Write(deadline, raw.Packet{Op: raw.OpAuth, Seq: 1, Body: auth}); err != nil {
		return authReply{}, err
	}
	for {
		p, err := conn.Read(deadline)
		if err != nil {
			return authReply{}, err
		}
		switch p.Op {
		case raw.OpAuthReply:
			return readAuthReply(p.Body)
		case raw.OpDisconnect:
			return authReply{}, raw.ParseClose(p.Body)
		}
		// Other packets have no meaning before the auth reply.
	}
}

// readAuthReply parses the body of the auth reply.
func readAuthReply(body []byte) (authReply, error) {
	var reply struct {
		Session   string       `json:"session"`
		User      string       `json:"user"`
		Heartbeat float64      `json:"heartbeat"`  // seconds
		ExpiresIn float64      `json:"expires_in"` // seconds
		Pending   int          `json:"pending"`
		MaxBody   float64      `json:"max_body"`
		Rooms     []string     `json:"rooms"`
		Refused   []RoomChange `json:"refused"`
		Published *uint64      `json:"published,string"`
	}
	if len(body) > 0 {
		if err := json.Unmarshal(body, &reply); err != nil {
			return authReply{}, &Error{Code: CodeProtocol, Text: "read the auth reply", Err: err}
		}
	}
	info := Session{ID: reply.Session, User: reply.User, Heartbeat: defaultHeartbeat, Pending: reply.Pending, Rooms: reply.Rooms}
	info.ExpiresIn = time.Duration(min(max(reply.ExpiresIn, 0), maxExpiry.Seconds()) * float64(time.Second))
	if s := reply.Heartbeat; s > 0 && s < time.Hour.Seconds()*24 {
		info.Heartbeat = max(time.Duration(s*float64(time.Second)), 10*time.Millisecond)
	}
	return authReply{info, reply.Refused, reply.Published, int(min(max(reply.MaxBody, 0), math.MaxInt32))}, nil
}

// serve runs the session until it fails or ctx is done. It returns the error of the failure, or nil
// at the end of ctx.
func (s *session) serve(ctx context.Context) *Error {
	r := s.run
	s.begin(ctx)
	s.client.change(r.events, StateChange{State: Live, Session: s.info}, s.announced)
	for _, change := range s.denied {
		s.client.roomChanged(r.events, change)
	}
	var working sync.WaitGroup
	defer working.Wait()
	working.Go(func() { s.fail(s.receive()) })
	defer s.conn.Close()
	refreshing, stopRefresh := context.WithCancel(ctx)
	defer stopRefresh()
	working.Go(func() { s.refresh(refreshing) })
	working.Go(func() { s.publish(refreshing) })
	return s.loop(ctx)
}

// begin makes the session the live one, and sends the room changes that the auth packet did not contain. Changes of
// the application follow them, so that the server has the newest change of a room last.
func (s *session) begin(ctx context.Context) {
	c := s.client
	c.changing <- struct{}{} // a change that holds it ends with its session, which is over
	defer func() { <-c.changing }()
	c.mu.Lock()
	c.session = s
	late := c.lateRoomsLocked(s.rooms)
	c.mu.Unlock()
	s.lateJoins = map[int32]string{}
	for _, change := range late {
		change.Seq = s.calls.next()
		if change.Op == raw.OpJoinRoom {
			s.lateJoins[change.Seq] = string(change.Body)
		}
		if s.write(ctx, change) != nil {
			return
		}
	}
}

// loop sends heartbeats and acknowledgements until the session fails or ctx is done.
func (s *session) loop(ctx context.Context) *Error {
	heartbeat := time.NewTicker(s.info.Heartbeat)
	defer heartbeat.Stop()
	watch := silence{session: s, timer: time.NewTimer(time.Hour)}
	defer watch.timer.Stop()
	s.client.inbox.begin()
	for {
		select {
		case <-s.failed:
			return s.err
		case <-ctx.Done():
			s.run.finish()
			s.sendLastAcks()
			s.fail(&Error{Code: CodeClosed, Text: "the client was closed"})
			return nil
		case <-heartbeat.C:
			if s.write(ctx, raw.Packet{Op: raw.OpHeartbeat, Seq: s.calls.next()}) == nil {
				watch.heartbeat()
			}
		case <-watch.timer.C:
			if watch.over() {
				s.fail(&Error{Code: CodeTimeout, Text: fmt.Sprintf("the server did not answer a heartbeat within %s",
					s.client.cfg.HeartbeatTimeout)})
			}
		case <-s.client.inbox.due:
			s.sendAcks(ctx, 0)
		}
	}
}

// silence notices that nothing arrives after a heartbeat.
type silence struct {
	session *session
	timer   *time.Timer
	since   time.Time // when the oldest heartbeat was sent that nothing has followed; zero if there is none
}

// heartbeat notes that a heartbeat was sent.
func (w *silence) heartbeat() {
	if w.since.IsZero() || w.answered() {
		w.since = time.Now()
		w.timer.Reset(w.session.client.cfg.HeartbeatTimeout)
	}
}

func (w *silence) answered() bool { return w.session.activity.after(w.since) }

// over reports whether the connection is dead. A session that does not read cannot know that, and looks again
// later.
func (w *silence) over() bool {
	switch {
	case w.since.IsZero() || w.answered():
		w.since = time.Time{}
		return false
	case w.session.paused.Load():
		w.timer.Reset(w.session.client.cfg.HeartbeatTimeout)
		return false
	}
	return true
}

// fail ends the session. Only the first error counts.
func (s *session) fail(err *Error) {
	s.once.Do(func() {
		s.err = err
		close(s.failed)
	})
}

// receive reads packets until the connection ends. The error is never nil.
func (s *session) receive() *Error {
	for {
		// There is no deadline: loop closes the connection after a silence.
		p, err := s.conn.Read(time.Time{})
		if err != nil {
			return classify(CodeLost, "receive", err)
		}
		if p.Op != raw.OpRaw {
			if err := s.dispatch(p); err != nil {
				return classify(CodeProtocol, "receive", err)
			}
			continue
		}
		batch, err := raw.Batch(p.Body, s.client.cfg.MaxBody)
		for _, inner := range batch {
			if err := s.dispatch(inner); err != nil {
				return classify(CodeProtocol, "receive", err)
			}
		}
		if err != nil {
			return &Error{Code: CodeProtocol, Text: "receive", Err: err}
		}
	}
}

// dispatch passes a packet to the queue or to the call that waits for it. It returns a *raw.CloseError
// for a disconnect packet.
func (s *session) dispatch(p raw.Packet) error {
	switch {
	case s.calls.answer(p):
	case p.Op == raw.OpDisconnect:
		return raw.ParseClose(p.Body)
	case p.Op == raw.OpError && s.lateJoins[p.Seq] != "":
		room := s.lateJoins[p.Seq]
		refusal := readRefusal(fmt.Sprintf("join room %q", room), p.Body)
		s.client.roomChanged(s.run.events, RoomChange{Room: room, Code: refusal.ServerCode, Reason: refusal.Text})
	case p.Op == raw.OpRoomChanged:
		var change RoomChange
		err := json.Unmarshal(p.Body, &change)
		if err == nil && change.Room == "" {
			err = errors.New("it names no room")
		}
		if err != nil {
			return fmt.Errorf("read a change of a room: %w", err)
		}
		s.client.roomChanged(s.run.events, change)
	case p.Op == raw.OpDismiss:
		ids, err := raw.ParseIDs(false, p.Body)
		if err != nil {
			return fmt.Errorf("read which messages were read elsewhere: %w", err)
		}
		s.client.dismissed(s.run.events, Dismiss{IDs: ids, UpTo: p.ID})
	case p.Seq != 0: // a reply for which nobody waits any more
	case p.Op == raw.OpMessage || p.Op >= raw.FirstAcceptedOp:
		if p.ID != 0 && !s.client.inbox.startHandling(p.ID) {
			return nil
		}
		s.run.queue.put(item{Message{ID: p.ID, Op: p.Op, Body: p.Body}, s.announced}, s)
	}
	return nil
}

// sendAcks writes all acknowledgements that are due. If seq is not 0, the last packet asks for a
// reply with that number. It reports whether the last packet was written.
func (s *session) sendAcks(ctx context.Context, seq int32) bool {
	batch := ackBatch
	if s.maxBody > 0 {
		batch = max(min(batch, s.maxBody/8), 1) // an id has 8 bytes
	}
	for {
		ids, all := s.client.inbox.nextAcks(batch)
		if len(ids) == 0 {
			return false
		}
		ask := int32(0)
		if all {
			ask = seq
		}
		if s.write(ctx, raw.Packet{Op: raw.OpAck, Seq: ask, Body: raw.AckBody(false, ids)}) != nil {
			s.client.inbox.giveBack(ids)
			return false
		}
		if all {
			return true
		}
	}
}

// sendLastAcks sends the last acknowledgements and waits for the reply of the server. Without the
// wait, closing the connection could make the kernel discard them.
func (s *session) sendLastAcks() {
	seq, answer, err := s.calls.expect(0)
	if err != nil {
		seq = 0 // too many calls are open, so there is no place for the reply
	} else {
		defer s.calls.forget(seq)
	}
	writing, cancel := context.WithTimeout(context.Background(), s.client.cfg.RequestTimeout)
	defer cancel()
	if !s.sendAcks(writing, seq) {
		return // unacknowledged messages come again with the next session
	}
	timeout := time.NewTimer(lastAckTimeout)
	defer timeout.Stop()
	select {
	case <-answer:
	case <-s.failed:
	case <-timeout.C:
	}
}

// write sends one packet. Before that it waits for the packets of other goroutines, until ctx is done. An error of the connection
// ends the session.
func (s *session) write(ctx context.Context, p raw.Packet) *Error {
	select {
	case s.writing <- struct{}{}:
	case <-s.failed:
		return s.err
	case <-ctx.Done():
		return &Error{Code: CodeTimeout, Text: "send: wait for earlier packets", Err: ctx.Err()}
	}
	defer func() { <-s.writing }()
	if err := s.conn.Write(time.Time{}, p); err != nil { // observedConn has the deadlines
		failed := classify(CodeLost, "send", err)
		s.fail(failed)
		return failed
	}
	return nil
}
