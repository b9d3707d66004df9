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
	// minBackoff and maxBackoff bound the backoff before a device that lost its connection connects
	// again.
	minBackoff, maxBackoff = 50 * time.Millisecond, time.Second
	// silence is the time that a server may be silent beyond the heartbeat interval.
	silence = 15 * time.Second
	// defaultHeartbeat is the heartbeat interval if the auth reply has none.
	defaultHeartbeat = time.Minute
	// maxNotes is the number of sessions of a device that are remembered for the report.
	maxNotes = 5
	// ackBatch is the number of ids after which an ack packet is sent even if more packets are
	// buffered.
	ackBatch = 500
)

// device is one device of one user for the whole run. It stays connected, records what it receives,
// and acknowledges each id. It costs one goroutine, one connection and a small read buffer.
type device struct {
	v     *Verifier
	user  int // index in Verifier.users
	index int // index among the devices of the user
	name  string
	ws    bool
	// known is closed when the server first accepts the device.
	known chan struct{}

	// since is the time of the run at which the device last began to try to connect. Only the
	// goroutine of the device uses it.
	since time.Duration

	mu    sync.Mutex
	conn  *conn         // nil if not connected
	away  time.Duration // pause after a departure of its own will; 0 if it has not left
	notes []sessionNote // the last maxNotes sessions, oldest first
	err   error         // the reason if not connected
}

// sessionNote describes a session for the report.
type sessionNote struct {
	at           raw.Target
	id           string
	began, ended time.Duration // ended is 0 for an open session
	why          string        // reason of the end
}

func newDevice(v *Verifier, user, index int) *device {
	// Half of the devices use each transport, over all users and within each user.
	return &device{v: v, user: user, index: index, name: fmt.Sprintf("d%d", index), ws: (user+index)%2 == 1, known: make(chan struct{})}
}

func (d *device) String() string { return d.v.users[d.user].name + "/" + d.name }

// trouble returns the reason why the device is not connected.
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
	heard     atomic.Int64 // time of the run at which the last packet arrived, as a time.Duration
	beatAt    time.Duration
}

// run keeps the device connected until ctx is done.
func (d *device) run(ctx context.Context) {
	pause, avoid := wait.Backoff{Min: minBackoff, Max: maxBackoff}, raw.Target{}
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
		_ = pause.Sleep(ctx) // the loop checks ctx
	}
}

// stayAway pauses the device for span. The pause ends early when ctx is done or when all devices
// must come back.
func (d *device) stayAway(ctx context.Context, span time.Duration) {
	timer := time.NewTimer(span)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-d.v.pushesDone:
	case <-timer.C:
	}
	d.since = d.v.now()
}

// leave ends the connection, if there is one, as a client does that goes offline for the time away.
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

// connect makes one connection and serves it to its end. The error is never nil. accepted reports
// whether the server accepted the device.
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

type authReply struct {
	Session   string  `json:"session"`
	Heartbeat float64 `json:"heartbeat"` // seconds
}

// open connects and authenticates.
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

// sentAway checks a disconnect packet (op 6). A server may end any connection if it asks the client
// to reconnect. A final disconnect is a problem, because no device of a run gives a reason for one.
func (d *device) sentAway(at raw.Target, e *raw.CloseError) {
	d.v.sentAway.Add(1)
	select {
	case <-d.known:
		if !e.Reconnect {
			d.v.problem("%s was sent away for good by %s: %d %s", d, at, e.Code, e.Reason)
		}
	default: // not accepted yet: the device keeps trying until Config.ConnectTimeout
	}
}

// receive reads and acknowledges packets until the connection ends. The error is never nil.
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
		// Packets that arrived together share one ack packet.
		if len(acks) > 0 && (!c.Buffered() || len(acks) >= ackBatch) {
			if err := c.Write(time.Now().Add(writeTimeout), raw.Packet{Op: protocol.OpAck, Body: raw.AckBody(false, acks)}); err != nil {
				return fmt.Errorf("acknowledge: %w", err)
			}
			acks = acks[:0]
		}
	}
}

// take handles a packet. It appends the ids to acknowledge to acks and returns the result.
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

// note records a received message.
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

// beat sends the heartbeats of all devices until ctx is done. It aborts a connection that has been
// silent for too long. One goroutine serves all devices, so no device needs a timer.
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
				// The short deadline keeps one blocked connection from delaying the others. The
				// error is ignored because such a connection is detected by its silence.
				_ = c.Write(time.Now().Add(100*time.Millisecond), raw.Packet{Op: protocol.OpHeartbeat, Seq: 2})
			}
		}
	}
}

// churn makes random devices leave for a while until ctx is done, at the rate of Config.Churn.
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
