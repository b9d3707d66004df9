package verify

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"imgo/clients/go/raw"
	"imgo/internal/wait"
	"imgo/verify/history"
)

const (
	// minBackoff and maxBackoff bound the backoff before a device that lost its connection connects
	// again.
	minBackoff, maxBackoff = 50 * time.Millisecond, time.Second
	// maxSessions is the number of sessions of a device that are remembered for the report.
	maxSessions = 5
)

// DeviceKind is the way in which a device connects.
type DeviceKind string

// The kinds of devices.
const (
	DeviceTCP   DeviceKind = "tcp"    // binary packets over TCP
	DeviceWS    DeviceKind = "ws"     // binary packets over WebSocket
	DeviceJSON  DeviceKind = "json"   // JSON over WebSocket
	DeviceNoAck DeviceKind = "no-ack" // TCP without acknowledgements: the server detects deliveries by itself
	DeviceSDK   DeviceKind = "sdk"    // the Go SDK over TCP
	DeviceSDKWS DeviceKind = "sdk-ws" // the Go SDK over WebSocket
	// DeviceDriver is a client library of any language in a driver of Config.Drivers.
	DeviceDriver DeviceKind = "driver"
)

// DeviceKinds returns all kinds of devices that need no driver.
func DeviceKinds() []DeviceKind {
	return []DeviceKind{DeviceTCP, DeviceWS, DeviceJSON, DeviceNoAck, DeviceSDK, DeviceSDKWS}
}

func (k DeviceKind) webSocket() bool { return k == DeviceWS || k == DeviceJSON || k == DeviceSDKWS }
func (k DeviceKind) sdk() bool       { return k == DeviceSDK || k == DeviceSDKWS }

// device is one device of one user for the whole run. It stays connected, records what it receives,
// and acknowledges each id. Without an SDK it costs one goroutine, one connection and a small read
// buffer.
type device struct {
	v       *Verifier
	account *account
	user    int // index in Verifier.users
	index   int // index among the devices of the user
	name    string
	kind    DeviceKind
	slow    bool // reads slowly until the pushing ends
	// driver is the index of its driver in Verifier.drivers. Only DeviceDriver uses it.
	driver int
	// ackDelay bounds the time for which the device collects acknowledgements. forget is the share of
	// acknowledgements that it leaves out. Both apply until the pushing ends.
	ackDelay  time.Duration
	forget    float64
	falsifier *falsifier // nil if the device records the truth
	// known is closed when the server first accepts the device.
	known chan struct{}

	// since is the time of the run at which the device last began to try to connect. Only the
	// goroutine of the device uses it.
	since time.Duration

	mu       sync.Mutex
	conn     *conn               // nil if not connected without an SDK
	hangUp   func(abruptly bool) // ends the connection from the side of the device; nil if not connected
	away     time.Duration       // pause after a departure of its own will; 0 if it has not left
	sessions []SessionOf         // the last maxSessions sessions, oldest first
	err      error               // the reason if not connected
	publisher

	gone atomic.Bool // after its next departure it stays away until the end
}

// lazyDelay bounds the delay of acknowledgements by a lazy device, and lazyForget is the share that a
// lazy device leaves out. Half of the lazy devices do one, half the other.
const (
	lazyDelay  = 3 * time.Second
	lazyForget = 0.1
)

func newDevice(v *Verifier, user, index int) *device {
	// Each kind is used equally often, and the devices of a user differ in varying ways.
	kinds := v.cfg.Kinds
	step := 1 + user/len(kinds)%max(1, len(kinds)-1)
	d := &device{v: v, account: v.users[user], user: user, index: index, name: fmt.Sprintf("d%d", index),
		kind: kinds[(user+index*step)%len(kinds)], known: make(chan struct{})}
	if n := len(v.cfg.Drivers); n > 0 {
		d.driver = (user*v.cfg.Devices + index) % n
	}
	if d.slow = user < v.cfg.Slow && index == 0; d.slow {
		d.kind = []DeviceKind{DeviceTCP, DeviceWS, DeviceJSON}[user%3]
	}
	dice := rand.New(rand.NewPCG(v.cfg.Seed, 1<<32+uint64(user*maxDevices+index)))
	if dice.Float64() < v.cfg.Lazy {
		if dice.IntN(2) == 0 {
			d.ackDelay = lazyDelay
		} else {
			d.forget = lazyForget
		}
	}
	return d
}

func (d *device) String() string { return d.account.name + "/" + d.name }

// trouble returns the reason why the device is not connected.
func (d *device) trouble() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		return errors.New("it is still trying")
	}
	return d.err
}

// run keeps the device connected until ctx is done.
func (d *device) run(ctx context.Context) {
	switch {
	case d.kind.sdk():
		d.runSDK(ctx)
		return
	case d.kind == DeviceDriver:
		d.runDriver(ctx)
		return
	}
	pause, avoid := wait.Backoff{Min: minBackoff, Max: maxBackoff}, raw.Target{}
	for ctx.Err() == nil {
		at := d.v.places.pick(d.kind.webSocket(), avoid)
		accepted, err := d.connect(ctx, at)
		if ctx.Err() != nil {
			return
		}
		if away := d.left(err); away > 0 {
			d.stayAway(ctx, away)
			pause.Reset()
			avoid = raw.Target{}
			continue
		}
		if accepted {
			pause.Reset()
			d.reconnecting()
		}
		avoid = at
		_ = pause.Sleep(ctx) // the loop checks ctx
	}
}

// left records the end of a connection. It returns the time for which the device stays away, or 0 if
// the connection did not end by its own will.
func (d *device) left(err error) (away time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err, away, d.away = err, d.away, 0
	return away
}

// stayAway pauses the device for span. The pause ends early when ctx is done or when all devices
// must come back.
func (d *device) stayAway(ctx context.Context, span time.Duration) {
	d.v.away.Add(1)
	defer d.v.away.Add(-1)
	if d.gone.Load() {
		<-ctx.Done()
		return
	}
	_ = d.v.pauseWhilePushing(ctx, span) // the caller checks ctx
	d.since = d.v.now()
}

// leave ends the connection, if there is one, as a client does that goes offline for the time away.
func (d *device) leave(away time.Duration, abruptly bool) {
	d.mu.Lock()
	hangUp := d.hangUp
	if hangUp != nil {
		d.away = max(away, 1)
	}
	d.mu.Unlock()
	if hangUp != nil {
		hangUp(abruptly)
	}
}

// begin records that the server has accepted the device. pending is the number of kept messages that
// wait for it, as the server says. c is nil for an SDK. id is that of the session.
func (d *device) begin(c *conn, hangUp func(abruptly bool), at raw.Target, id string, pending int) {
	if pending > 0 && d.v.emptied.Load() {
		d.v.problem("%s was told that %d messages wait, although its mailbox was empty", d, pending)
	}
	d.v.connected.Add(1)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conn, d.hangUp, d.err = c, hangUp, nil
	if len(d.sessions) == maxSessions {
		d.sessions = slices.Delete(d.sessions, 0, 1)
	}
	d.sessions = append(d.sessions, SessionOf{Comet: at.String(), Session: id, Began: time.Now()})
	select {
	case <-d.known:
	default:
		close(d.known)
	}
}

// end records the end of the connection that begin recorded. It reports false if there is none.
func (d *device) end(err error) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hangUp == nil {
		return false
	}
	d.v.connected.Add(-1)
	d.conn, d.hangUp = nil, nil
	now, last := time.Now(), &d.sessions[len(d.sessions)-1]
	last.Ended, last.Why = &now, fmt.Sprint(err)
	if d.away > 0 {
		last.Why = "it left"
	}
	return true
}

// reconnecting records that the device lost its connection against its will.
func (d *device) reconnecting() {
	d.v.reconnects.Add(1)
	d.v.ledger.reconnected()
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

// note records a received message.
func (d *device) note(id uint64, body []byte, session *history.Session) {
	number, err := numberOf(d.v.head, body)
	if err != nil {
		session.GotStranger(id, err.Error())
		return
	}
	m := received{session, id, number}
	if id == 0 {
		d.record(m)
		return
	}
	if d.v.emptied.Load() {
		d.v.problem("%s got push %d with id %d again, although it was acknowledged and the mailbox was empty", d, number, id)
	}
	d.v.events.judge.Received(number, d.account.name, d.name, id, d.v.now())
	if d.falsifier != nil {
		d.falsifier.got(d, m)
		return
	}
	d.record(m)
}

// received is one message that a device received.
type received struct {
	session    *history.Session
	id, number uint64
}

// record adds a message to the history and to the ledger.
func (d *device) record(m received) {
	first := m.session.Got(m.id, m.number)
	switch {
	case m.id == 0:
		d.v.ledger.count(&d.v.ledger.delivered.NotKept)
	case first:
		d.v.ledger.receive(m.number, d.user, d.index, d.since)
	default:
		d.v.ledger.count(&d.v.ledger.delivered.Repeated)
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
