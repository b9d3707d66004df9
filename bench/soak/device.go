package soak

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"imgo/clients/go/raw"
	"imgo/protocol"
	"imgo/verify/history"
)

// kind is the way in which a device connects.
type kind int

const (
	kindTCP  kind = iota
	kindWS        // binary messages
	kindJSON      // text messages
	kindAuto      // TCP without acknowledgements; the server detects deliveries by itself
	kindSDK       // the Go client over TCP
	kindSDKWS
	kinds
)

const (
	// callLimit bounds a call of the API and a write to a connection.
	callLimit = 15 * time.Second
	dialLimit = 5 * time.Second
	// silence bounds the time without any packet. The server answers every heartbeat.
	silence = 20 * time.Second
	beat    = 3 * time.Second
	// minWait and maxWait bound the range of the random pause before a reconnect.
	minWait, maxWait = 40 * time.Millisecond, 500 * time.Millisecond
)

// device is one device of one user for the whole run. It reconnects by itself, and
// records and acknowledges the messages that it receives.
type device struct {
	r     *run
	user  *account
	name  string
	kind  kind
	rooms []string
	rng   *rand.Rand // only for the goroutine that runs the device
	slow  bool
	// ackDelay bounds how long acknowledgements are collected. forget is the share of them
	// that is left out.
	ackDelay time.Duration
	forget   float64
	falsify  falsifier // nil if the device records the truth

	// known is closed when the server has accepted the device for the first time.
	known chan struct{}
	once  sync.Once
	// online is the number of the server process to which the device is connected, or 0.
	online atomic.Int64
	// away reports whether the device is offline on purpose.
	away atomic.Bool
	// pending is the last number of waiting messages that the server reported.
	pending atomic.Int64
}

func (d *device) String() string { return d.user.name + "/" + d.name }

// accepted records that the server has accepted the device.
func (d *device) accepted(pending int) {
	d.pending.Store(int64(pending))
	d.online.Store(d.r.server.run.Load())
	d.once.Do(func() {
		d.r.h.Device(d.user.name, d.name)
		close(d.known)
	})
}

// note records a message.
func (d *device) note(s *history.Session, id uint64, body []byte) {
	number, err := numberOf(body)
	if err != nil {
		d.r.problem("%s got a message that nobody pushed: %v", d, err)
		return
	}
	if id != 0 {
		d.r.count.received.Add(1)
	}
	if d.falsify != nil && id != 0 {
		d.falsify(s, id, number)
		return
	}
	s.Got(id, number)
}

// stay returns the duration of the next session. 0 means without limit.
func (d *device) stay() time.Duration {
	if d.r.isCalm() {
		return 0
	}
	return d.r.cfg.Stay/4 + rand.N(2*d.r.cfg.Stay)
}

// pause keeps the device offline for a random time below most. It ends early when the
// run becomes calm.
func (d *device) pause(ctx context.Context, most time.Duration) {
	d.away.Store(true)
	defer d.away.Store(false)
	timer := time.NewTimer(time.Duration(d.rng.Int64N(int64(most))))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-d.r.calm:
	case <-timer.C:
	}
}

// run keeps the device connected until ctx is done, except for its pauses.
func (d *device) run(ctx context.Context) {
	if d.kind == kindSDK || d.kind == kindSDKWS {
		d.runSDK(ctx)
		return
	}
	span := minWait
	for ctx.Err() == nil {
		accepted, left, err := d.connect(ctx)
		d.online.Store(0)
		if err != nil && ctx.Err() == nil {
			d.r.problem("%s: %v", d, err)
		}
		if left {
			d.pause(ctx, d.r.cfg.Away)
			continue
		}
		if accepted {
			span = minWait
		}
		timer := time.NewTimer(time.Duration(d.rng.Int64N(int64(span))))
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		span = min(2*span, maxWait)
	}
}

// dial connects to the running server.
func (d *device) dial(ctx context.Context) (*raw.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	address := d.r.server.tcp
	if d.kind == kindWS || d.kind == kindJSON {
		address = "ws://" + d.r.server.ws
	}
	to, err := raw.ParseTarget(address)
	if err != nil {
		return nil, err
	}
	o := raw.Options{Text: d.kind == kindJSON}
	if d.slow && !d.r.isCalm() {
		o.Dial = dialNarrow
	}
	return raw.Dial(ctx, to, o)
}

// dialNarrow connects with a small receive buffer. So the server notices a slow reader
// early.
func dialNarrow(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(4 << 10)
	}
	return conn, err
}

// write sends one packet.
func write(conn *raw.Conn, p raw.Packet) error { return conn.Write(time.Now().Add(callLimit), p) }

// connect makes one connection and serves it to its end. accepted reports whether the
// server accepted the device, and left whether the device ended the connection on
// purpose. A broken connection is no error. A violation of the protocol by the server
// is one.
func (d *device) connect(ctx context.Context) (accepted, left bool, err error) {
	w, err := d.dial(ctx)
	if err != nil {
		return false, false, nil //nolint:nilerr // the server may be down
	}
	defer w.Close()
	defer context.AfterFunc(ctx, w.Close)()
	auth, err := json.Marshal(map[string]any{
		"token": d.user.token, "device": d.name, "ack": d.kind != kindAuto, "rooms": d.rooms,
	})
	if err != nil {
		return false, false, fmt.Errorf("write the auth body: %w", err)
	}
	if write(w, raw.Packet{Op: protocol.OpAuth, Seq: 1, Body: auth}) != nil {
		return false, false, nil
	}
	c := &connection{device: d, conn: w, due: make(chan struct{}, 1)}
	err = c.serve()
	return c.session != nil, c.leaving.Load(), err
}

// connection is one connection of a device.
type connection struct {
	*device
	conn    *raw.Conn
	session *history.Session // nil until the server has accepted the device
	leaving atomic.Bool

	mu   sync.Mutex
	acks []uint64
	due  chan struct{} // has a token while acks is not empty
}

// serve reads packets until the connection ends.
func (c *connection) serve() error {
	var others sync.WaitGroup
	calm, done := c.r.isCalm(), make(chan struct{})
	defer others.Wait()
	defer close(done)
	for {
		p, err := c.conn.Read(time.Now().Add(silence))
		if err != nil {
			return nil //nolint:nilerr // the server may end at any time
		}
		switch {
		case p.Op == protocol.OpDisconnect:
			return c.sentAway(p.Body)
		case c.session == nil && p.Op != protocol.OpAuthReply:
			return fmt.Errorf("op %d came before the auth reply", p.Op)
		case c.session == nil:
			var reply struct {
				Pending int `json:"pending"`
			}
			if err := json.Unmarshal(p.Body, &reply); err != nil {
				return fmt.Errorf("read the auth reply %q: %w", p.Body, err)
			}
			c.session = c.r.h.Session(c.user.name, c.name)
			c.accepted(reply.Pending)
			others.Go(func() { c.write(done) })
			if stay := c.stay(); stay > 0 {
				defer time.AfterFunc(stay, c.leave).Stop()
			}
		case p.Op == protocol.OpMessage:
			c.note(c.session, p.ID, p.Body)
			c.ack(p.ID)
		}
		if c.slow && !calm {
			if c.r.isCalm() {
				return nil // the device reconnects with a normal receive buffer
			}
			time.Sleep(20*time.Millisecond + rand.N(40*time.Millisecond))
		}
	}
}

// sentAway checks a disconnect packet (op 6). The only valid reason here is a server
// that stops, and it must ask the client to reconnect.
func (c *connection) sentAway(body []byte) error {
	var says struct {
		Code      int    `json:"code"`
		Reason    string `json:"reason"`
		Reconnect bool   `json:"reconnect"`
	}
	if err := json.Unmarshal(body, &says); err != nil {
		return fmt.Errorf("read the body of op 6, %q: %w", body, err)
	}
	if !says.Reconnect {
		return fmt.Errorf("the server sent it away for good: %s", body)
	}
	c.r.count.sentAway.Add(1)
	return nil
}

// leave ends the connection from the device's side, in a random way.
func (c *connection) leave() {
	if c.r.isCalm() {
		return
	}
	c.leaving.Store(true)
	c.away.Store(true)
	switch {
	case c.kind == kindAuto:
		// The server takes everything in the device's kernel for delivered. So the device
		// still reads until the end.
		c.conn.CloseWrite()
	case rand.N(2) == 0:
		c.conn.Abort()
	default:
		c.conn.Close()
	}
}

// ack queues the acknowledgement of a kept message.
func (c *connection) ack(id uint64) {
	if id == 0 || c.kind == kindAuto {
		return
	}
	c.mu.Lock()
	c.acks = append(c.acks, id)
	c.mu.Unlock()
	select {
	case c.due <- struct{}{}:
	default:
	}
}

// write sends heartbeats and acknowledgements until done is closed.
func (c *connection) write(done <-chan struct{}) {
	beats := time.NewTicker(beat/2 + rand.N(beat))
	defer beats.Stop()
	var gathered <-chan time.Time
	due := c.due
	for {
		select {
		case <-done:
			return
		case <-beats.C:
			// If the connection is broken, the reading goroutine notices it.
			_ = write(c.conn, raw.Packet{Op: protocol.OpHeartbeat, Seq: 2})
		case <-due:
			delay := rand.N(c.ackDelay)
			if c.r.isCalm() {
				delay = time.Millisecond
			}
			due, gathered = nil, time.After(delay)
		case <-gathered:
			due, gathered = c.due, nil
			c.sendAcks()
		}
	}
}

// ackBatch is the number of ids that one packet acknowledges.
const ackBatch = 500

func (c *connection) sendAcks() {
	c.mu.Lock()
	ids := c.acks
	c.acks = nil
	c.mu.Unlock()
	if c.forget > 0 && !c.r.isCalm() {
		kept := ids[:0]
		for _, id := range ids {
			if rand.Float64() >= c.forget {
				kept = append(kept, id)
			}
		}
		ids = kept
	}
	for len(ids) > 0 {
		n := min(len(ids), ackBatch)
		// Messages whose acknowledgement is lost come again in the next session.
		_ = write(c.conn, raw.Packet{Op: protocol.OpAck, Body: raw.AckBody(c.kind == kindJSON, ids[:n])})
		ids = ids[n:]
	}
}
