package job_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"imgo/envelope"
	"imgo/roles/job"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// topic is a log in memory. Tests move begin, as retention does.
type topic struct {
	mu    sync.Mutex
	begin int64
	parts [][]envelope.Entry
	grown chan struct{}
}

func newTopic(n int) *topic {
	return &topic{parts: make([][]envelope.Entry, n), grown: make(chan struct{})}
}

func (l *topic) Partitions() int32  { return int32(len(l.parts)) }
func (l *topic) Generation() uint16 { return 1 }

func (l *topic) add(t *testing.T, p int32, m interface{ MarshalVT() ([]byte, error) }) int64 {
	t.Helper()
	v, err := m.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	return l.addRaw(p, v)
}

func (l *topic) addRaw(p int32, v []byte) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	off := int64(len(l.parts[p]))
	l.parts[p] = append(l.parts[p], envelope.Entry{Partition: p, Offset: off, Value: v})
	close(l.grown)
	l.grown = make(chan struct{})
	return off
}

func (l *topic) Read(ctx context.Context, p int32, from int64, _ int) ([]envelope.Entry, error) {
	for {
		l.mu.Lock()
		begin, all, grown := l.begin, l.parts[p], l.grown
		l.mu.Unlock()
		if from < begin || from > max(begin, int64(len(all))) {
			return nil, envelope.ErrOutOfRange
		}
		if from < int64(len(all)) {
			return all[from : from+1], nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *topic) Bounds(_ context.Context, p int32) (int64, int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.begin, max(l.begin, int64(len(l.parts[p]))), nil
}

// owner is an owner whose answers the test defines.
type owner struct {
	mu      sync.Mutex
	resolve func(*envelope.ResolveRequest) (*envelope.ResolveReply, error)
	asked   int
}

func (o *owner) Owner(int32) (job.Router, error) { return o, nil }

func (o *owner) Resolve(_ context.Context, req *envelope.ResolveRequest) (*envelope.ResolveReply, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked++
	return o.resolve(req)
}

// ResolveNow makes the owner one that answers from memory.
func (o *owner) ResolveNow(req *envelope.ResolveRequest) (*envelope.ResolveReply, bool) {
	reply, err := o.Resolve(context.Background(), req)
	return reply, err == nil
}

// everyone resolves each record to session 1 of each named comet.
func everyone(comets ...string) func(*envelope.ResolveRequest) (*envelope.ResolveReply, error) {
	return func(req *envelope.ResolveRequest) (*envelope.ResolveReply, error) {
		reply := &envelope.ResolveReply{}
		for _, item := range req.Items {
			r := &envelope.Resolved{}
			for _, c := range comets {
				r.To = append(r.To, &envelope.ResolvedTarget{To: &envelope.Address{Comet: c, Session: 1}, Prev: item.Id - 1})
			}
			reply.Items = append(reply.Items, r)
		}
		return reply, nil
	}
}

// comet records its deliveries.
type comet struct {
	mu        sync.Mutex
	got       []string
	block     func(ctx context.Context) error
	reply     func(*envelope.PushRequest) *envelope.PushReply
	successor *comet // the comet that has the name now; nil: this one
}

func (c *comet) Push(ctx context.Context, req *envelope.PushRequest) (*envelope.PushReply, error) {
	if c.block != nil {
		if err := c.block(ctx); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	for _, d := range req.Deliveries {
		c.got = append(c.got, describe(d))
	}
	reply := c.reply
	c.mu.Unlock()
	if reply == nil {
		return &envelope.PushReply{}, nil
	}
	return reply(req), nil
}

func (c *comet) setReply(reply func(*envelope.PushRequest) *envelope.PushReply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reply = reply
}

// current returns the comet that has the name now.
func (c *comet) current() *comet {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.successor != nil {
		return c.successor
	}
	return c
}

func (c *comet) replace() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.successor = &comet{}
}

func (c *comet) all() string {
	c = c.current()
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.got, " ")
}

func describe(d *envelope.Delivery) string {
	switch {
	case d.Backlog != nil:
		return fmt.Sprintf("backlog:%d", d.Backlog.To.Session)
	case d.Kick != nil:
		return fmt.Sprintf("kick:%d:%d", d.Kick.Code, len(d.Kick.To))
	case d.Dismiss != nil:
		return fmt.Sprintf("dismiss:%v:%d:%d", d.Dismiss.Ids, d.Dismiss.UpTo, len(d.Dismiss.To))
	case d.Nudge != nil:
		return fmt.Sprintf("nudge:%d", len(d.Nudge.To))
	case d.All:
		return "all:" + string(d.Body)
	case d.Room != "":
		return "room=" + d.Room + ":" + string(d.Body)
	}
	out := string(d.Body)
	for _, to := range d.To {
		out += fmt.Sprintf("/%d", to.Session)
		if d.Id != 0 {
			out += fmt.Sprintf("<%d", d.Id-to.Prev)
		}
	}
	return out
}

type comets map[string]*comet

func (c comets) Comet(name string) job.Comet {
	if x, ok := c[name]; ok {
		return x.current()
	}
	return nil
}

func (c comets) Names() []string { return []string{"a", "b"} }

// world is a job with everything around it.
type world struct {
	t          *testing.T
	kept, live *topic
	owner      *owner
	comets     comets
	reg        *prometheus.Registry
	stop       func()
}

func start(t *testing.T, change func(*job.Config, *job.Deps)) *world {
	w := newWorld(t, "a", "b")
	w.run(change)
	return w
}

// newWorld returns the surroundings of a job with some comets, each of which gets every
// kept record.
func newWorld(t *testing.T, names ...string) *world {
	w := &world{t: t, kept: newTopic(2), live: newTopic(1), owner: &owner{resolve: everyone(names...)},
		comets: make(comets), reg: prometheus.NewRegistry()}
	for _, name := range names {
		w.comets[name] = &comet{}
	}
	return w
}

func (w *world) run(change func(*job.Config, *job.Deps)) {
	cfg := job.DefaultConfig()
	d := job.Deps{Kept: w.kept, Live: w.live, Owners: w.owner, Comets: w.comets, Log: zerolog.Nop(), Metrics: w.reg}
	if change != nil {
		change(&cfg, &d)
	}
	j, err := job.New(context.Background(), cfg, d)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- j.Run(ctx) }()
	var once sync.Once
	w.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				w.t.Errorf("job ended with %v", err)
			}
		})
	}
	w.t.Cleanup(w.stop)
}

func push(body string, users ...string) *envelope.Record {
	return &envelope.Record{Id: envelope.NewRecordID(), Push: &envelope.Push{Users: users, Op: 5, Body: []byte(body)}}
}

func (w *world) eventually(comet, want string) {
	w.t.Helper()
	got := ""
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if got = w.comets[comet].all(); got == want {
			return
		}
	}
	w.t.Fatalf("comet %s got %q, want %q", comet, got, want)
}

func (w *world) counter(name, label string) (n float64) {
	w.t.Helper()
	families, err := w.reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == name && (label == "" || m.Label[0].GetValue() == label) {
				n += m.Counter.GetValue()
			}
		}
	}
	return n
}

func TestKeptInOrderToEachComet(t *testing.T) {
	w := start(t, nil)
	w.kept.add(t, 0, push("1", "u"))
	w.kept.add(t, 0, &envelope.Record{Acks: &envelope.Acks{}})
	w.kept.add(t, 0, push("2", "u", "v"))
	w.kept.add(t, 0, push("3", "u"))
	w.eventually("a", "1/1<1 2/1<1 3/1<1")
	w.eventually("b", "1/1<1 2/1<1 3/1<1")
}

func TestLive(t *testing.T) {
	w := start(t, nil)
	to := func(comet string, s uint64) *envelope.Address { return &envelope.Address{Comet: comet, Session: s} }
	for _, e := range []*envelope.Envelope{
		{Message: &envelope.Message{Op: 5, Body: []byte("m"), To: []*envelope.Address{to("a", 1), to("b", 2), to("a", 3), to("gone", 4)}}},
		{Message: &envelope.Message{Op: 5, Body: []byte("r"), Room: "x"}},
		{Message: &envelope.Message{Op: 5, Body: []byte("e"), All: true}},
		{Backlog: &envelope.Backlog{To: to("a", 7)}},
		{Kick: &envelope.Kick{To: []*envelope.Address{to("a", 1), to("b", 2), to("a", 3)}, Code: 3506}},
		{Dismiss: &envelope.Dismiss{To: []*envelope.Address{to("a", 1), to("b", 2), to("a", 3), to("gone", 4)}, Ids: []uint64{7, 8}, UpTo: 5}},
		{Nudge: &envelope.Nudge{To: []*envelope.NudgeTarget{{To: to("b", 2)}, {}}}},
		{}, // an envelope of a newer version
	} {
		w.live.add(t, 0, e)
	}
	w.eventually("a", "m/1/3 room=x:r all:e backlog:7 kick:3506:2 dismiss:[7 8]:5:2")
	w.eventually("b", "m/2 room=x:r all:e kick:3506:1 dismiss:[7 8]:5:1 nudge:1")
	if n := w.counter("imgo_job_skipped_deliveries_total", "gone"); n != 2 {
		t.Errorf("%v deliveries were counted as gone", n)
	}
}

func TestStartsAtTheEndOrAtItsPosition(t *testing.T) {
	w := newWorld(t, "a")
	w.kept.add(t, 0, push("old", "u"))
	w.run(nil)
	w.kept.add(t, 0, push("new", "u"))
	w.eventually("a", "new/1<1")
	w.stop()

	g := newGroup(part(job.Kept, 0, 1), part(job.Kept, 1, 0), part(job.Live, 0, 0))
	w.comets["a"], w.reg = &comet{}, prometheus.NewRegistry()
	w.run(func(_ *job.Config, d *job.Deps) { d.Group = g })
	w.eventually("a", "new/1<1")
	w.stop()
	if got := g.at(job.Kept, 0); got != 2 {
		t.Errorf("the position is %d, want 2", got)
	}
}

func TestAsksAnOwnerAgain(t *testing.T) {
	w := start(t, nil)
	w.owner.mu.Lock()
	fails := 3
	answer := everyone("a")
	w.owner.resolve = func(req *envelope.ResolveRequest) (*envelope.ResolveReply, error) {
		if req.Partition == 0 && fails > 0 {
			fails--
			return nil, envelope.ErrNotReady
		}
		return answer(req)
	}
	w.owner.mu.Unlock()
	w.kept.add(t, 0, push("1", "u"))
	w.kept.add(t, 0, push("2", "u"))
	w.eventually("a", "1/1<1 2/1<1")
	if n := w.counter("imgo_job_retries_total", ""); n != 3 {
		t.Errorf("%v retries were counted", n)
	}
}

func TestUnreadableAndTrimmedAreSkippedAndCounted(t *testing.T) {
	w := newWorld(t, "a")
	for range 3 {
		w.kept.add(t, 0, push("trimmed", "u"))
	}
	w.kept.addRaw(0, []byte{0xff})
	w.kept.add(t, 0, push("1", "u"))
	w.kept.begin = 3
	w.run(func(_ *job.Config, d *job.Deps) {
		d.Group = newGroup(part(job.Kept, 0, 0), part(job.Kept, 1, 3))
	})
	w.eventually("a", "1/1<1")
	for reason, want := range map[string]float64{"trimmed": 3, "unreadable": 1} {
		if n := w.counter("imgo_job_skipped_records_total", reason); n != want {
			t.Errorf("%v records %s, want %v", n, reason, want)
		}
		if n := w.counter("imgo_job_skipped_deliveries_total", reason); n != 0 {
			t.Errorf("%v records that are %s are counted as deliveries", n, reason)
		}
	}
}

// TestAncestorBug15_HungCometDelaysNobody shows that a hanging comet does not delay another
// one.
func TestAncestorBug15_HungCometDelaysNobody(t *testing.T) {
	w := start(t, func(c *job.Config, _ *job.Deps) { c.PushTimeout, c.QueueBytes = time.Hour, 2000 })
	w.comets["a"].block = func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	var want []string
	for i := range 100 {
		w.kept.add(t, 0, push(fmt.Sprint(i), "u"))
		want = append(want, fmt.Sprintf("%d/1<1", i))
		w.eventually("b", strings.Join(want, " "))
	}
	if n := w.counter("imgo_job_skipped_deliveries_total", "slow"); n == 0 {
		t.Error("nothing was counted as skipped though the queue is bounded")
	}
}

// TestAllOfADeliveryIsCounted shows that the queue's bound counts what a delivery has beside a body.
func TestAllOfADeliveryIsCounted(t *testing.T) {
	var to []*envelope.Address
	var targets []*envelope.NudgeTarget
	for i := range uint64(100) {
		to = append(to, &envelope.Address{Comet: "a", Session: i + 1})
		targets = append(targets, &envelope.NudgeTarget{To: to[i], Newest: 1})
	}
	rooms := &envelope.Memberships{Rooms: []string{strings.Repeat("r", 500)}}
	for name, e := range map[string]*envelope.Envelope{
		"kick":          {Kick: &envelope.Kick{To: to}},
		"nudge":         {Nudge: &envelope.Nudge{To: targets}},
		"dismiss":       {Dismiss: &envelope.Dismiss{To: to[:1], Ids: make([]uint64, 500)}},
		"session rooms": {SessionRooms: &envelope.SessionRooms{To: to[:1], Rooms: rooms}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, func(c *job.Config, _ *job.Deps) { c.PushTimeout, c.QueueBytes = time.Hour, 600 })
			w.comets["a"].block = func(ctx context.Context) error {
				<-ctx.Done()
				return ctx.Err()
			}
			for range 4 { // one is under way, or waits for it to be
				w.live.add(t, 0, e)
			}
			eventually(t, "deliveries are skipped", func() bool { return w.counter("imgo_job_skipped_deliveries_total", "slow") > 0 })
		})
	}
}

// TestCometReplacedDuringAPush shows that a comet that replaces one of the same name does not
// wait until the push to the old one times out. It gets the deliveries that were queued.
func TestCometReplacedDuringAPush(t *testing.T) {
	w := start(t, func(c *job.Config, _ *job.Deps) { c.PushTimeout = time.Hour })
	called := make(chan struct{})
	w.comets["a"].block = func(ctx context.Context) error {
		close(called)
		<-ctx.Done()
		return ctx.Err()
	}
	w.kept.add(t, 0, push("1", "u"))
	<-called
	w.kept.add(t, 0, push("2", "u"))
	w.eventually("b", "1/1<1 2/1<1")
	w.comets["a"].replace()
	w.eventually("a", "2/1<1")
	if n := w.counter("imgo_job_skipped_deliveries_total", "failed"); n != 1 {
		t.Errorf("%v deliveries were counted as failed, want the one to the old comet", n)
	}
}

func TestFailingCometIsCounted(t *testing.T) {
	w := start(t, nil)
	w.comets["a"].block = func(context.Context) error { return errors.New("no") }
	w.kept.add(t, 0, push("1", "u"))
	w.eventually("b", "1/1<1")
	for end := time.Now().Add(time.Minute); w.counter("imgo_job_skipped_deliveries_total", "failed") != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the failed delivery was not counted")
		}
	}
}
