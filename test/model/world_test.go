package model_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/protocol"
	"imgo/roles/comet"
	"imgo/roles/job"
	"imgo/roles/logic"
	"imgo/roles/logic/auth"
	"imgo/roles/logic/tokenlog"
	"imgo/roles/router"
	"imgo/store"
	"imgo/transport"
	"imgo/transport/pipe"
)

var users = []string{"u1", "u2"}

var devices = []string{"phone", "laptop"}

// plan is one run: its seed, its faults, and the rule that is left out.
type plan struct {
	seed         uint64
	rates        rates
	cometFaults  comet.Faults
	routerFaults router.Faults
	length       time.Duration
	// calm leaves out the faults that would hide the rule's absence. What a
	// reconnect heals shows only in a session that stays.
	calm bool
	// still leaves out what befalls whole nodes, after which sessions ask for what
	// they miss anyway.
	still bool
	// reports: pushes ask for a report, and the events are judged. noSkip: the reader of
	// events does not drop repetitions.
	reports, noSkip bool
	// presence: routers tell which users are online, and that is judged too.
	presence bool
}

// world is two routers, two comets each with a logic, one or two jobs, one
// log, and two users with two devices each.
type world struct {
	t    *testing.T
	p    plan
	dice *dice
	f    *faults
	dir  string
	ctx  context.Context

	kept  doublingLog
	live  *store.LiveLog
	topic *store.Log // of events

	places []*place
	downs  []func() // stops the router of a place; nil: it is down
	rings  []*ring  // of the places
	nodes  []*node
	comets comets
	pos    *positions
	jobs   []func() // stop a job
	views  []*view  // of the jobs
	late   sync.WaitGroup
	served sync.WaitGroup // sessions

	h       *history
	clients []*client
	n       int // pushes so far
	// reported are the messages with a deadline, told0 counts the events, and reads those of type message.read.
	reported     []string
	outgoing     map[string]*outgoing // by user: messages for the backend
	told0, reads int
	// gone are the users that leave at the end, presences counts the events of presence.
	gone      []string
	presences int
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// spawn runs something until the function that it gives back is called.
func (w *world) spawn(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, envelope.ErrClosed) {
			w.t.Errorf("ended with %v", err)
		}
	}
}

func (w *world) routerUp(i int) {
	db, err := store.Open(store.Options{Dir: filepath.Join(w.dir, "router"+strconv.Itoa(i)), Log: zerolog.Nop()})
	w.must(err)
	cfg := router.DefaultConfig()
	cfg.WatchInterval, cfg.WatchAfter, cfg.WatchMax = 10*time.Millisecond, 30*time.Millisecond, 100*time.Millisecond
	cfg.CometTimeout, cfg.FlushInterval = 150*time.Millisecond, 5*time.Millisecond
	cfg.BacklogMessages, cfg.Repeats, cfg.Faults = 3, time.Minute, w.p.routerFaults
	cfg.Presence = router.Presence{Events: w.p.presence, Grace: presenceGrace}
	cfg.LoseAfter, cfg.CleanAfter = time.Duration(w.dice.n(2))*20*time.Millisecond, 200*time.Millisecond
	r, err := router.New(cfg, router.Deps{
		Owned: w.rings[i].get, Topic: faultyTopic{w.topic, w},
		Kept: laggingLog{w.kept}, Live: w.live, Store: store.NewMailboxes(db), Log: zerolog.Nop(),
	})
	w.must(err)
	stop := w.spawn(r.Run)
	pl := w.places[i]
	pl.mu.Lock()
	pl.r = r
	pl.mu.Unlock()
	w.downs[i] = func() {
		pl.mu.Lock()
		pl.r = nil
		pl.mu.Unlock()
		if w.f.dice.float() < 0.5 {
			_ = db.Close() // as kill -9: what was not written behind is lost
		}
		stop()
		w.must(db.Close())
		w.downs[i] = nil
	}
}

func (w *world) jobUp() {
	v := &view{places: w.places}
	v.which.Store(int32(w.dice.n(2)))
	cfg := job.DefaultConfig()
	cfg.ResolveTimeout, cfg.PushTimeout = 50*time.Millisecond, 50*time.Millisecond
	j, err := job.New(w.ctx, cfg, job.Deps{
		Kept: w.kept, Live: w.live, Owners: owners{v}, Comets: w.comets, Group: &group{positions: w.pos}, Log: zerolog.Nop()})
	w.must(err)
	w.jobs = append(w.jobs, w.spawn(j.Run))
	w.views = append(w.views, v)
}

func newWorld(t *testing.T, p plan) *world {
	w := &world{
		t: t, p: p, dice: newDice(p.seed), dir: t.TempDir(), ctx: context.Background(), outgoing: make(map[string]*outgoing),
	}
	w.f = &faults{dice: w.dice, rates: p.rates}
	w.h = newHistory()

	db, err := store.Open(store.Options{Dir: filepath.Join(w.dir, "log"), Log: zerolog.Nop()})
	w.must(err)
	kept, err := store.OpenLog(db, store.LogOptions{Partitions: 2})
	w.must(err)
	w.kept = doublingLog{kept, w.f}
	w.live, err = store.NewLiveLog(store.LiveOptions{Partitions: 2, MaxBytes: 1 << 20})
	w.must(err)
	w.topic, err = store.OpenLog(db, store.LogOptions{Events: true, Partitions: 2})
	w.must(err)
	stopKept, stopLive, stopTopic := w.spawn(kept.Run), w.spawn(w.live.Run), w.spawn(w.topic.Run)

	w.places, w.downs = []*place{{}, {}}, make([]func(), 2)
	w.rings = []*ring{newRing(0, 1), newRing(0, 1)}
	for i := range w.places {
		w.routerUp(i)
	}
	w.pos = newPositions(w.dice)
	w.comets = comets{f: w.f, g: &w.late}
	var stops []func()
	for i := range 2 {
		n := &node{name: "c" + strconv.Itoa(i), view: &view{places: w.places}}
		lcfg := logic.DefaultConfig()
		lcfg.Upstream = upstreamRules()
		lcfg.Auth.Mode, lcfg.CallTimeout, lcfg.LookupTimeout = auth.ModeNone, 200*time.Millisecond, 20*time.Millisecond
		n.logic, err = logic.New(lcfg, logic.Deps{
			Routers: routers{n.view, 2}, Kept: w.kept, Live: w.live, Comets: w.comets, Log: zerolog.Nop(),
			Tokens: tokenlog.NewAlone(tokenlog.DefaultConfig(), store.NewTokens(db), zerolog.Nop())})
		w.must(err)
		ccfg := comet.DefaultConfig()
		ccfg.Name, ccfg.Faults = n.name, p.cometFaults
		ccfg.CatchUpTimeout, ccfg.AnnounceInterval, ccfg.AckInterval = 30*time.Millisecond, 10*time.Millisecond, time.Millisecond
		ccfg.CallTimeout, ccfg.CatchUpMessages, ccfg.DrainRate = 250*time.Millisecond, 3, 1e6
		n.comet, err = comet.New(ccfg, upstream(n), zerolog.Nop(), nil)
		w.must(err)
		w.nodes = append(w.nodes, n)
		stopLogic := w.spawn(n.logic.Run)
		stopComet := w.spawn(n.comet.Run)
		stops = append(stops, stopComet, stopLogic)
	}
	w.comets.nodes = w.nodes
	w.jobUp()
	for _, u := range users {
		for _, d := range devices {
			w.clients = append(w.clients, &client{w: w, user: u, device: d, authenticated: make(chan struct{})})
		}
	}
	t.Cleanup(func() {
		w.f.off.Store(true)
		for _, n := range w.nodes {
			n.hung.Store(false)
		}
		for _, c := range w.clients {
			c.disconnect()
		}
		for _, stop := range stops {
			stop()
		}
		for _, stop := range w.jobs {
			stop()
		}
		w.late.Wait()
		w.served.Wait()
		for _, down := range w.downs {
			if down != nil {
				down()
			}
		}
		stopLive()
		stopTopic()
		stopKept()
		w.must(db.Close())
	})
	return w
}

// push sends one message by one of the logics; only what was accepted counts.
func (w *world) push() {
	if w.p.reports && w.dice.n(3) == 0 {
		w.upstream()
	}
	w.n++
	user, body := users[w.dice.n(2)], strconv.Itoa(w.n)
	n := w.nodes[w.dice.n(2)]
	command := &logic.PushCommand{Users: []string{user}, Op: 5, Body: []byte(body), Kept: true}
	if w.p.reports {
		each := events.LevelEach
		command.Report, command.Ref, command.Deadline = &each, body, time.Duration(w.dice.n(150)+1)*time.Millisecond
	}
	result, err := n.logic.Push(w.ctx, command)
	if err != nil {
		return
	}
	w.h.accept(user, body, result.Users[0].ID)
	if w.p.reports {
		w.reported = append(w.reported, strconv.FormatUint(result.Users[0].ID, 10))
	}
}

// readByCaller has a caller of the API say that a user has read some of its messages.
func (w *world) readByCaller() {
	user := users[w.dice.n(2)]
	id := w.h.recent(user, w.dice.n(10))
	if id == 0 {
		return
	}
	read := &envelope.Read{User: user, Ids: []uint64{id}}
	if w.dice.n(3) == 0 {
		read.UpTo, read.Ids = id, nil
	}
	w.h.reads(read)
	_, _ = w.nodes[w.dice.n(2)].logic.Read(w.ctx, &envelope.ReadRequest{Read: read}) // it may land though it fails
}

// fault is one thing that goes wrong.
func (w *world) fault() {
	i := w.dice.n(2)
	switch w.dice.n(7) {
	case 0, 1:
		if w.downs[i] == nil {
			w.routerUp(i)
			return
		}
		w.downs[i]()
		if w.dice.n(2) == 0 {
			w.must(os.RemoveAll(filepath.Join(w.dir, "router"+strconv.Itoa(i))))
		}
	case 2:
		n := w.nodes[i]
		n.hung.Store(!n.hung.Load())
	case 3:
		if len(w.jobs) == 1 {
			w.jobUp()
			return
		}
		k := w.dice.n(len(w.jobs))
		w.jobs[k]()
		w.jobs = append(w.jobs[:k], w.jobs[k+1:]...)
		w.views = append(w.views[:k], w.views[k+1:]...)
	default:
		all := append([]*view{w.nodes[0].view, w.nodes[1].view}, w.views...)
		all[w.dice.n(len(all))].which.Store(int32(w.dice.n(2)))
		w.rings[w.dice.n(2)].flip(int32(w.dice.n(2)))
	}
}

// run lets everything happen for a while, waits until all has arrived, and judges.
func (w *world) run() error {
	// Every device is known before the first push, so that it covers all.
	for _, c := range w.clients {
		c.connect()
		select {
		case <-c.authenticated:
		case <-time.After(30 * time.Second):
			return errors.New("a client could not connect while all was well")
		}
	}
	end := time.Now().Add(w.p.length)
	for time.Now().Before(end) {
		switch w.dice.n(10) {
		case 0, 1, 2, 3:
			w.push()
		case 4, 5:
			if !w.p.calm {
				w.clients[w.dice.n(len(w.clients))].connect()
			}
		case 6:
			switch {
			case w.p.calm:
			case w.p.presence && w.dice.n(2) == 0:
				w.leave(users[w.dice.n(len(users))])
			default:
				w.clients[w.dice.n(len(w.clients))].disconnect()
			}
			if w.p.reports && w.dice.n(2) == 0 {
				w.readByCaller()
			}
		case 7:
			if w.dice.n(4) == 0 && !w.p.still {
				w.fault()
			}
		default:
			time.Sleep(time.Duration(w.dice.n(3000)) * time.Microsecond) // the world's own pace
		}
	}
	w.f.off.Store(true)
	// Both routers own everything again, and everybody asks the first.
	for _, g := range w.rings {
		g.set(0, 1)
	}
	for _, n := range w.nodes {
		n.hung.Store(false)
		n.view.which.Store(0)
	}
	for _, v := range w.views {
		v.which.Store(0)
	}
	for i, down := range w.downs {
		if down == nil {
			w.routerUp(i)
		}
	}
	limit := time.Now().Add(arrivalLimit(w.p))
	for {
		for _, c := range w.clients {
			c.connect()
		}
		err := w.h.judge()
		if err == nil && (w.p.reports || w.p.presence) {
			w.leaveSome()
			return w.judgeEvents()
		}
		switch {
		case err == nil || !errors.Is(err, errLost):
			return err
		case time.Now().After(limit):
			return fmt.Errorf("%w: %s", err, w.explain())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// explain tells what became of the missing message, and what the sessions of its user saw.
func (w *world) explain() string {
	missing := w.h.missing
	x, err := w.nodes[0].logic.Explain(w.ctx, w.kept, missing.user, missing.id)
	if err != nil {
		return err.Error()
	}
	text, err := json.MarshalIndent(x, "", "  ")
	w.must(err)
	for _, s := range w.h.sessions {
		if s.user == missing.user {
			text = fmt.Appendf(text, "\nsession %d of %s saw %d", s.n, s.device, s.ids)
		}
	}
	return string(text)
}

// arrivalLimit is how long a message may take to arrive once all is well. A
// run that leaves a rule out need not wait long to be found broken.
func arrivalLimit(p plan) time.Duration {
	if p.cometFaults == (comet.Faults{}) && p.routerFaults == (router.Faults{}) {
		return 30 * time.Second
	}
	return 3 * time.Second
}

// client is one device of one user: it connects anywhere, acknowledges some
// of what it gets, and notes everything.
type client struct {
	w            *world
	user, device string

	mu   sync.Mutex
	conn *pipe.Client
	done chan struct{}
	// authenticated is closed by the first session's auth reply.
	authenticated chan struct{}
	once          sync.Once
}

func (c *client) connect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		select {
		case <-c.done: // the server ended it
			c.conn = nil
		default:
			return
		}
	}
	n := c.w.nodes[c.w.dice.n(2)]
	if n.hung.Load() {
		return
	}
	cl, conn := pipe.New(pipe.Options{})
	body, _ := json.Marshal(map[string]any{"token": c.user, "device": c.device, "ack": true})
	if err := cl.Send(transport.Packet{Version: 2, Op: protocol.OpAuth, Seq: 1, Body: body}); err != nil {
		c.w.t.Error(err)
		return
	}
	done := make(chan struct{})
	c.conn, c.done = cl, done
	c.w.served.Go(func() { n.comet.Serve(conn) })
	s := c.w.h.session(c.user, c.device)
	c.w.served.Go(func() {
		defer close(done)
		defer s.ended()
		defer cl.Close()
		c.receive(cl, s)
	})
}

func (c *client) receive(cl *pipe.Client, s *sessionHistory) {
	var held []uint64
	for {
		p, err := cl.Receive()
		if err != nil {
			return
		}
		if p.Op == protocol.OpAuthReply {
			c.once.Do(func() { close(c.authenticated) })
		}
		if p.Op != protocol.OpMessage {
			continue
		}
		s.got(p.ID, string(p.Body))
		if c.w.dice.float() < 0.3 {
			// It acknowledges what it was not sent, too: nobody must lose a message by that.
			ahead := []uint64{p.ID + 1, p.ID + 2, p.ID + 5}
			s.acknowledgedAhead(ahead)
			_ = cl.Send(transport.Packet{Version: 2, Op: protocol.OpAck, Body: ackBody(ahead...)})
		}
		held = append(held, p.ID)
		if c.w.p.reports && c.w.dice.n(12) == 0 {
			c.read(cl, p.ID)
		}
		if c.w.dice.float() < 0.6 {
			_ = cl.Send(transport.Packet{Version: 2, Op: protocol.OpAck, Body: ackBody(held...)}) // it may be closed by now
			held = nil
		}
	}
}

func ackBody(ids ...uint64) (body []byte) {
	for _, id := range ids {
		body = binary.BigEndian.AppendUint64(body, id)
	}
	return body
}

// read tells that the user has read a message, or all up to it.
func (c *client) read(cl *pipe.Client, id uint64) {
	read, packet := &envelope.Read{User: c.user, Ids: []uint64{id}}, transport.Packet{Version: 2, Op: protocol.OpRead, Seq: 2, Long: true}
	if c.w.dice.n(3) == 0 {
		read.UpTo, read.Ids, packet.ID = id, nil, id
	} else {
		packet.Body = ackBody(id)
	}
	c.w.h.reads(read)
	_ = cl.Send(packet) // it may be closed by now
}

func (c *client) disconnect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		_ = c.conn.Close()
		<-c.done
		c.conn = nil
	}
}

func (w *world) String() string { return fmt.Sprintf("seed %d", w.p.seed) }
