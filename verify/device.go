package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"imgo/clients/go/raw"
	"imgo/internal/wait"
	"imgo/protocol"
	"imgo/verify/history"
)

const (
	// maxPacket bounds the body of a packet that a device takes, in bytes: more than
	// any push of a run.
	maxPacket = 1 << 20
	// dialTimeout bounds connecting, up to the auth reply.
	dialTimeout = 10 * time.Second
	// writeTimeout bounds one write.
	writeTimeout = 5 * time.Second
	// tcpBuffer is how much is read from TCP at a time, in bytes: a run has thousands
	// of connections, and its messages are small.
	tcpBuffer = 1 << 10
	// firstWait and lastWait bound the span of which a random part passes
	// before a device that lost its connection tries again.
	firstWait, lastWait = 50 * time.Millisecond, time.Second
	// silence is how much later than its heartbeat a server may answer.
	silence = 15 * time.Second
	// defaultHeartbeat is for a server that does not name one.
	defaultHeartbeat = time.Minute
	// maxNotes is how many sessions of a device are remembered.
	maxNotes = 5
	// ackBatch is how many ids one packet acknowledges.
	ackBatch = 500
)

// device is one device of one user for the whole run. It keeps itself
// connected, notes what it gets, and acknowledges that by the exact ids. It
// has one goroutine, and while it is connected nothing but that, its
// connection and a small buffer.
type device struct {
	v     *Verifier
	user  int // index of its user
	index int // which of the user's devices it is
	name  string
	ws    bool
	// known is closed when the server has first accepted the device.
	known chan struct{}

	// since is when it last began to want to be connected. Of its goroutine.
	since time.Duration

	mu    sync.Mutex
	conn  *conn         // nil: it is not connected
	away  time.Duration // how long it is to stay away once it has left; 0: it has not left
	notes []sessionNote // the last ones
	err   error         // why it is not connected
}

// sessionNote is what is remembered of a session.
type sessionNote struct {
	at           raw.Target
	id           string
	began, ended time.Duration // ended 0: it has not
	why          string        // it ended
}

func newDevice(v *Verifier, user, index int) *device {
	// The transports are mixed over the users and within each.
	return &device{v: v, user: user, index: index, name: fmt.Sprintf("d%d", index), ws: (user+index)%2 == 1, known: make(chan struct{})}
}

func (d *device) String() string { return d.v.users[d.user].name + "/" + d.name }

// trouble is why the device is not connected.
func (d *device) trouble() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		return errors.New("it is still trying")
	}
	return d.err
}

// conn is a connection of a device.
type conn struct {
	*raw.Conn
	heartbeat time.Duration
	heard     atomic.Int64 // when something last came, since the run began
	beatAt    time.Duration
}

// run keeps the device connected until ctx is done.
func (d *device) run(ctx context.Context) {
	pause, avoid := wait.Backoff{Min: firstWait, Max: lastWait}, raw.Target{}
	for ctx.Err() == nil {
		at := d.v.places.pick(d.ws, avoid)
		accepted, err := d.connect(ctx, at)
		if ctx.Err() != nil {
			return
		}
		d.mu.Lock()
		d.err = err
		away := d.away
		d.away = 0
		d.mu.Unlock()
		if away > 0 {
			d.stayAway(ctx, away)
			pause.Reset()
			avoid = raw.Target{}
			continue
		}
		if accepted {
			pause.Reset()
			d.v.reconnects.Add(1)
			d.v.ledger.reconnected()
		}
		avoid = at
		_ = pause.Sleep(ctx) // the loop looks at ctx
	}
}

// stayAway waits of the device's own will, unless all are to come back.
func (d *device) stayAway(ctx context.Context, span time.Duration) {
	timer := time.NewTimer(span)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-d.v.calm:
	case <-timer.C:
	}
	d.since = d.v.now()
}

// leave ends the connection of the device's own will, if it has one.
func (d *device) leave(away time.Duration, abruptly bool) {
	d.mu.Lock()
	c := d.conn
	if c != nil {
		d.away = max(away, 1)
	}
	d.mu.Unlock()
	if c != nil {
		if abruptly {
			c.Abort()
		} else {
			c.Close()
		}
	}
}

// connect makes one connection and serves it to its end, which is the error.
// accepted says that the server took the device.
func (d *device) connect(ctx context.Context, at raw.Target) (accepted bool, err error) {
	w, reply, err := d.open(ctx, at)
	if err != nil {
		var closed *raw.CloseError
		if errors.As(err, &closed) {
			d.sentAway(at, closed)
		}
		return false, fmt.Errorf("connect to %s: %w", at, err)
	}
	defer context.AfterFunc(ctx, func() { w.Close() })()
	defer w.Close()
	session := d.v.h.Session(d.v.users[d.user].name, d.name)
	d.v.connected.Add(1)
	defer d.v.connected.Add(-1)
	c := &conn{Conn: w, heartbeat: defaultHeartbeat}
	if s := reply.Heartbeat; s > 0 && s < 24*time.Hour.Seconds() {
		c.heartbeat = time.Duration(s * float64(time.Second))
	}
	now := d.v.now()
	c.heard.Store(int64(now))
	c.beatAt = now + c.heartbeat/2 + rand.N(c.heartbeat/2+1)
	d.begin(c, sessionNote{at: at, id: reply.Session, began: now})
	err = d.receive(c, session)
	var closed *raw.CloseError
	if errors.As(err, &closed) {
		d.sentAway(at, closed)
	}
	d.end(err)
	return true, err
}

func (d *device) begin(c *conn, note sessionNote) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conn, d.err = c, nil
	if len(d.notes) == maxNotes {
		d.notes = append(d.notes[:0], d.notes[1:]...)
	}
	d.notes = append(d.notes, note)
	select {
	case <-d.known:
	default:
		close(d.known)
	}
}

func (d *device) end(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conn = nil
	note := &d.notes[len(d.notes)-1]
	note.ended, note.why = d.v.now(), err.Error()
	if d.away > 0 {
		note.why = "it left"
	}
}

// authReply is the body of the auth reply.
type authReply struct {
	Session   string  `json:"session"`
	Heartbeat float64 `json:"heartbeat"` // seconds
}

// open connects and says who the device is.
func (d *device) open(ctx context.Context, at raw.Target) (_ *raw.Conn, reply authReply, err error) {
	select {
	case d.v.dialing <- struct{}{}:
		defer func() { <-d.v.dialing }()
	case <-ctx.Done():
		return nil, reply, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	w, err := d.v.places.dial(ctx, at)
	if err != nil {
		return nil, reply, err
	}
	stop := context.AfterFunc(ctx, func() { w.Abort() })
	err = d.authenticate(w, &reply)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		w.Abort()
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer within %s", dialTimeout)
		}
		return nil, reply, err
	}
	return w, reply, nil
}

func (d *device) authenticate(w *raw.Conn, reply *authReply) error {
	auth, err := json.Marshal(map[string]any{"token": d.v.users[d.user].token, "device": d.name, "ack": true, "platform": "verify"})
	if err != nil {
		return fmt.Errorf("write the auth packet: %w", err)
	}
	if err := w.Write(time.Now().Add(writeTimeout), raw.Packet{Op: protocol.OpAuth, Seq: 1, Body: auth}); err != nil {
		return fmt.Errorf("send the auth packet: %w", err)
	}
	p, err := w.Read(time.Time{})
	switch {
	case err != nil:
		return fmt.Errorf("wait for the auth reply: %w", err)
	case p.Op == protocol.OpDisconnect:
		return raw.ParseClose(p.Body)
	case p.Op != protocol.OpAuthReply:
		return fmt.Errorf("op %d came where the auth reply was to come", p.Op)
	}
	if err := json.Unmarshal(p.Body, reply); err != nil {
		return fmt.Errorf("read the auth reply %.100q: %w", p.Body, err)
	}
	return nil
}

// sentAway judges an op 6. A server may end any connection if it says that the
// client is to come back; no device here gives a reason for more.
func (d *device) sentAway(at raw.Target, e *raw.CloseError) {
	d.v.sentAway.Add(1)
	select {
	case <-d.known:
		if !e.Reconnect {
			d.v.problem("%s was sent away for good by %s: %d %s", d, at, e.Code, e.Reason)
		}
	default: // it has the time until Config.ConnectTimeout
	}
}

// receive reads to the end, which is its error.
func (d *device) receive(c *conn, session *history.Session) error {
	var acks []uint64
	for {
		p, err := c.Read(time.Time{})
		if err != nil {
			return err
		}
		c.heard.Store(int64(d.v.now()))
		if acks, err = d.take(p, session, acks); err != nil {
			return err
		}
		// What came together is acknowledged together.
		if len(acks) > 0 && (!c.Buffered() || len(acks) >= ackBatch) {
			if err := c.Write(time.Now().Add(writeTimeout), raw.Packet{Op: protocol.OpAck, Body: raw.AckBody(false, acks)}); err != nil {
				return fmt.Errorf("acknowledge: %w", err)
			}
			acks = acks[:0]
		}
	}
}

// take notes a packet and gives back the ids that are to be acknowledged.
func (d *device) take(p raw.Packet, session *history.Session, acks []uint64) ([]uint64, error) {
	switch p.Op {
	case protocol.OpDisconnect:
		return acks, raw.ParseClose(p.Body)
	case protocol.OpRaw:
		batch, err := raw.Batch(p.Body, maxPacket)
		for _, inner := range batch {
			if acks, err := d.take(inner, session, acks); err != nil {
				return acks, err
			}
		}
		return acks, err
	case protocol.OpMessage:
		d.note(p, session)
		if p.ID != 0 {
			acks = append(acks, p.ID)
		}
	}
	return acks, nil
}

// note takes down a message.
func (d *device) note(p raw.Packet, session *history.Session) {
	number, err := numberOf(d.v.head, p.Body)
	if err != nil {
		session.GotStranger(p.ID, err.Error())
		return
	}
	first := session.Got(p.ID, number)
	switch {
	case p.ID == 0:
		d.v.ledger.count(func(c *counts) { c.liveReceived++ })
	case first:
		d.v.ledger.receive(number, d.user, d.index, d.since)
	default:
		d.v.ledger.count(func(c *counts) { c.repeated++ })
	}
}

// beat sends everybody's heartbeats, and closes connections that have been
// silent for too long, until ctx is done. One goroutine does it for all
// devices, so that none needs a timer.
func (v *Verifier) beat(ctx context.Context) {
	for wait.Sleep(ctx, 200*time.Millisecond) == nil {
		for _, d := range v.devices {
			d.mu.Lock()
			c := d.conn
			d.mu.Unlock()
			if c == nil {
				continue
			}
			now := v.now()
			if now-time.Duration(c.heard.Load()) > c.heartbeat+silence {
				c.Abort()
				continue
			}
			if now >= c.beatAt {
				c.beatAt = now + c.heartbeat
				// A heartbeat fits into any connection that moves; one that
				// cannot be written to is found out by its silence.
				_ = c.Write(time.Now().Add(100*time.Millisecond), raw.Packet{Op: protocol.OpHeartbeat, Seq: 2})
			}
		}
	}
}

// churn has devices go away of their own will until ctx is done.
func (v *Verifier) churn(ctx context.Context) {
	perSecond := v.cfg.Churn / 60 * float64(len(v.devices))
	if perSecond == 0 {
		return
	}
	dice := rand.New(rand.NewPCG(v.cfg.Seed, 2))
	for wait.Sleep(ctx, time.Duration(dice.ExpFloat64()/perSecond*float64(time.Second))) == nil {
		v.devices[dice.IntN(len(v.devices))].leave(time.Duration(dice.Int64N(int64(v.cfg.Away))), dice.IntN(2) == 0)
	}
}
