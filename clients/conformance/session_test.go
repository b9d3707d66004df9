package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"imgo/clients/conformance/peer"
	"imgo/protocol"
	"imgo/transport"
)

// quiet is the time for which a scenario looks whether a client does what it must not. A slow machine makes the look
// weaker, and never makes it fail.
const quiet = 300 * time.Millisecond

// server is a scripted server of a scenario.
type server struct {
	*peer.Server
	w       *world
	reading sync.WaitGroup
	names   int // sessions so far
	outbox  outbox
	// sendReply is the body of the reply to each packet with operation 4. If it is empty, the script answers.
	sendReply []byte
}

// connection is one connection of a client. After serve a goroutine reads it.
type connection struct {
	*peer.Conn
	s    *server
	auth authBody

	changes // with each packet, and at the end
	packets []transport.Packet
	acked   []uint64
	acks    int // packets with acknowledgements
	err     error
	muted   []int32 // operations that are not answered
	ended   bool

	at map[int32]int // for each operation, the index of the next packet to look at
}

// authBody is the body of an auth packet.
type authBody struct {
	Token    string   `json:"token"`
	Device   string   `json:"device"`
	Platform string   `json:"platform"`
	Ack      bool     `json:"ack"`
	Rooms    []string `json:"rooms"`
	Accepts  []int32  `json:"accepts"`
}

// authReply is the body of an auth reply.
type authReply struct {
	Session   string        `json:"session"`
	User      string        `json:"user"`
	Heartbeat float64       `json:"heartbeat"`
	ExpiresIn float64       `json:"expires_in,omitempty"`
	Pending   int           `json:"pending"`
	Rooms     []string      `json:"rooms,omitempty"`
	Refused   []roomRefusal `json:"refused,omitempty"`
	Published uint64        `json:"published,string,omitempty"`
	MaxBody   int           `json:"max_body,omitempty"`
}

type roomRefusal struct {
	Room   string `json:"room"`
	Code   string `json:"code"`
	Reason string `json:"reason"`
}

// accept waits for the next connection and does the handshakes of its transport.
func (s *server) accept() *connection {
	s.w.Helper()
	c, err := s.Accept()
	if err != nil {
		s.w.Fatal(err)
	}
	return s.connection(c)
}

func (s *server) connection(c *peer.Conn) *connection {
	return &connection{Conn: c, s: s, at: map[int32]int{}}
}

// authenticate accepts a connection and reads the auth packet.
func (s *server) authenticate() *connection {
	s.w.Helper()
	c := s.accept()
	c.readAuth()
	return c
}

// readAuth reads the auth packet.
func (c *connection) readAuth() {
	w := c.s.w
	w.Helper()
	p, err := c.Read()
	if err != nil {
		w.Fatalf("read the auth packet: %v", err)
	}
	c.took(p)
}

// took records the auth packet.
func (c *connection) took(p transport.Packet) {
	w := c.s.w
	w.Helper()
	if p.Op != protocol.OpAuth || p.Version != protocol.Version2 || p.Seq == 0 {
		w.Fatalf("the first packet has operation %d, version %d and sequence %d, want 7, 2 and not 0", p.Op, p.Version, p.Seq)
	}
	if err := json.Unmarshal(p.Body, &c.auth); err != nil {
		w.Fatalf("the auth body %q: %v", p.Body, err)
	}
	c.packets = append(c.packets, p)
	c.at[protocol.OpAuth] = 1
}

// session accepts a connection, lets the client in and answers its requests from then on.
func (s *server) session() *connection {
	s.w.Helper()
	return s.sessionWith(authReply{})
}

// sessionWith is session with a reply. Its session, user and heartbeat have defaults.
func (s *server) sessionWith(reply authReply) *connection {
	s.w.Helper()
	c := s.authenticate()
	c.admit(reply)
	return c
}

// admit answers the auth packet and serves the connection.
func (c *connection) admit(reply authReply) {
	c.s.w.Helper()
	c.write(c.reply(c.packets[0].Seq, reply))
	c.serve()
}

// reply returns an auth reply.
func (c *connection) reply(seq int32, reply authReply) transport.Packet {
	c.s.names++
	if reply.Session == "" {
		reply.Session = fmt.Sprintf("s~%d", c.s.names)
	}
	if reply.User == "" {
		reply.User = "ann"
	}
	if reply.Heartbeat == 0 {
		reply.Heartbeat = 25
	}
	c.s.outbox.begin(reply.Published)
	body, err := json.Marshal(reply)
	if err != nil {
		c.s.w.Fatal(err)
	}
	return transport.Packet{Version: 2, Op: protocol.OpAuthReply, Seq: seq, Body: body}
}

// write sends packets in one write. The client must not have ended the connection.
func (c *connection) write(packets ...transport.Packet) {
	c.s.w.Helper()
	c.bytes(c.Message(packets...))
}

// bytes sends bytes as they are.
func (c *connection) bytes(b []byte) {
	c.s.w.Helper()
	if err := c.Write(b); err != nil {
		c.s.w.Fatalf("write to the client: %v", err)
	}
}

// message returns a packet with a message. id is 0 if it is not kept.
func message(id uint64, body []byte) transport.Packet {
	return transport.Packet{Version: 2, Op: protocol.OpMessage, ID: id, Body: body}
}

// numbered returns the body of a message with a number in it.
func numbered(n uint64) []byte { return fmt.Appendf(nil, `{"n":%d}`, n) }

// kept returns the packets of kept messages with numbered bodies.
func kept(ids ...uint64) (packets []transport.Packet) {
	for _, id := range ids {
		packets = append(packets, message(id, numbered(id)))
	}
	return packets
}

// disconnect returns op 6.
func disconnect(code protocol.CloseCode, more string) transport.Packet {
	body := fmt.Appendf(nil, `{"code":%d,"reason":"a test","reconnect":%t%s}`, code, code.Reconnect(), more)
	return transport.Packet{Version: 2, Op: protocol.OpDisconnect, Body: body}
}

// sendAway sends op 6 and ends the connection.
func (c *connection) sendAway(code protocol.CloseCode, more string) {
	c.s.w.Helper()
	c.write(disconnect(code, more))
	c.Close()
}

// serve reads the connection on a goroutine and answers heartbeats, acknowledgements and changes of rooms.
func (c *connection) serve() {
	c.s.reading.Go(func() {
		for {
			p, err := c.Read()
			if err == nil {
				for _, p := range c.falsified(p) {
					err = errors.Join(err, c.receive(p))
				}
			}
			if err != nil {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.err, c.ended = err, true
				c.changedLocked()
				return
			}
		}
	})
}

// falsified returns what the judge is to see in place of a packet. It is the packet unless TestJudge falsifies it.
func (c *connection) falsified(p transport.Packet) []transport.Packet {
	if f := c.s.w.fault.packet; f != nil {
		return f(p)
	}
	return []transport.Packet{p}
}

// receive records a packet and answers it.
func (c *connection) receive(p transport.Packet) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.Op == protocol.OpAck {
		ids, err := c.AckedIDs(p)
		if err != nil {
			return err
		}
		c.acked = append(c.acked, ids...)
		c.acks++
	}
	c.packets = append(c.packets, p)
	c.changedLocked()
	if slices.Contains(c.muted, p.Op) || p.Seq == 0 {
		return nil
	}
	switch p.Op {
	case protocol.OpHeartbeat, protocol.OpAck, protocol.OpJoinRoom, protocol.OpLeaveRoom:
		// The client may have gone. Then the next read says so.
		_ = c.Write(c.Message(transport.Packet{Version: 2, Op: p.Op + 1, Seq: p.Seq}))
	case protocol.OpSend:
		if len(c.s.sendReply) > 0 {
			_ = c.Write(c.Message(transport.Packet{Version: 2, Op: p.Op, Seq: p.Seq, Body: c.s.sendReply}))
		}
	}
	return nil
}

// mute leaves packets with the operations unanswered from now on.
func (c *connection) mute(ops ...int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.muted = append(c.muted, ops...)
}

// unmute answers everything again.
func (c *connection) unmute() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.muted = nil
}

// wait waits until cond holds. It is called with the lock held, at first and with each packet.
func (c *connection) wait(what string, cond func() bool) {
	c.s.w.Helper()
	met := false
	over := c.await(nil, func() bool {
		met = cond()
		return met || c.ended
	})
	switch {
	case met:
	case over:
		c.s.w.Fatalf("the connection ended (%v) instead of: %s", c.err, what)
	default:
		c.s.w.Fatalf("not within %s: %s", peer.Limit, what)
	}
}

// packet waits for the client's next packet with an operation.
func (c *connection) packet(op int32) (p transport.Packet) {
	c.s.w.Helper()
	c.wait(fmt.Sprintf("a packet with operation %d", op), func() bool {
		for i := c.at[op]; i < len(c.packets); i++ {
			if c.packets[i].Op == op {
				c.at[op], p = i+1, c.packets[i]
				return true
			}
		}
		return false
	})
	return p
}

// text returns the body of the client's next packet with an operation, as text.
func (c *connection) text(op int32) string {
	c.s.w.Helper()
	text, err := c.BodyText(c.packet(op))
	if err != nil {
		c.s.w.Fatal(err)
	}
	return text
}

// beats waits for so many further heartbeats. The client's own clock has then passed so many intervals, or one less.
func (c *connection) beats(n int) {
	c.s.w.Helper()
	for range n {
		c.packet(protocol.OpHeartbeat)
	}
}

// waitAcked waits until each id is acknowledged.
func (c *connection) waitAcked(ids ...uint64) {
	c.s.w.Helper()
	c.wait(fmt.Sprintf("acknowledgements of %v", short(ids)), func() bool {
		if len(c.acked) < len(ids) {
			return false
		}
		for _, id := range ids {
			if !slices.Contains(c.acked, id) {
				return false
			}
		}
		return true
	})
}

// notAcked fails the scenario if an id is acknowledged by now.
func (c *connection) notAcked(ids ...uint64) {
	c.s.w.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		if slices.Contains(c.acked, id) {
			c.s.w.Fatalf("%d is acknowledged", id)
		}
	}
}

// end waits until the client ends the connection.
func (c *connection) end() {
	c.s.w.Helper()
	switch {
	case !c.await(nil, func() bool { return c.ended }):
		c.s.w.Fatalf("the client does not end the connection within %s", peer.Limit)
	case errors.Is(c.err, os.ErrDeadlineExceeded):
		c.s.w.Fatalf("the client does not end the connection: %v", c.err)
	}
}

// endOrder is end, and checks that the client ended the stream in order.
func (c *connection) endOrder() {
	c.s.w.Helper()
	c.end()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !errors.Is(c.err, io.EOF) {
		c.s.w.Errorf("the connection ended with %v, want the end of the stream", c.err)
	}
}

// noConnection looks for a while whether a client connects, and fails the scenario if so.
func (s *server) noConnection() {
	s.w.Helper()
	switch _, err := s.AcceptRaw(quiet); {
	case err == nil:
		s.w.Fatal("the client connects again")
	case !errors.Is(err, os.ErrDeadlineExceeded):
		s.w.Fatal(err)
	}
}

// short returns a list of ids that is not too long for a person.
func short(ids []uint64) string {
	if len(ids) <= 10 {
		return fmt.Sprint(ids)
	}
	return fmt.Sprintf("%v … %d (%d ids)", ids[:5], ids[len(ids)-1], len(ids))
}
