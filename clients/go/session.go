package imgoclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"imgo/clients/go/raw"
)

const (
	// ackBatch is the number of ids in one ack packet. They take 4 KiB, well below the body limit
	// of every server.
	ackBatch = 500
	// lastAckTimeout bounds the wait for the server to confirm the last acknowledgements.
	lastAckTimeout = 2 * time.Second
	// maxExpiry is the longest time to the end of a token that a client counts on.
	maxExpiry = 365 * 24 * time.Hour
	// minRefresh is the least time between two attempts to replace a token.
	minRefresh = time.Second
	// defaultHeartbeat is the heartbeat interval if the auth reply has none.
	defaultHeartbeat = time.Minute
)

// roomChange is a room to join or to leave.
type roomChange struct {
	room string
	join bool
}

// session is a connection that the server has accepted. One goroutine runs serve. changeRoom and
// send are safe for concurrent use meanwhile.
type session struct {
	client *Client
	conn   *raw.Conn
	info   Session
	denied []RoomChange        // rooms of the auth packet that the server did not let it into
	rooms  map[string]struct{} // the rooms in the auth packet

	failed chan struct{} // closed when err is set
	once   sync.Once
	err    error

	mu      sync.Mutex
	seq     int32
	answers map[int32]chan raw.Packet
}

// connect dials and authenticates.
func (c *Client) connect(ctx context.Context, to raw.Target) (*session, error) {
	dialing, cancel := context.WithTimeout(ctx, c.cfg.ConnectTimeout)
	defer cancel()
	token := c.cfg.Token
	if c.cfg.TokenSource != nil {
		var err error
		if token, err = c.cfg.TokenSource(dialing); err != nil {
			return nil, fmt.Errorf("get a token: %w", err)
		}
	}
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
		return nil, fmt.Errorf("write the auth packet: %w", err)
	}
	conn, err := raw.Dial(dialing, to, raw.Options{TLS: c.cfg.TLS, MaxBody: c.cfg.MaxBody})
	if err != nil {
		return nil, err
	}
	// The end of ctx closes the connection, which ends the handshake.
	waiting, cancelWait := context.WithTimeout(ctx, c.cfg.AuthTimeout)
	defer cancelWait()
	stop := context.AfterFunc(waiting, conn.Close)
	info, denied, err := handshake(waiting, conn, auth)
	if !stop() && err == nil {
		err = waiting.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &session{
		client:  c,
		conn:    conn,
		info:    info,
		denied:  denied,
		rooms:   rooms,
		failed:  make(chan struct{}),
		seq:     1,
		answers: map[int32]chan raw.Packet{},
	}, nil
}

// handshake sends the auth packet and waits for the reply. denied are the rooms that the session is not
// let into.
func handshake(ctx context.Context, conn *raw.Conn, auth []byte) (info Session, denied []RoomChange, err error) {
	deadline, _ := ctx.Deadline()
	if err := conn.Write(deadline, raw.Packet{Op: raw.OpAuth, Seq: 1, Body: auth}); err != nil {
		return Session{}, nil, fmt.Errorf("send the auth packet: %w", err)
	}
	for {
		p, err := conn.Read(deadline)
		if err != nil {
			return Session{}, nil, fmt.Errorf("wait for the auth reply: %w", ended(err))
		}
		switch p.Op {
		case raw.OpAuthReply:
			return readInfo(p.Body)
		case raw.OpDisconnect:
			return Session{}, nil, raw.ParseClose(p.Body)
		}
		// Other packets have no meaning before the auth reply.
	}
}

// readInfo parses the body of the auth reply.
func readInfo(body []byte) (info Session, denied []RoomChange, err error) {
	var reply struct {
		Session   string       `json:"session"`
		Heartbeat float64      `json:"heartbeat"`  // seconds
		ExpiresIn float64      `json:"expires_in"` // seconds
		Pending   int          `json:"pending"`
		Rooms     []string     `json:"rooms"`
		Refused   []RoomChange `json:"refused"`
	}
	if len(body) > 0 {
		if err := json.Unmarshal(body, &reply); err != nil {
			return Session{}, nil, fmt.Errorf("read the auth reply: %w", err)
		}
	}
	info = Session{ID: reply.Session, Heartbeat: defaultHeartbeat, Pending: reply.Pending, Rooms: reply.Rooms}
	info.ExpiresIn = time.Duration(min(max(reply.ExpiresIn, 0), maxExpiry.Seconds()) * float64(time.Second))
	if s := reply.Heartbeat; s > 0 && s < time.Hour.Seconds()*24 {
		info.Heartbeat = max(time.Duration(s*float64(time.Second)), 10*time.Millisecond)
	}
	return info, reply.Refused, nil
}

// ended adds a readable text to the end of a stream. It returns other errors unchanged.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the server ended the connection: %w", err)
	}
	return err
}

// serve runs the session until it fails or ctx is done. It returns the error of the failure, or nil
// at the end of ctx. late are room changes that the auth packet did not contain.
func (s *session) serve(ctx context.Context, queue *queue, late []roomChange) error {
	var reading sync.WaitGroup
	reading.Go(func() { s.fail(s.receive(queue)) })
	defer reading.Wait()
	defer s.conn.Close()

	if s.client.cfg.OnConnect != nil {
		s.client.cfg.OnConnect(s.info)
	}
	for _, change := range s.denied {
		s.client.roomChanged(change)
	}
	refreshing := s.refreshes(ctx)
	defer refreshing()
	for _, change := range late {
		if err := s.write(roomOp(change.join), s.nextSeq(), []byte(change.room)); err != nil {
			s.fail(err)
		}
	}
	heartbeat := time.NewTicker(s.info.Heartbeat)
	defer heartbeat.Stop()
	var gathered <-chan time.Time // fires when the gathered acknowledgements must be sent; nil if there are none
	due := s.client.inbox.due
	s.client.inbox.begin()
	for {
		select {
		case <-s.failed:
			return s.err
		case <-ctx.Done():
			// OnMessage may still be running. Its message is acknowledged if it succeeds.
			queue.wait()
			s.sendLastAcks()
			return nil
		case <-heartbeat.C:
			if err := s.write(raw.OpHeartbeat, s.nextSeq(), nil); err != nil {
				s.fail(err)
			}
		case <-due:
			due, gathered = nil, time.After(s.client.cfg.AckDelay)
		case <-gathered:
			due, gathered = s.client.inbox.due, nil
			if _, err := s.sendAcks(0); err != nil {
				s.fail(err)
			}
		}
	}
}

// fail ends the session. Only the first error counts.
func (s *session) fail(err error) {
	s.once.Do(func() {
		s.err = err
		close(s.failed)
	})
}

// receive reads packets until the connection ends. The error is never nil.
func (s *session) receive(queue *queue) error {
	for {
		// The server answers every heartbeat, so longer silence means that the connection is dead.
		// The deadline is set anew before each read, so time spent in a full queue does not count.
		p, err := s.conn.Read(time.Now().Add(s.info.Heartbeat + s.client.cfg.CallTimeout))
		if err != nil {
			return fmt.Errorf("receive: %w", ended(err))
		}
		if p.Op != raw.OpRaw {
			if err := s.dispatch(p, queue); err != nil {
				return err
			}
			continue
		}
		batch, err := raw.Batch(p.Body, s.client.cfg.MaxBody)
		for _, inner := range batch {
			if err := s.dispatch(inner, queue); err != nil {
				return err
			}
		}
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
	}
}

// dispatch passes a packet to the queue or to the call that waits for it. It returns a *CloseError
// for a disconnect packet.
func (s *session) dispatch(p raw.Packet, queue *queue) error {
	switch {
	case p.Op == raw.OpDisconnect:
		return raw.ParseClose(p.Body)
	case p.Op == raw.OpRoomChanged:
		var change RoomChange
		if err := json.Unmarshal(p.Body, &change); err != nil {
			return fmt.Errorf("read a change of a room: %w", err)
		}
		s.client.roomChanged(change)
	case p.Op == raw.OpMessage || p.Op >= 1000:
		if p.ID != 0 && !s.client.inbox.take(p.ID) {
			return nil
		}
		queue.put(Message{ID: p.ID, Op: p.Op, Body: p.Body}, s.failed)
	case p.Seq != 0:
		s.mu.Lock()
		answer, ok := s.answers[p.Seq]
		delete(s.answers, p.Seq)
		s.mu.Unlock()
		if ok {
			answer <- p // does not block: the channel has a buffer for its only packet
		}
	}
	return nil
}

// sendAcks writes all acknowledgements that are due. If seq is not 0, the last packet asks for a
// reply with that number. sent reports whether anything was written.
func (s *session) sendAcks(seq int32) (sent bool, err error) {
	for {
		ids, all := s.client.inbox.takeAcks(ackBatch)
		if len(ids) == 0 {
			return sent, nil
		}
		ask := int32(0)
		if all {
			ask = seq
		}
		if err := s.write(raw.OpAck, ask, raw.AckBody(false, ids)); err != nil {
			s.client.inbox.giveBack(ids)
			return sent, err
		}
		sent = true
		if all {
			return sent, nil
		}
	}
}

// sendLastAcks sends the last acknowledgements and waits for the reply of the server. Without the
// wait, closing the connection could make the kernel discard them.
func (s *session) sendLastAcks() {
	seq, answer := s.expect()
	defer s.forget(seq)
	if sent, err := s.sendAcks(seq); err != nil || !sent {
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

// write sends one packet.
func (s *session) write(op, seq int32, body []byte) error {
	if err := s.conn.Write(time.Now().Add(s.client.cfg.CallTimeout), raw.Packet{Op: op, Seq: seq, Body: body}); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// nextSeq returns the number of the next packet. It is never 0, because 0 asks for no reply.
func (s *session) nextSeq() int32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seq++; s.seq <= 0 {
		s.seq = 1
	}
	return s.seq
}

// expect returns a new packet number and the channel on which its reply arrives. The caller must
// call forget.
func (s *session) expect() (int32, chan raw.Packet) {
	seq := s.nextSeq()
	answer := make(chan raw.Packet, 1)
	s.mu.Lock()
	s.answers[seq] = answer
	s.mu.Unlock()
	return seq, answer
}

func (s *session) forget(seq int32) {
	s.mu.Lock()
	delete(s.answers, seq)
	s.mu.Unlock()
}

func roomOp(join bool) int32 {
	if join {
		return raw.OpJoinRoom
	}
	return raw.OpLeaveRoom
}

// changeRoom asks the server for the change and waits for the reply.
func (s *session) changeRoom(ctx context.Context, change roomChange) error {
	_, err := s.call(ctx, roomOp(change.join), []byte(change.room))
	if err != nil {
		return fmt.Errorf("room %q: %w", change.room, err)
	}
	return nil
}

// send sends an upstream message and waits for the reply.
func (s *session) send(ctx context.Context, body []byte) error {
	if _, err := s.call(ctx, raw.OpSend, body); err != nil {
		return fmt.Errorf("send a message: %w", err)
	}
	return nil
}

// call sends a packet and waits for the reply. It returns a *RefusedError if the server did not do what
// was asked.
func (s *session) call(ctx context.Context, op int32, body []byte) (reply raw.Packet, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.client.cfg.CallTimeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return raw.Packet{}, err
	}
	seq, answer := s.expect()
	defer s.forget(seq)
	if err := s.write(op, seq, body); err != nil {
		s.fail(err)
		return raw.Packet{}, err
	}
	select {
	case reply = <-answer:
	case <-s.failed:
		return raw.Packet{}, fmt.Errorf("wait for the reply: %w: %w", ErrNotConnected, s.err)
	case <-ctx.Done():
		return raw.Packet{}, fmt.Errorf("wait for the reply: %w", ctx.Err())
	}
	if reply.Op != raw.OpError {
		return reply, nil
	}
	var refused RefusedError
	if err := json.Unmarshal(reply.Body, &refused); err != nil {
		return raw.Packet{}, fmt.Errorf("read a refusal: %w", err)
	}
	return raw.Packet{}, &refused
}

// refreshes replaces the token before it ends, with one from Config.TokenSource. The returned function
// ends that.
func (s *session) refreshes(ctx context.Context) (end func()) {
	if s.client.cfg.TokenSource == nil || s.info.ExpiresIn <= 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		ends := time.Now().Add(s.info.ExpiresIn)
		for {
			// At four fifths of the time that is left: after a failure there is room for another attempt.
			wait := time.NewTimer(max(time.Until(ends)*4/5, minRefresh))
			select {
			case <-wait.C:
			case <-ctx.Done():
				wait.Stop()
				return
			case <-s.failed:
				wait.Stop()
				return
			}
			expiresIn, err := s.refresh(ctx)
			switch {
			case err == nil && expiresIn <= 0:
				return
			case err == nil:
				ends = time.Now().Add(expiresIn)
			case time.Now().After(ends):
				return // the server closes the connection if it wants to
			}
		}
	})
	return func() {
		cancel()
		running.Wait()
	}
}

// refresh sends a new token. It returns how long that is good; 0: for ever.
func (s *session) refresh(ctx context.Context) (expiresIn time.Duration, err error) {
	asking, cancel := context.WithTimeout(ctx, s.client.cfg.ConnectTimeout)
	defer cancel()
	token, err := s.client.cfg.TokenSource(asking)
	if err != nil {
		return 0, fmt.Errorf("get a new token: %w", err)
	}
	body, err := json.Marshal(map[string]string{"token": token})
	if err != nil {
		return 0, fmt.Errorf("write the new token: %w", err)
	}
	reply, err := s.call(ctx, raw.OpAuth, body)
	if err != nil {
		return 0, err
	}
	info, _, err := readInfo(reply.Body)
	return info.ExpiresIn, err
}
