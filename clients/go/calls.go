package imgoclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"imgo/clients/go/raw"
)

// maxCalls bounds the calls of a session that wait for a reply.
const maxCalls = 256

// calls are the calls of a session that wait for a reply. It is safe for concurrent use.
type calls struct {
	mu   sync.Mutex
	seq  int32
	open map[int32]chan raw.Packet
}

// next returns the number of the next packet. It is never 0, because 0 asks for no reply.
func (c *calls) next() int32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nextLocked()
}

func (c *calls) nextLocked() int32 {
	if c.seq++; c.seq <= 0 {
		c.seq = 1
	}
	return c.seq
}

// expect returns a packet number and the channel on which its reply arrives. The number is seq, or a new one if that
// is 0. The caller must call forget.
func (c *calls) expect(seq int32) (int32, chan raw.Packet, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.open) >= maxCalls {
		return 0, nil, &Error{Code: CodeTooMany, Text: fmt.Sprintf("%d calls wait for a reply; wait for one of them", maxCalls)}
	}
	if seq == 0 {
		seq = c.nextLocked()
	}
	reply := make(chan raw.Packet, 1)
	c.open[seq] = reply
	return seq, reply, nil
}

func (c *calls) forget(seq int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, seq)
}

// answer passes a reply to its call. It reports false if no call waits for the packet.
func (c *calls) answer(p raw.Packet) bool {
	if p.Seq == 0 || p.Op == raw.OpDisconnect {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	reply, ok := c.open[p.Seq]
	if ok {
		delete(c.open, p.Seq)
		reply <- p // does not block: the channel has a buffer for its only packet
	}
	return ok
}

// maxRetryAfter bounds the time that a server may ask for before another try.
const maxRetryAfter = 24 * time.Hour

// call sends a packet and waits for the reply. The packet gets a new number unless it has one. what names the call in errors.
func (s *session) call(ctx context.Context, what string, p raw.Packet) (raw.Packet, error) {
	if wrong := s.tooLarge(p.Body); wrong != "" {
		return raw.Packet{}, invalid("%s: %s", what, wrong)
	}
	seq, answer, err := s.ask(ctx, what, p)
	if err != nil {
		return raw.Packet{}, err
	}
	return s.await(ctx, what, seq, answer)
}

// ask sends a packet. It returns the packet's number and the channel of the reply. The caller must call await.
func (s *session) ask(ctx context.Context, what string, p raw.Packet) (int32, chan raw.Packet, error) {
	ctx, cancel := context.WithTimeout(ctx, s.client.cfg.RequestTimeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return 0, nil, &Error{Code: CodeTimeout, Text: what, Err: err}
	}
	seq, answer, err := s.calls.expect(p.Seq)
	if err != nil {
		return 0, nil, &Error{Code: CodeTooMany, Text: what, Err: err}
	}
	p.Seq = seq
	if failed := s.write(ctx, p); failed != nil {
		s.calls.forget(seq)
		select {
		case <-s.failed:
			return 0, nil, s.ended(what)
		default:
			return 0, nil, &Error{Code: CodeTimeout, Text: what, Err: failed}
		}
	}
	return seq, answer, nil
}

// await waits for the reply to a packet of ask, which has left. So the time of a large packet does not count.
func (s *session) await(ctx context.Context, what string, seq int32, answer chan raw.Packet) (raw.Packet, error) {
	ctx, cancel := context.WithTimeout(ctx, s.client.cfg.RequestTimeout)
	defer cancel()
	defer s.calls.forget(seq)
	var reply raw.Packet
	select {
	case reply = <-answer:
	case <-s.failed:
		return raw.Packet{}, s.ended(what)
	case <-ctx.Done():
		return raw.Packet{}, &Error{Code: CodeTimeout, Text: what + ": wait for the reply", Err: ctx.Err()}
	}
	if reply.Op != raw.OpError {
		return reply, nil
	}
	return raw.Packet{}, readRefusal(what, reply.Body)
}

// tooLarge returns what is wrong with a body that is too large for the server, or "". The server would end the
// connection for good.
func (s *session) tooLarge(body []byte) string {
	if s.maxBody == 0 || len(body) <= s.maxBody {
		return ""
	}
	return fmt.Sprintf("the body has %d bytes, and the server takes at most %d", len(body), s.maxBody)
}

// readRefusal returns the error of a call that the server has refused with a body.
func readRefusal(what string, body []byte) *Error {
	var refusal struct {
		Code    string   `json:"code"`
		Reason  string   `json:"reason"`
		RetryMS *float64 `json:"retry_ms"`
	}
	if json.Unmarshal(body, &refusal) != nil {
		refusal.RetryMS = nil // it may be what cannot be read
	}
	if refusal.Reason == "" {
		refusal.Reason = "no reason given"
	}
	e := &Error{Code: CodeDenied, ServerCode: refusal.Code,
		Text: fmt.Sprintf("%s: the server refused: %s (%s)", what, refusal.Reason, refusal.Code)}
	if refusal.RetryMS != nil {
		ms := min(*refusal.RetryMS, float64(maxRetryAfter.Milliseconds()))
		e.RetryAfter = max(time.Duration(ms*float64(time.Millisecond)), time.Millisecond)
	}
	return e
}

// ended returns the error of a call whose session has failed.
func (s *session) ended(what string) error {
	<-s.failed
	e := &Error{Code: CodeLost, Text: what, CloseCode: s.err.CloseCode, Err: s.err}
	if s.err.Code == CodeClosed || s.err.Code == CodeRefused {
		e.Code = s.err.Code
	}
	return e
}

// Join makes the client a member of the room, now and after every reconnect. With a connection it
// waits for the reply of the server. Without one it returns at once and takes effect with the next
// connection. The error is ErrDenied if the server does not let the client in. The client is then
// not a member, and does not ask again. The end of ctx does not take the change back.
func (c *Client) Join(ctx context.Context, room string) error {
	return c.changeRoom(ctx, "join", raw.OpJoinRoom, room)
}

// Leave removes the client from a room of Join or Config.Rooms. The end of ctx does not take the change back.
func (c *Client) Leave(ctx context.Context, room string) error {
	return c.changeRoom(ctx, "leave", raw.OpLeaveRoom, room)
}

func (c *Client) changeRoom(ctx context.Context, verb string, op int32, room string) error {
	if err := checkName("room", room); err != nil {
		return err
	}
	what := fmt.Sprintf("%s room %q", verb, room)
	s, seq, answer, err := c.sendRoom(ctx, what, op, room)
	if s == nil || err != nil {
		return err
	}
	_, err = s.await(ctx, what, seq, answer)
	if op == raw.OpJoinRoom && errors.Is(err, ErrDenied) {
		c.forgetRoom(room)
	}
	return err
}

// sendRoom changes a room, and sends the change if there is a session. Changes reach the server in the order in which
// they change c.rooms. A change that waits too long for earlier changes or packets ends the session: the next auth packet has it.
// The end of ctx does not end this wait, since it must not end the session.
func (c *Client) sendRoom(ctx context.Context, what string, op int32, room string) (*session, int32, chan raw.Packet, error) {
	ctx = context.WithoutCancel(ctx)
	waiting, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
	defer cancel()
	select {
	case c.changing <- struct{}{}:
		defer func() { <-c.changing }()
	case <-waiting.Done():
		ctx = waiting // ask fails, so the session ends
	}
	c.mu.Lock()
	if op == raw.OpJoinRoom {
		c.rooms[room] = struct{}{}
	} else {
		delete(c.rooms, room)
	}
	s := c.session
	c.mu.Unlock()
	if s == nil {
		return nil, 0, nil, nil
	}
	seq, answer, err := s.ask(ctx, what, raw.Packet{Op: op, Body: []byte(room)})
	if errors.Is(err, ErrTimeout) {
		s.fail(&Error{Code: CodeLost, Text: what + ": earlier packets took all of RequestTimeout", Err: err})
	}
	return s, seq, answer, err
}

// forgetRoom makes the next connection not ask for a room.
func (c *Client) forgetRoom(room string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.rooms, room)
}

// Send sends a body to the backend behind the server and returns the body of the reply. op is 4, or 1000 or
// above. The error is ErrNotLive without a connection, ErrInvalid if the body is larger than the server takes, and
// ErrDenied if the server does not pass it on.
func (c *Client) Send(ctx context.Context, op int32, body []byte) (reply []byte, err error) {
	if err := checkSendOp(op); err != nil {
		return nil, err
	}
	s, err := c.liveSession("send a message")
	if err != nil {
		return nil, err
	}
	p, err := s.call(ctx, "send a message", raw.Packet{Op: op, Body: body})
	return p.Body, err
}

// checkSendOp returns an error unless a client may send op to the backend.
func checkSendOp(op int32) error {
	if op != raw.OpSend && op < raw.FirstAcceptedOp {
		return invalid("op is %d: it must be %d, or %d or above", op, raw.OpSend, raw.FirstAcceptedOp)
	}
	return nil
}

// liveSession returns the session of the connection. what names the call that needs it.
func (c *Client) liveSession(what string) (*session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session == nil {
		return nil, &Error{Code: CodeNotLive, Text: what + ": there is no live session"}
	}
	return c.session, nil
}
