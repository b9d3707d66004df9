package cluster_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"imgo/clients/go/raw"
	"imgo/config"
	"imgo/internal/wait"
	"imgo/protocol"
	"imgo/verify/history"
)

// device is a device of a user. It stays connected to some comet, acknowledges its
// messages, and adds them to the history.
type device struct {
	w          *world
	user, name string
	// comet is the comet that it connects to; nil: any comet.
	comet *node

	stop context.CancelFunc
	done chan struct{}

	mu   sync.Mutex
	conn *raw.Conn
	last map[string]any // body of the last OpDisconnect

	sessions, received atomic.Int64
	rooms              []string
	heard              chan string // bodies of messages that are not numbers, such as a room's
}

// connect starts a device that runs until the test ends, and waits for its first session.
func (w *world) connect(user, name string, comet *node, rooms ...string) *device {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	d := &device{
		w: w, user: user, name: name, comet: comet, stop: cancel, done: make(chan struct{}),
		rooms: rooms, heard: make(chan string, 1000),
	}
	w.devices = append(w.devices, d)
	go d.run(ctx)
	eventually(w.t, user+"/"+name+" is connected", func() bool { return d.sessions.Load() > 0 })
	return d
}

// leave stops the device.
func (d *device) leave() {
	d.stop()
	d.drop()
	<-d.done
}

// drop closes the connection; the device makes another one.
func (d *device) drop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn != nil {
		d.conn.Close()
	}
}

// lastDisconnect returns the body of the last OpDisconnect.
func (d *device) lastDisconnect() map[string]any {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last
}

func (d *device) run(ctx context.Context) {
	defer close(d.done)
	for ctx.Err() == nil {
		if comets := d.w.of(config.RoleComet); len(comets) > 0 {
			c := comets[rand.IntN(len(comets))]
			if d.comet != nil {
				c = d.comet
			}
			_ = d.session(ctx, c.ClientAddr("tcp").String()) // another one follows
		}
		_ = wait.Sleep(ctx, time.Duration(10+rand.IntN(40))*time.Millisecond)
	}
}

// session runs one connection until its end.
func (d *device) session(ctx context.Context, address string) error {
	c, err := dialRaw(ctx, address)
	if err != nil {
		return err
	}
	defer c.Close()
	d.mu.Lock()
	d.conn = c
	d.mu.Unlock()
	defer context.AfterFunc(ctx, c.Close)()
	auth, _ := json.Marshal(map[string]any{"token": d.user, "device": d.name, "ack": true, "rooms": d.rooms})
	if err := send(c, protocol.OpAuth, 1, auth); err != nil {
		return err
	}
	deadline := time.Now().Add(10 * time.Second)
	// The history's session begins with the auth reply.
	var s *history.Session
	for {
		p, err := c.Read(deadline)
		if err != nil {
			return err
		}
		switch p.Op {
		case protocol.OpAuthReply:
			deadline = time.Time{}
			s = d.w.h.Session(d.user, d.name)
			d.sessions.Add(1)
		case protocol.OpMessage:
			number, err := strconv.ParseUint(string(p.Body), 10, 64)
			if err != nil {
				select {
				case d.heard <- string(p.Body):
				default:
				}
				continue
			}
			s.Got(p.ID, number)
			d.received.Add(1)
			if p.ID != 0 {
				if err := send(c, protocol.OpAck, 0, raw.AckBody(false, []uint64{p.ID})); err != nil {
					return err
				}
			}
		case protocol.OpDisconnect:
			var body map[string]any
			_ = json.Unmarshal(p.Body, &body)
			d.mu.Lock()
			d.last = body
			d.mu.Unlock()
		}
	}
}

// dialRaw connects to a comet over TCP.
func dialRaw(ctx context.Context, address string) (*raw.Conn, error) {
	to, err := raw.ParseTarget(address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return raw.Dial(ctx, to, raw.Options{})
}

func send(c *raw.Conn, op, seq int32, body []byte) error {
	return c.Write(time.Now().Add(5*time.Second), raw.Packet{Op: op, Seq: seq, Body: body})
}

func get(url string, out any) error {
	_, err := call("GET", url, "", out)
	return err
}

// pushes has callers that push to users. Each push is tried again until a logic accepts
// it.
type pushes struct {
	reports bool // pushes have a ref and ask for all events
	w       *world
	number  atomic.Uint64
	stops   []func()

	mu      sync.Mutex
	at      time.Time // of the last acceptance
	longest time.Duration
}

// run starts callers that push to the users until stop.
func (p *pushes) run(callers int, users []string) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				p.push(users[n%len(users)])
				_ = wait.Sleep(ctx, 5*time.Millisecond)
			}
		})
	}
	p.stops = append(p.stops, func() {
		cancel()
		wg.Wait()
	})
}

// stop stops all callers once their pushes are accepted.
func (p *pushes) stop() {
	for _, stop := range p.stops {
		stop()
	}
	p.stops = nil
}

// push pushes one kept message until it is accepted. If that takes longer than waitLimit,
// the test fails.
func (p *pushes) push(user string) uint64 {
	number := p.number.Add(1)
	p.w.h.Tried(number, user)
	body := fmt.Sprintf(`{"user":%q,"body_text":"%d"%s}`, user, number, p.more(number))
	key := fmt.Sprintf("push-%d", number)
	var err error
	for limit := time.Now().Add(waitLimit); time.Now().Before(limit); time.Sleep(20 * time.Millisecond) {
		logics := p.w.of(config.RoleLogic)
		if len(logics) == 0 {
			continue
		}
		var answer struct {
			ID uint64 `json:"id,string"`
		}
		base := "http://" + logics[rand.IntN(len(logics))].HTTPAddr().String()
		if _, err = call("POST", base+"/v1/push", body, &answer, "Idempotency-Key: "+key); err == nil {
			p.w.h.Accepted(number, user, answer.ID)
			p.accepted()
			return answer.ID
		}
	}
	p.w.t.Errorf("push %d was not accepted within %s: %v", number, waitLimit, err)
	return 0
}

// more returns further fields of a push.
func (p *pushes) more(number uint64) string {
	if !p.reports {
		return ""
	}
	return fmt.Sprintf(`,"ref":"%d","report":"each"`, number)
}

func (p *pushes) accepted() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if !p.at.IsZero() {
		p.longest = max(p.longest, now.Sub(p.at))
	}
	p.at = now
}

// resetRefusals makes longestRefusal count from now.
func (p *pushes) resetRefusals() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.longest = time.Now(), 0
}

// longestRefusal returns the longest time in which no push was accepted.
func (p *pushes) longestRefusal() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.longest
}

// tryConnect connects once. It returns an error if the server refuses the device.
func (d *device) tryConnect() error {
	comets := d.w.of(config.RoleComet)
	c, err := dialRaw(context.Background(), comets[rand.IntN(len(comets))].ClientAddr("tcp").String())
	if err != nil {
		return err
	}
	defer c.Close()
	auth, _ := json.Marshal(map[string]any{"token": d.user, "device": d.name, "ack": true})
	if err := send(c, protocol.OpAuth, 1, auth); err != nil {
		return err
	}
	p, err := c.Read(time.Now().Add(10 * time.Second))
	if err == nil && p.Op != protocol.OpAuthReply {
		err = fmt.Errorf("op %d: %s", p.Op, p.Body)
	}
	return err
}
