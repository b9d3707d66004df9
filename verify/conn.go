package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"imgo/clients/go/raw"
	"imgo/internal/wait"
	"imgo/protocol"
	"imgo/verify/history"
)

const (
	// maxPacket bounds the body of a received packet, in bytes. It is larger than any push of a
	// run.
	maxPacket = 1 << 20
	// dialTimeout bounds the time from dialing to the auth reply.
	dialTimeout = 10 * time.Second
	// writeTimeout bounds one write.
	writeTimeout = 5 * time.Second
	// tcpBuffer is the size of the read buffer of a TCP connection, in bytes. It is small because a
	// run has thousands of connections and small messages.
	tcpBuffer = 1 << 10
	// slowBuffer is the size of the receive buffer of a slow device in the kernel, in bytes. With a
	// small one the server notices early that the device reads slowly.
	slowBuffer = 4 << 10
	// silence is the time that a server may be silent beyond the heartbeat interval.
	silence = 15 * time.Second
	// arrivingBeat is the longest heartbeat interval of a device without acknowledgements after the
	// pushing. The server takes a message for delivered only at a later packet of such a device.
	arrivingBeat = time.Second
	// defaultHeartbeat is the heartbeat interval if the auth reply has none.
	defaultHeartbeat = time.Minute
	// ackBatch is the largest number of ids in one ack packet.
	ackBatch = 500
)

// errProtocol is in the chain of an error if the server broke the protocol.
var errProtocol = errors.New("the server broke the protocol")

// conn is a connection of a device without an SDK.
type conn struct {
	*raw.Conn
	d         *device
	text      bool // JSON
	acks      bool // the device acknowledges
	heartbeat time.Duration
	heard     atomic.Int64  // time of the run at which the last packet arrived, as a time.Duration
	beatAt    time.Duration // time of the run of the next heartbeat
	beaten    time.Duration // and of the last one
	publishAt time.Duration // time of the run before which it does not send a message for the backend
	halfOpen  atomic.Bool   // the device has closed its sending side

	mu        sync.Mutex
	due       []uint64      // ids to acknowledge
	dueAt     time.Duration // time of the run at which due is sent
	forgotten []uint64      // ids that are acknowledged only when the pushing has ended
	held      []uint64      // ids that are acknowledged when their deadline was told
}

type authReply struct {
	Session   string  `json:"session"`
	Heartbeat float64 `json:"heartbeat"` // seconds
	Pending   int     `json:"pending"`
	Published string  `json:"published"`
}

// connect makes one connection and serves it to its end. The error is never nil. accepted reports
// whether the server accepted the device.
func (d *device) connect(ctx context.Context, at raw.Target) (accepted bool, err error) {
	defer func() {
		var closed *raw.CloseError
		switch {
		case errors.As(err, &closed):
			d.sentAway(at, closed)
		case errors.Is(err, errProtocol):
			d.v.problem("%s: %v", d, err)
		}
	}()
	c, reply, err := d.open(ctx, at)
	if err != nil {
		return false, fmt.Errorf("connect to %s: %w", at, err)
	}
	defer context.AfterFunc(ctx, c.Close)()
	defer c.Close()
	if err := d.checkPublished(reply.Published); err != nil {
		return true, err
	}
	session := d.v.h.Session(d.account.name, d.name)
	if s := reply.Heartbeat; s > 0 && s < 24*time.Hour.Seconds() {
		c.heartbeat = time.Duration(s * float64(time.Second))
	}
	now := d.v.now()
	c.heard.Store(int64(now))
	c.beatAt, c.beaten = now+c.heartbeat/2+rand.N(c.heartbeat/2+1), now
	d.begin(c, c.hangUp, at, reply.Session, reply.Pending)
	err = c.receive(session)
	d.end(err)
	return true, err
}

// hangUp ends the connection from the side of the device.
func (c *conn) hangUp(abruptly bool) {
	switch {
	case !c.acks:
		// The server may take every message in the device's kernel for delivered. So the device must
		// read until the end.
		c.halfOpen.Store(true)
		c.CloseWrite()
	case abruptly:
		c.Abort()
	default:
		c.Close()
	}
}

// open connects and authenticates.
func (d *device) open(ctx context.Context, at raw.Target) (_ *conn, reply authReply, err error) {
	select {
	case d.v.dialing <- struct{}{}:
		defer func() { <-d.v.dialing }()
	case <-ctx.Done():
		return nil, reply, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c := &conn{d: d, text: d.kind == DeviceJSON && at.WebSocket(), acks: d.kind != DeviceNoAck || at.WebSocket(), heartbeat: defaultHeartbeat}
	o := raw.Options{TLS: d.v.cfg.TLS, MaxBody: maxPacket, ReadBuffer: tcpBuffer, Text: c.text}
	if d.slow && !d.v.pushingEnded() {
		o.Dial = dialSlow
	}
	if c.Conn, err = raw.Dial(ctx, at, o); err != nil {
		return nil, reply, err
	}
	stop := context.AfterFunc(ctx, c.Abort)
	err = c.authenticate(&reply)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		c.Abort()
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer within %s", dialTimeout)
		}
		return nil, reply, err
	}
	return c, reply, nil
}

// dialSlow connects with a small receive buffer.
func dialSlow(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(slowBuffer) // with a larger buffer the device only seems less slow
	}
	return conn, err
}

func (c *conn) authenticate(reply *authReply) error {
	u := c.d.account
	auth, err := json.Marshal(map[string]any{"token": u.token, "device": c.d.name, "ack": c.acks, "rooms": u.rooms, "platform": "verify"})
	if err != nil {
		return fmt.Errorf("write the auth packet: %w", err)
	}
	if err := c.Write(time.Now().Add(writeTimeout), raw.Packet{Op: protocol.OpAuth, Seq: 1, Body: auth}); err != nil {
		return fmt.Errorf("send the auth packet: %w", err)
	}
	p, err := c.Read(time.Time{})
	switch {
	case err != nil:
		return fmt.Errorf("wait for the auth reply: %w", err)
	case p.Op == protocol.OpDisconnect:
		return readClose(p.Body)
	case p.Op != protocol.OpAuthReply:
		return fmt.Errorf("%w: op %d came where the auth reply was to come", errProtocol, p.Op)
	}
	if err := json.Unmarshal(p.Body, reply); err != nil {
		return fmt.Errorf("%w: read the auth reply %.100q: %w", errProtocol, p.Body, err)
	}
	return nil
}

// readClose parses the body of a disconnect packet. It returns a *raw.CloseError, or an errProtocol if
// the body is not valid.
func readClose(body []byte) error {
	if !json.Valid(body) {
		return fmt.Errorf("%w: the disconnect packet has the body %.100q", errProtocol, body)
	}
	return raw.ParseClose(body)
}

// errRested ends the connection of a slow device when the pushing ends. The device then connects with
// a normal receive buffer.
var errRested = errors.New("the device no longer reads slowly")

// receive reads packets until the connection ends. The error is never nil.
func (c *conn) receive(session *history.Session) error {
	slow := c.d.slow && !c.d.v.pushingEnded()
	for {
		p, err := c.Read(time.Time{})
		if err != nil {
			return err
		}
		c.heard.Store(int64(c.d.v.now()))
		if err := c.handle(p, session); err != nil {
			return err
		}
		// Packets that arrived together share one ack packet.
		if !c.Buffered() {
			if err := c.acknowledge(time.Now().Add(writeTimeout)); err != nil {
				return fmt.Errorf("acknowledge: %w", err)
			}
		}
		if slow {
			if c.d.v.pushingEnded() {
				c.d.leave(0, false)
				return errRested
			}
			time.Sleep(20*time.Millisecond + rand.N(40*time.Millisecond))
		}
	}
}

// handle judges a packet and answers it.
func (c *conn) handle(p raw.Packet, session *history.Session) error {
	switch p.Op {
	case protocol.OpDisconnect:
		return readClose(p.Body)
	case protocol.OpRaw:
		batch, err := raw.Batch(p.Body, maxPacket)
		for _, inner := range batch {
			if err := c.handle(inner, session); err != nil {
				return err
			}
		}
		return err
	case protocol.OpMessage:
		c.d.note(p.ID, p.Body, session)
		if p.ID != 0 && c.acks {
			c.queue(p.ID)
		}
	case upstreamOp, protocol.OpError:
		if c.d.publishes() {
			c.noteUpstream(p)
		}
	}
	return nil
}

// queue queues the acknowledgement of a message.
func (c *conn) queue(id uint64) {
	d := c.d
	held := d.v.events.judge.Held(d.account.name, id)
	c.mu.Lock()
	defer c.mu.Unlock()
	if held {
		c.held = append(c.held, id)
		return
	}
	if d.forget > 0 && !d.v.pushingEnded() && rand.Float64() < d.forget {
		c.forgotten = append(c.forgotten, id)
		return
	}
	if len(c.due) == 0 {
		c.dueAt = d.v.now()
		if d.ackDelay > 0 {
			c.dueAt += rand.N(d.ackDelay)
		}
	}
	c.due = append(c.due, id)
}

// acknowledge sends the acknowledgements that are due. Messages whose acknowledgement is lost come
// again in the next session.
func (c *conn) acknowledge(deadline time.Time) error {
	ended, judge, user := c.d.v.pushingEnded(), c.d.v.events.judge, c.d.account.name
	c.mu.Lock()
	var ids []uint64
	if ended {
		c.due, c.forgotten = append(c.due, c.forgotten...), nil
	}
	c.held = slices.DeleteFunc(c.held, func(id uint64) bool {
		if judge.Held(user, id) {
			return false
		}
		c.due = append(c.due, id)
		return true
	})
	if len(c.due) > 0 && (ended || c.d.v.now() >= c.dueAt) {
		ids, c.due = c.due, nil
	}
	c.mu.Unlock()
	for len(ids) > 0 {
		n := min(len(ids), ackBatch)
		judge.Acknowledging(user, c.d.name, ids[:n], c.d.v.now())
		if err := c.Write(deadline, raw.Packet{Op: protocol.OpAck, Body: raw.AckBody(c.text, ids[:n])}); err != nil {
			return err
		}
		ids = ids[n:]
	}
	return nil
}

// beat sends the heartbeats and the late acknowledgements of all devices until ctx is done. It aborts a
// connection that has been silent for too long. One goroutine serves all devices, so no device needs
// a timer.
func (v *Verifier) beat(ctx context.Context) {
	for wait.Sleep(ctx, 200*time.Millisecond) == nil {
		for _, d := range v.devices {
			d.mu.Lock()
			c := d.conn
			d.mu.Unlock()
			if c != nil && c.beat() != nil {
				c.Abort()
			}
		}
	}
}

var errSilent = errors.New("the server is silent")

// beat sends what the connection must send by now.
func (c *conn) beat() error {
	now := c.d.v.now()
	if now-time.Duration(c.heard.Load()) > c.heartbeat+silence {
		return errSilent
	}
	if c.halfOpen.Load() {
		return nil
	}
	// The short deadline keeps one blocked connection from delaying the others.
	deadline := time.Now().Add(100 * time.Millisecond)
	interval := c.heartbeat
	if !c.acks && c.d.v.pushingEnded() {
		interval = min(interval, arrivingBeat)
	}
	if now >= min(c.beatAt, c.beaten+interval) {
		c.beatAt, c.beaten = now+c.heartbeat, now
		if err := c.Write(deadline, raw.Packet{Op: protocol.OpHeartbeat, Seq: 2}); err != nil {
			return err
		}
	}
	if err := c.publish(deadline); err != nil {
		return err
	}
	return c.acknowledge(deadline)
}
