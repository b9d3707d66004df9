package router_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"imgo/envelope"
	"imgo/roles/router"
	"imgo/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memLog is a topic in memory that keeps everything.
type memLog struct {
	mu      sync.Mutex
	parts   [][]envelope.Entry
	grown   chan struct{}
	appends int
	fail    error
}

func newMemLog(partitions int) *memLog {
	return &memLog{parts: make([][]envelope.Entry, partitions), grown: make(chan struct{})}
}

func (l *memLog) Partitions() int32  { return int32(len(l.parts)) }
func (l *memLog) Generation() uint16 { return 1 }

func (l *memLog) Append(_ context.Context, p int32, v []byte) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return 0, l.fail
	}
	off := int64(len(l.parts[p]))
	l.parts[p] = append(l.parts[p], envelope.Entry{Partition: p, Offset: off, Value: v})
	l.appends++
	close(l.grown)
	l.grown = make(chan struct{})
	return off, nil
}

func (l *memLog) AppendEssential(ctx context.Context, p int32, v []byte) (int64, error) {
	return l.Append(ctx, p, v)
}

func (l *memLog) Read(ctx context.Context, p int32, from int64, _ int) ([]envelope.Entry, error) {
	for {
		l.mu.Lock()
		got, grown := l.parts[p][from:], l.grown
		l.mu.Unlock()
		if len(got) > 0 {
			return got, nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *memLog) Bounds(_ context.Context, p int32) (int64, int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return 0, int64(len(l.parts[p])), nil
}

// clock is a wall clock that a test moves.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// world is one router with all it stands on.
type world struct {
	t          *testing.T
	cfg        router.Config
	dir        string
	kept, live *memLog
	clock      *clock
	db         *store.DB
	r          *router.Router
	stop       func()

	mu     sync.Mutex
	events []string
}

func newWorld(t *testing.T, change func(*router.Config)) *world {
	cfg := router.DefaultConfig()
	cfg.FlushInterval = time.Hour
	cfg.WatchInterval = 5 * time.Millisecond
	if change != nil {
		change(&cfg)
	}
	w := &world{t: t, cfg: cfg, dir: t.TempDir(), kept: newMemLog(2), live: newMemLog(1), clock: &clock{t: time.Now()}}
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

func (w *world) start() {
	w.t.Helper()
	db, err := store.Open(store.Options{Dir: w.dir, Reserve: -1, Log: zerolog.Nop()})
	if err != nil {
		w.t.Fatal(err)
	}
	r, err := router.New(w.cfg, router.Deps{
		Kept: w.kept, Live: w.live, Store: store.NewMailboxes(db), Log: zerolog.Nop(), Now: w.clock.now,
		Events: func(kind, user, _ string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, kind+" "+user)
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	w.db, w.r = db, r
	eventually(w.t, "the router has found its place", func() bool { return r.Ready() == nil })
	w.stop = func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("router ended with %v", err)
		}
		if err := db.Close(); err != nil {
			w.t.Errorf("close store: %v", err)
		}
		w.stop = func() {}
	}
}

func (w *world) restart() {
	w.t.Helper()
	w.stop()
	w.start()
}

// eventually polls a condition, for at most ten seconds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

func (w *world) append(user string, rec *envelope.Record) uint64 {
	w.t.Helper()
	if rec.Id == nil {
		rec.Id = envelope.NewRecordID()
	}
	rec.TimeMs = w.clock.now().UnixMilli()
	v, err := rec.MarshalVT()
	if err != nil {
		w.t.Fatal(err)
	}
	off, err := w.kept.Append(context.Background(), envelope.Partition(user, 2), v)
	if err != nil {
		w.t.Fatal(err)
	}
	return envelope.ID(1, off)
}

func (w *world) push(user, body string) uint64 {
	w.t.Helper()
	return w.append(user, &envelope.Record{Push: &envelope.Push{
		Users: []string{user}, Op: 5, Body: []byte(body), ExpiresMs: w.clock.now().Add(time.Hour).UnixMilli(),
	}})
}

func (w *world) ack(user, device string, ids ...uint64) {
	w.t.Helper()
	id := w.append(user, &envelope.Record{Acks: &envelope.Acks{Acks: []*envelope.Ack{{User: user, Device: device, Ids: ids}}}})
	w.applied(user, id)
}

// applied waits until the router has applied a record.
func (w *world) applied(user string, id uint64) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := w.r.Resolve(ctx, &envelope.ResolveRequest{Partition: uint32(envelope.Partition(user, 2)), Items: []*envelope.ResolveItem{{Id: id}}}); err != nil {
		w.t.Fatal(err)
	}
}

func session(comet string, id uint64, user, device string) *envelope.Session {
	return &envelope.Session{Address: &envelope.Address{Comet: comet, Session: id}, User: user, Device: device}
}

func (w *world) attach(s *envelope.Session) *envelope.AttachReply {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	reply, err := w.r.Attach(ctx, &envelope.AttachRequest{Session: s})
	if err != nil {
		w.t.Fatal(err)
	}
	return reply
}

func (w *world) detach(s *envelope.Session) {
	w.t.Helper()
	if err := w.r.Detach(context.Background(), &envelope.DetachRequest{Sessions: []*envelope.Detached{{Session: s.Address, User: s.User, Device: s.Device}}}); err != nil {
		w.t.Fatal(err)
	}
}

func bodies(b *envelope.Backlog) string {
	out := ""
	for _, m := range b.Messages {
		out += string(m.Body)
	}
	return out
}

func (w *world) resolve(user string, id uint64) string {
	w.t.Helper()
	reply, err := w.r.Resolve(context.Background(), &envelope.ResolveRequest{
		Partition: uint32(envelope.Partition(user, 2)), Items: []*envelope.ResolveItem{{Id: id, Users: []string{user}}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	out := ""
	for _, to := range reply.Items[0].To {
		_, prev := envelope.SplitID(to.Prev)
		if to.Prev == 0 {
			prev = -1
		}
		out += fmt.Sprintf("%s/%d prev %d;", to.Comet, to.Session, prev)
	}
	return out
}

func TestCoverage(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%v", restart), func(t *testing.T) {
			w := newWorld(t, nil)
			step := func() {
				if restart {
					w.restart()
				}
			}
			a := w.push("u", "a")
			step()
			// The first device takes over what waited for anybody.
			phone := session("c", 1, "u", "phone")
			if got := bodies(w.attach(phone).Backlog); got != "a" {
				t.Fatalf("the first device got %q", got)
			}
			b := w.push("u", "b")
			w.ack("u", "phone", a)
			step()
			// A new device starts with what no device has acknowledged.
			laptop := session("c", 2, "u", "laptop")
			if got := bodies(w.attach(laptop).Backlog); got != "b" {
				t.Fatalf("the second device got %q", got)
			}
			w.ack("u", "phone", b)
			step()
			if got := bodies(w.attach(laptop).Backlog); got != "b" {
				t.Fatalf("after the phone's acknowledgement the laptop has %q", got)
			}
			if got := bodies(w.attach(phone).Backlog); got != "" {
				t.Fatalf("after its acknowledgement the phone has %q", got)
			}
			// A session without a device is one more device from then on.
			plain := session("c", 3, "u", "")
			if got := bodies(w.attach(plain).Backlog); got != "" {
				t.Fatalf("the default cursor starts with %q", got)
			}
			c := w.push("u", "c")
			w.ack("u", "phone", c)
			w.ack("u", "laptop", b, c)
			step()
			if got := bodies(w.attach(plain).Backlog); got != "c" {
				t.Fatalf("the default cursor has %q", got)
			}
			w.ack("u", "", c)
			step()
			u, err := w.r.User(context.Background(), &envelope.UserRequest{User: "u"})
			if err != nil || u.Pending != 0 || len(u.Devices) != 3 {
				t.Fatalf("at the end: %v, %v", u, err)
			}
		})
	}
}

func TestAcksAreExact(t *testing.T) {
	w := newWorld(t, nil)
	s := session("c", 1, "u", "d")
	w.attach(s)
	ids := []uint64{w.push("u", "a"), w.push("u", "b"), w.push("u", "c")}
	w.ack("u", "d", ids[1])
	w.ack("u", "stranger", ids[0])
	w.ack("nobody", "d", ids[0])
	if got := bodies(w.attach(s).Backlog); got != "ac" {
		t.Fatalf("pending: %q, want ac", got)
	}
	id := w.append("u", &envelope.Record{Acks: &envelope.Acks{Acks: []*envelope.Ack{{User: "u", Device: "d", UpTo: ids[0]}}}})
	w.applied("u", id)
	if got := bodies(w.attach(s).Backlog); got != "c" {
		t.Fatalf("pending: %q, want c", got)
	}
}

func TestWindows(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.WindowMessages = 2 })
	s := session("c", 1, "u", "d")
	w.attach(s)
	var last uint64
	for i := range 5 {
		last = w.push("u", fmt.Sprint(i))
	}
	w.applied("u", last)
	after, got := uint64(0), ""
	for i := 0; ; i++ {
		b, err := w.r.CatchUp(context.Background(), &envelope.CatchUpRequest{To: s.Address, User: "u", Device: "d", After: after})
		if err != nil {
			t.Fatal(err)
		}
		if len(b.Messages) > 2 || b.After != after {
			t.Fatalf("window %v", b)
		}
		got += bodies(b)
		if n := len(b.Messages); n > 0 {
			after = b.Messages[n-1].Id
		}
		if !b.More {
			if b.UpTo != last || i != 2 {
				t.Fatalf("ended with %v after %d windows", b, i)
			}
			break
		}
	}
	if got != "01234" {
		t.Fatalf("got %q", got)
	}
}

func TestResolveAsOfThePlaceInTheLog(t *testing.T) {
	w := newWorld(t, nil)
	w.attach(session("c1", 1, "u", "phone"))
	w.attach(session("c2", 2, "u", "laptop"))
	a, b := w.push("u", "a"), w.push("u", "b")
	_, ao := envelope.SplitID(a)
	if got := w.resolve("u", a); got != "c1/1 prev -1;c2/2 prev -1;" {
		t.Fatalf("a: %s", got)
	}
	want := fmt.Sprintf("c1/1 prev %d;c2/2 prev %d;", ao, ao)
	if got := w.resolve("u", b); got != want {
		t.Fatalf("b: %s, want %s", got, want)
	}
	// What a device has acknowledged is not delivered to it, nor is it before
	// anything.
	w.ack("u", "phone", a)
	if got, want := w.resolve("u", a), "c2/2 prev -1;"; got != want {
		t.Fatalf("a after the phone's ack: %s", got)
	}
	if got, want := w.resolve("u", b), fmt.Sprintf("c1/1 prev -1;c2/2 prev %d;", ao); got != want {
		t.Fatalf("b after the phone's ack: %s, want %s", got, want)
	}
	if got := w.resolve("somebody else", b); got != "" {
		t.Fatalf("another user: %s", got)
	}
}

func TestRetriedRecordIsVoid(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.DedupeWarm = 100 })
	s := session("c", 1, "u", "d")
	w.attach(s)
	rec := &envelope.Record{Id: envelope.NewRecordID(), Push: &envelope.Push{
		Users: []string{"u"}, Op: 5, Body: []byte("x"), ExpiresMs: w.clock.now().Add(time.Hour).UnixMilli()}}
	first, second := w.append("u", rec), w.append("u", rec)
	w.applied("u", second)
	if got := w.resolve("u", first); got == "" {
		t.Fatal("the first is not delivered")
	}
	if got := w.resolve("u", second); got != "" {
		t.Fatalf("the second is delivered: %s", got)
	}
	w.restart()
	third := w.append("u", rec)
	w.applied("u", third)
	if b := w.attach(s).Backlog; len(b.Messages) != 1 {
		t.Fatalf("mailbox: %v", b)
	}
}

func TestIdempotencyKeyPerUser(t *testing.T) {
	w := newWorld(t, nil)
	s := session("c", 1, "u", "d")
	w.attach(s)
	rec := func() *envelope.Record {
		return &envelope.Record{Push: &envelope.Push{Users: []string{"u"}, Op: 5, Body: []byte("x"),
			ExpiresMs: w.clock.now().Add(time.Hour).UnixMilli(), IdempotencyKey: "k"}}
	}
	first := w.append("u", rec())
	w.applied("u", w.append("u", rec()))
	look := func() uint64 {
		l, err := w.r.Lookup(context.Background(), &envelope.LookupRequest{Users: []string{"u"}, IdempotencyKey: "k"})
		if err != nil {
			t.Fatal(err)
		}
		return l.Users[0].AppliedId
	}
	if got := look(); got != first {
		t.Fatalf("applied id %d, want %d", got, first)
	}
	w.ack("u", "d", first)
	w.restart()
	if got := look(); got != first {
		t.Fatalf("after a restart: applied id %d, want %d", got, first)
	}
	w.applied("u", w.append("u", rec()))
	if b := w.attach(s).Backlog; len(b.Messages) != 0 {
		t.Fatalf("the key worked again: %v", b)
	}
}

func TestClaims(t *testing.T) {
	w := newWorld(t, nil)
	claim := func(key string) bool {
		p := envelope.Partition(key, 2)
		id := w.append(key, &envelope.Record{Claim: &envelope.Claim{Key: key}})
		reply, err := w.r.Claim(context.Background(), &envelope.ClaimRequest{Partition: uint32(p), Id: id, Key: key})
		if err != nil {
			t.Fatal(err)
		}
		return reply.Won
	}
	if !claim("a") || claim("a") || !claim("b") {
		t.Fatal("the first claim of a key must win, and only it")
	}
	w.restart()
	if claim("a") || !claim("c") {
		t.Fatal("claims must survive a restart")
	}
}

func TestMailboxBound(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.MailboxLength = 3 })
	for i := range 5 {
		w.push("u", fmt.Sprint(i))
	}
	s := session("c", 1, "u", "d")
	if got := bodies(w.attach(s).Backlog); got != "234" {
		t.Fatalf("pending %q", got)
	}
	w.restart()
	if got := bodies(w.attach(s).Backlog); got != "234" {
		t.Fatalf("after a restart: pending %q", got)
	}
	u, err := w.r.User(context.Background(), &envelope.UserRequest{User: "u"})
	if err != nil || u.Dropped != 2 {
		t.Fatalf("dropped: %v, %v", u, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.events) != 2 || w.events[0] != "mailbox_dropped u" {
		t.Fatalf("events: %q", w.events)
	}
}

func TestExpiry(t *testing.T) {
	w := newWorld(t, nil)
	s := session("c", 1, "u", "d")
	w.attach(s)
	w.push("u", "a")
	w.clock.add(30 * time.Minute)
	w.applied("u", w.push("u", "b"))
	w.clock.add(45 * time.Minute)
	if got := bodies(w.attach(s).Backlog); got != "b" {
		t.Fatalf("pending %q, want b", got)
	}
	w.restart()
	if got := bodies(w.attach(s).Backlog); got != "b" {
		t.Fatalf("after a restart: pending %q, want b", got)
	}
}

func TestDeviceIsForgotten(t *testing.T) {
	w := newWorld(t, nil)
	gone, here := session("c", 1, "u", "gone"), session("c", 2, "u", "here")
	w.attach(gone)
	w.attach(here)
	w.detach(gone)
	w.clock.add(29 * 24 * time.Hour)
	w.restart()
	w.attach(here)
	if u, _ := w.r.User(context.Background(), &envelope.UserRequest{User: "u"}); len(u.Devices) != 2 {
		t.Fatalf("after 29 days: %v", u.Devices)
	}
	w.clock.add(2 * 24 * time.Hour)
	a := w.push("u", "a")
	w.ack("u", "here", a)
	u, err := w.r.User(context.Background(), &envelope.UserRequest{User: "u"})
	if err != nil || len(u.Devices) != 1 || u.Devices[0].Device != "here" || u.Pending != 0 {
		t.Fatalf("after 31 days: %v, %v", u, err)
	}
}

func TestSessions(t *testing.T) {
	t.Run("refuse", func(t *testing.T) {
		w := newWorld(t, func(c *router.Config) { c.SessionsPerUser, c.SessionsPolicy = 1, router.RefuseNewest })
		w.attach(session("c", 1, "u", ""))
		_, err := w.r.Attach(context.Background(), &envelope.AttachRequest{Session: session("c", 2, "u", "")})
		if !errors.Is(err, envelope.ErrTooMany) {
			t.Fatalf("got %v", err)
		}
		w.attach(session("c", 3, "v", ""))
	})
	t.Run("close the oldest", func(t *testing.T) {
		w := newWorld(t, func(c *router.Config) { c.SessionsPerUser, c.SessionsPolicy = 2, router.CloseOldest })
		w.attach(session("c", 1, "u", ""))
		w.attach(session("c", 2, "u", ""))
		kicks := w.attach(session("c", 3, "u", "")).Kicks
		if len(kicks) != 1 || kicks[0].To[0].Session != 1 || kicks[0].Code != int32(envelope.CloseReplacedByLimit) {
			t.Fatalf("kicks: %v", kicks)
		}
	})
	t.Run("same key", func(t *testing.T) {
		w := newWorld(t, nil)
		old, other, young := session("c", 1, "u", ""), session("c", 2, "v", ""), session("d", 3, "u", "")
		old.Key, other.Key, young.Key = "k", "k", "k"
		w.attach(old)
		w.attach(other)
		kicks := w.attach(young).Kicks
		if len(kicks) != 1 || kicks[0].To[0].Session != 1 || kicks[0].Code != int32(envelope.CloseReplacedByKey) {
			t.Fatalf("kicks: %v", kicks)
		}
		w.detach(old) // late
		l, err := w.r.Lookup(context.Background(), &envelope.LookupRequest{Users: []string{"u"}, Keys: []string{"k"}})
		if err != nil || len(l.Users[0].Sessions) != 1 || len(l.Keyed) != 2 {
			t.Fatalf("lookup: %v, %v", l, err)
		}
	})
}

// A late disconnect must not erase a newer session.
func TestAncestorBug10_LateDetachKeepsTheNewerSession(t *testing.T) {
	w := newWorld(t, nil)
	old, young := session("c", 1, "u", "d"), session("c", 2, "u", "d")
	w.attach(old)
	w.attach(young)
	w.detach(old)
	w.detach(old)
	l, err := w.r.Lookup(context.Background(), &envelope.LookupRequest{Users: []string{"u"}})
	if err != nil || len(l.Users[0].Sessions) != 1 || l.Users[0].Sessions[0].Session != 2 {
		t.Fatalf("lookup: %v, %v", l, err)
	}
}

// Forgetting a comet drops its sessions and nobody else's.
func TestAncestorBug08_ForgetLeavesOtherComets(t *testing.T) {
	w := newWorld(t, nil)
	w.attach(session("c", 1, "u", ""))
	w.attach(session("d", 2, "u", ""))
	f, err := w.r.Forget(context.Background(), &envelope.ForgetRequest{Comet: "c"})
	if err != nil || f.Sessions != 1 {
		t.Fatalf("forget: %v, %v", f, err)
	}
	l, _ := w.r.Lookup(context.Background(), &envelope.LookupRequest{Users: []string{"u"}})
	if len(l.Users[0].Sessions) != 1 || l.Users[0].Sessions[0].Comet != "d" {
		t.Fatalf("left: %v", l.Users[0])
	}
}

func (w *world) announce(comet string, incarnation uint64, partitions map[uint32]uint32, sessions ...*envelope.Session) *envelope.AnnounceReply {
	w.t.Helper()
	reply, err := w.r.Announce(context.Background(), &envelope.AnnounceRequest{
		Comet: comet, Incarnation: incarnation, Sessions: sessions, Partitions: partitions, Rooms: map[string]uint32{"r": 1}})
	if err != nil {
		w.t.Fatal(err)
	}
	return reply
}

func (w *world) online(user string) int {
	l, err := w.r.Lookup(context.Background(), &envelope.LookupRequest{Users: []string{user}})
	if err != nil {
		w.t.Fatal(err)
	}
	return len(l.Users[0].Sessions)
}

func TestSilentCometLosesItsSessions(t *testing.T) {
	w := newWorld(t, nil)
	s := session("c", 1<<32|1, "u", "")
	counts := map[uint32]uint32{uint32(envelope.Partition("u", 2)): 1}
	first := w.announce("c", 1, counts).Epochs
	w.attach(s)
	w.attach(session("d", 2<<32|1, "u", ""))
	for range 8 {
		w.clock.add(time.Second)
		w.announce("d", 2, counts)
	}
	eventually(t, "the silent comet's session leaves", func() bool { return w.online("u") == 1 })
	// It was only hung: the epoch tells it to announce its sessions again.
	second := w.announce("c", 1, counts).Epochs
	if first[0] == second[0] {
		t.Fatal("the epoch must change when sessions were dropped")
	}
	w.announce("c", 1, counts, s)
	if n := w.online("u"); n != 2 {
		t.Fatalf("%d sessions", n)
	}
	if third := w.announce("c", 1, counts).Epochs; third[0] != second[0] {
		t.Fatal("the epoch must stay while nothing is dropped")
	}
}

func TestRestartedCometAndRouter(t *testing.T) {
	w := newWorld(t, nil)
	counts := map[uint32]uint32{uint32(envelope.Partition("u", 2)): 1}
	before := w.announce("c", 1, counts).Epochs[0]
	w.attach(session("c", 1<<32|1, "u", ""))
	w.announce("c", 2, nil)
	if n := w.online("u"); n != 0 {
		t.Fatalf("%d sessions of a comet that started again", n)
	}
	w.clock.add(time.Second)
	w.restart()
	if after := w.announce("c", 2, counts).Epochs[0]; after == before {
		t.Fatal("a router that started again must have another epoch")
	}
}

func TestCountsThatDifferAreMended(t *testing.T) {
	w := newWorld(t, nil)
	w.attach(session("c", 1<<32|1, "u", "")) // the comet knows nothing of it
	epoch := w.announce("c", 1, nil).Epochs[0]
	for range 5 {
		w.announce("c", 1, nil)
	}
	if got := w.announce("c", 1, nil).Epochs[0]; got == epoch || w.online("u") != 0 {
		t.Fatalf("the ghost is still there: epoch %d then %d, %d sessions", epoch, got, w.online("u"))
	}
}

func TestRoomTotals(t *testing.T) {
	w := newWorld(t, nil)
	w.announce("c", 1, nil)
	if got := w.announce("d", 1, nil).Rooms["r"]; got != 2 {
		t.Fatalf("%d in the room on two comets", got)
	}
}

func (w *world) nudges() (n int, newest uint64) {
	w.live.mu.Lock()
	defer w.live.mu.Unlock()
	for _, e := range w.live.parts[0] {
		var env envelope.Envelope
		if err := env.UnmarshalVT(e.Value); err != nil {
			w.t.Error(err)
		}
		for _, to := range env.Nudge.GetTo() {
			n++
			newest = to.Newest
		}
	}
	return n, newest
}

func TestWatch(t *testing.T) {
	w := newWorld(t, nil)
	counts := map[uint32]uint32{uint32(envelope.Partition("u", 2)): 1}
	w.attach(session("c", 1, "u", "d"))
	a := w.push("u", "a")
	b := w.push("u", "b")
	w.applied("u", b)
	w.clock.add(w.cfg.WatchAfter - 10*time.Millisecond)
	w.announce("c", 1, counts)
	if n, _ := w.nudges(); n != 0 {
		t.Fatal("told too early")
	}
	w.clock.add(time.Second)
	w.announce("c", 1, counts)
	eventually(t, "the comet is told of the newest", func() bool { _, id := w.nudges(); return id == b })
	// Told again at growing intervals only.
	for range 60 {
		w.clock.add(time.Second)
		w.announce("c", 1, counts)
	}
	eventually(t, "told again", func() bool { n, _ := w.nudges(); return n > 1 })
	w.ack("u", "d", a, b)
	n, _ := w.nudges()
	w.clock.add(time.Hour)
	w.announce("c", 1, counts)
	if m, _ := w.nudges(); m > n {
		t.Fatal("told of what was acknowledged")
	}
}

func TestTake(t *testing.T) {
	w := newWorld(t, nil)
	w.push("u", "a")
	w.applied("u", w.push("u", "b"))
	take := func(after int64) *envelope.TakeReply {
		reply, err := w.r.Take(context.Background(), &envelope.TakeRequest{User: "u", AfterMs: after})
		if err != nil {
			t.Fatal(err)
		}
		return reply
	}
	first := take(0)
	if len(first.Messages) != 2 || first.Messages[0].TimeMs >= first.Messages[1].TimeMs {
		t.Fatalf("first: %v", first)
	}
	if again := take(0); len(again.Messages) != 0 {
		t.Fatalf("again: %v", again)
	}
	w.applied("u", w.push("u", "c"))
	if next := take(first.Messages[1].TimeMs); len(next.Messages) != 1 || string(next.Messages[0].Body) != "c" {
		t.Fatalf("next: %v", next)
	}
}

func TestUnreadableRecordIsSkippedAndSaid(t *testing.T) {
	w := newWorld(t, nil)
	s := session("c", 1, "u", "d")
	w.attach(s)
	if _, err := w.kept.Append(context.Background(), envelope.Partition("u", 2), []byte{0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	w.applied("u", w.push("u", "a"))
	if got := bodies(w.attach(s).Backlog); got != "a" {
		t.Fatalf("pending %q", got)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.events) != 1 {
		t.Fatalf("events: %q", w.events)
	}
}
