package model_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/comet"
	"imgo/roles/job"
	"imgo/roles/logic"
	"imgo/roles/logic/auth"
	"imgo/store"
	"imgo/transport"
	"imgo/transport/pipe"
)

// Rooms (docs/adr/0005-rooms.md): a client that was told that it has joined gets
// every message that is pushed to the room from then on. A comet without members
// of the room is left out. That holds whatever is late, wherever a partition
// moves, and although comets die and come back under their name.

const roomPartitions = 2

var rooms = []string{"r0", "r1", "r2"}

// roomWorld is two comets, two jobs that share the live topic, one logic, and
// clients that come, join, leave and go.
type roomWorld struct {
	t      *testing.T
	dice   *dice
	live   *store.LiveLog
	kept   *store.LiveLog // nothing is kept here
	logic  *logic.Logic
	shares *shares
	late   sync.WaitGroup

	mu     sync.Mutex
	comets map[string]*roomComet
	pushed map[string][]*roomPush // of each room, in the order that they began

	told, empty atomic.Int64 // room deliveries, and those of them that found no member
}

type roomPush struct {
	id       int
	accepted bool
}

// roomComet is one incarnation of a comet.
type roomComet struct {
	comet.Logic // nil: the comet makes no other calls than those below

	w    *roomWorld
	c    *comet.Comet
	dead atomic.Bool
	stop func()
}

func (w *roomWorld) jitter(max time.Duration) {
	if w.dice.n(3) == 0 {
		time.Sleep(time.Duration(w.dice.n(int(max))))
	}
}

// cometUp starts a comet; one that has the name is dead from then on, though
// what it had begun may still arrive.
func (w *roomWorld) cometUp(name string) {
	n := &roomComet{w: w}
	cfg := comet.DefaultConfig()
	cfg.Name, cfg.DrainRate, cfg.DeniedRooms = name, 1e6, 2
	cfg.CallTimeout, cfg.CloseTimeout = 10*time.Second, 300*time.Millisecond
	var err error
	n.c, err = comet.New(cfg, n, zerolog.Nop(), nil)
	if err != nil {
		w.t.Error(err)
		return
	}
	w.mu.Lock()
	old := w.comets[name]
	w.comets[name] = n
	w.mu.Unlock()
	if old != nil {
		old.dead.Store(true)
		w.late.Go(old.stop)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.c.Run(ctx) }()
	n.stop = func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("comet ended with %v", err)
		}
	}
}

func (w *roomWorld) comet(name string) *roomComet {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.comets[name]
}

// Comet's way to logic.

func (n *roomComet) Connect(_ context.Context, r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
	return &envelope.ConnectReply{User: r.Token, Backlog: &envelope.Backlog{}}, nil
}
func (n *roomComet) CatchUp(context.Context, *envelope.CatchUpRequest) error { return nil }

func (n *roomComet) Ack(context.Context, *envelope.AckRequest) (*envelope.PartsReply, error) {
	return &envelope.PartsReply{}, nil
}

func (n *roomComet) Detach(context.Context, *envelope.DetachRequest) (*envelope.PartsReply, error) {
	return &envelope.PartsReply{}, nil
}

func (n *roomComet) Announce(context.Context, *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
	return &envelope.AnnounceReply{}, nil
}

func (n *roomComet) Join(context.Context, *envelope.JoinRequest) (*envelope.JoinReply, error) {
	return &envelope.JoinReply{}, nil
}

func (n *roomComet) RoomOpened(ctx context.Context, r *envelope.RoomOpened) error {
	n.w.jitter(3 * time.Millisecond)
	if n.dead.Load() || n.w.dice.n(10) == 0 {
		return envelope.ErrUnavailable
	}
	n.w.jitter(3 * time.Millisecond) // it may die while logic writes
	err := n.w.logic.RoomOpened(ctx, r)
	if n.w.dice.n(10) == 0 {
		return envelope.ErrUnavailable // though the log has it
	}
	return err
}

// roomLink is job's way to whatever comet has the name.
type roomLink struct {
	w    *roomWorld
	name string
}

func (l roomLink) Push(ctx context.Context, req *envelope.PushRequest) (*envelope.PushReply, error) {
	n := l.w.comet(l.name)
	l.w.jitter(2 * time.Millisecond)
	reply, err := n.c.Push(ctx, req)
	if err != nil {
		return nil, err
	}
	l.w.told.Add(int64(len(req.Deliveries)))
	l.w.empty.Add(int64(len(reply.EmptyRooms)))
	l.w.jitter(8 * time.Millisecond) // it may be old by the time that it arrives
	return reply, nil
}

func (w *roomWorld) Comet(name string) job.Comet     { return roomLink{w, name} }
func (w *roomWorld) Names() []string                 { return []string{"c0", "c1"} }
func (w *roomWorld) All() map[string]logic.Comet     { return nil }
func (w *roomWorld) Owner(int32) (job.Router, error) { return nil, envelope.ErrUnavailable }

type noRouters struct{}

func (noRouters) Owner(int32) (logic.Router, error) { return nil, envelope.ErrUnavailable }
func (noRouters) All() []logic.Router               { return nil }
func (noRouters) Partitions() int32                 { return roomPartitions }

// noKept is a kept topic that is never written.
type noKept struct{ *store.LiveLog }

func (noKept) AppendEssential(context.Context, int32, []byte) (int64, error) {
	return 0, envelope.ErrUnavailable
}

type noTokens struct{ logic.TokenStore }

// shares are the live partitions as two jobs share them: each has one job or,
// for a moment, both. Positions only grow.
type shares struct {
	mu   sync.Mutex
	next [roomPartitions]int64
	of   [roomPartitions]int
	turn chan struct{} // closed when of changes
}

type sharer struct {
	*shares
	me   int
	seen chan struct{}
}

func (s *sharer) Next(ctx context.Context) (job.Assignment, error) {
	s.mu.Lock()
	turn := s.turn
	s.mu.Unlock()
	if s.seen == turn {
		select {
		case <-turn:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = s.turn
	a := &share{shares: s.shares, done: s.turn}
	for p, who := range s.of {
		if who == s.me {
			a.parts = append(a.parts, job.Part{Topic: job.Live, Partition: int32(p), Next: s.next[p]})
		}
	}
	return a, nil
}

type share struct {
	*shares
	parts []job.Part
	done  chan struct{}
}

func (a *share) Parts() []job.Part     { return a.parts }
func (a *share) Done() <-chan struct{} { return a.done }
func (a *share) Commit(_ context.Context, at []job.Part) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range at {
		a.next[p.Partition] = max(a.next[p.Partition], p.Next)
	}
	return nil
}

// move gives a partition to the other job.
func (s *shares) move(p int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of[p] = 1 - s.of[p]
	close(s.turn)
	s.turn = make(chan struct{})
}

func (w *roomWorld) push(room string) {
	w.mu.Lock()
	p := &roomPush{id: len(w.pushed[room])}
	w.pushed[room] = append(w.pushed[room], p)
	w.mu.Unlock()
	_, err := w.logic.Push(context.Background(), &logic.PushCommand{Room: room, Op: 5, Body: fmt.Appendf(nil, "%s/%d", room, p.id)})
	if err != nil {
		w.t.Error(err)
		return
	}
	w.mu.Lock()
	p.accepted = true
	w.mu.Unlock()
}

// pushes is how many pushes to a room have begun.
func (w *roomWorld) pushes(room string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.pushed[room])
}

// roomClient is one connection.
type roomClient struct {
	w    *roomWorld
	conn *pipe.Client
	gone chan struct{} // closed when the connection has ended

	mu   sync.Mutex
	got  map[string]bool
	news chan struct{} // has a value when something came
	auth chan struct{}
	// joined is answered with the rooms that were joined.
	joined chan string
	since  map[string]int // the rooms that it is in: the first push that must come
}

func (w *roomWorld) connect(at string, first []string) *roomClient {
	end, conn := pipe.New(pipe.Options{})
	c := &roomClient{w: w, conn: end, gone: make(chan struct{}), got: map[string]bool{}, news: make(chan struct{}, 1),
		auth: make(chan struct{}), joined: make(chan string, 1), since: map[string]int{}}
	w.comet(at).c.Serve(conn)
	w.late.Go(c.receive)
	body, _ := json.Marshal(map[string]any{"token": "u", "rooms": first})
	_ = end.Send(transport.Packet{Version: 2, Op: protocol.OpAuth, Seq: 1, Body: body})
	select {
	case <-c.auth:
		for _, room := range first {
			c.since[room] = w.pushes(room)
		}
	case <-c.gone:
	}
	return c
}

func (c *roomClient) receive() {
	defer close(c.gone)
	defer c.conn.Close()
	for {
		p, err := c.conn.Receive()
		if err != nil {
			return
		}
		switch p.Op {
		case protocol.OpAuthReply:
			close(c.auth)
		case protocol.OpJoinRoomReply:
			c.joined <- string(p.Body)
		case protocol.OpMessage:
			c.mu.Lock()
			c.got[string(p.Body)] = true
			c.mu.Unlock()
			select {
			case c.news <- struct{}{}:
			default:
			}
		}
	}
}

func (c *roomClient) join(room string) {
	_ = c.conn.Send(transport.Packet{Version: 2, Op: protocol.OpJoinRoom, Seq: 2, Body: []byte(room)})
	select {
	case <-c.joined:
		c.since[room] = c.w.pushes(room)
	case <-c.gone:
	}
}

// missing is what a member of room should have got by now.
func (c *roomClient) missing(room string) []string {
	c.w.mu.Lock()
	var want []string
	for _, p := range c.w.pushed[room][c.since[room]:] {
		if p.accepted {
			want = append(want, fmt.Sprintf("%s/%d", room, p.id))
		}
	}
	c.w.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, body := range want {
		if !c.got[body] {
			out = append(out, body)
		}
	}
	return out
}

var errMissed = errors.New("a member missed messages of the room")

// awaitMessages waits until nothing is missing of what was pushed to room before now.
func (c *roomClient) awaitMessages(room string, limit time.Duration) error {
	want := c.missing(room)
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		c.mu.Lock()
		n := 0
		for _, body := range want {
			if !c.got[body] {
				want[n] = body
				n++
			}
		}
		want = want[:n]
		c.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-c.news:
		case <-c.gone:
			return nil // it is not a member any more
		case <-timer.C:
			return fmt.Errorf("%w: %v", errMissed, want)
		}
	}
}

// live is what a client does with its connection, for a while.
func (c *roomClient) act(limit time.Duration) error {
	for range 1 + c.w.dice.n(6) {
		room := rooms[c.w.dice.n(len(rooms))]
		if _, in := c.since[room]; !in {
			c.join(room)
		}
		c.w.jitter(10 * time.Millisecond)
		if _, in := c.since[room]; !in {
			return nil // the connection has ended
		}
		if err := c.awaitMessages(room, limit); err != nil {
			return err
		}
		if c.w.dice.n(2) == 0 {
			_ = c.conn.Send(transport.Packet{Version: 2, Op: protocol.OpLeaveRoom, Seq: 3, Body: []byte(room)})
			delete(c.since, room)
		}
	}
	for room := range c.since {
		if err := c.awaitMessages(room, limit); err != nil {
			return err
		}
	}
	return nil
}

func runRooms(t *testing.T, seed uint64, length, limit time.Duration) {
	w := &roomWorld{t: t, dice: newDice(seed), comets: map[string]*roomComet{}, pushed: map[string][]*roomPush{},
		shares: &shares{turn: make(chan struct{})}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	spawn := func(run func(context.Context) error) (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- run(ctx) }()
		return func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("ended with %v", err)
			}
		}
	}
	var err error
	w.live, err = store.NewLiveLog(store.LiveOptions{Partitions: roomPartitions, MaxBytes: 4 << 20})
	must(err)
	w.kept, err = store.NewLiveLog(store.LiveOptions{Partitions: roomPartitions, MaxBytes: 4 << 20})
	must(err)
	stopLive := spawn(w.live.Run)
	stopKept := spawn(w.kept.Run)
	lcfg := logic.DefaultConfig()
	lcfg.Auth.Mode = auth.ModeNone
	w.logic, err = logic.New(lcfg, logic.Deps{
		Routers: noRouters{}, Kept: noKept{w.kept}, Live: w.live, Comets: w, Tokens: noTokens{}, Log: zerolog.Nop(),
	})
	must(err)
	stopLogic := spawn(w.logic.Run)
	var stopJobs []func()
	reg := prometheus.NewRegistry()
	for i := range 2 {
		j, err := job.New(t.Context(), job.DefaultConfig(), job.Deps{
			Kept: noKept{w.kept}, Live: w.live, Owners: w, Comets: w, Group: &sharer{shares: w.shares, me: i}, Log: zerolog.Nop(),
			Metrics: prometheus.WrapRegistererWith(prometheus.Labels{"job": strconv.Itoa(i)}, reg)})
		must(err)
		stopJobs = append(stopJobs, spawn(j.Run))
	}
	for _, name := range w.Names() {
		w.cometUp(name)
	}

	over := make(chan struct{})
	ended := func() bool {
		select {
		case <-over:
			return true
		default:
			return false
		}
	}
	var failed atomic.Value
	var running sync.WaitGroup
	for range 4 { // clients
		running.Go(func() {
			for !ended() && failed.Load() == nil {
				var first []string
				if w.dice.n(2) == 0 {
					first = []string{rooms[w.dice.n(len(rooms))]}
				}
				c := w.connect("c"+strconv.Itoa(w.dice.n(2)), first)
				if err := c.act(limit); err != nil {
					failed.Store(err)
				}
				_ = c.conn.Close()
				<-c.gone
			}
		})
	}
	for range 2 { // callers
		running.Go(func() {
			for !ended() {
				w.push(rooms[w.dice.n(len(rooms))])
				time.Sleep(time.Duration(w.dice.n(2000)) * time.Microsecond) // the world's own pace
			}
		})
	}
	running.Go(func() { // fate
		for !ended() {
			time.Sleep(time.Duration(10+w.dice.n(60)) * time.Millisecond)
			switch w.dice.n(3) {
			case 0:
				w.cometUp("c" + strconv.Itoa(w.dice.n(2)))
			default:
				w.shares.move(w.dice.n(roomPartitions))
			}
		}
	})
	timer := time.AfterFunc(length, func() { close(over) })
	defer timer.Stop()
	running.Wait()

	w.mu.Lock()
	last := []*roomComet{w.comets["c0"], w.comets["c1"]}
	n := 0
	for _, list := range w.pushed {
		n += len(list)
	}
	w.mu.Unlock()
	for _, n := range last {
		n.stop()
	}
	w.late.Wait()
	for _, stop := range stopJobs {
		stop()
	}
	stopLogic()
	stopLive()
	stopKept()
	if err, ok := failed.Load().(error); ok {
		t.Fatal(err)
	}
	t.Logf("%d pushes; comets were told of %d and had no member for %d", n, w.told.Load(), w.empty.Load())
	if spared(t, reg) == 0 {
		t.Error("no comet was left out of anything")
	}
}

// spared is how many deliveries comets were left out of.
func spared(t *testing.T, reg *prometheus.Registry) (n float64) {
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == "imgo_job_spared_deliveries_total" {
				n += m.Counter.GetValue()
			}
		}
	}
	return n
}

func TestRoomMembersGetEverything(t *testing.T) {
	for seed := range runs(t, 6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { runRooms(t, uint64(seed), 1500*time.Millisecond, 20*time.Second) })
		})
	}
}
