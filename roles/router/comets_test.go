package router_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/roles/router"
)

func (w *world) announce(
	comet string, incarnation uint64, partitions map[uint32]uint32, sessions ...*envelope.SessionInfo,
) *envelope.AnnounceReply {
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

// A comet may die before its first announcement comes through. Then only the
// sessions that it attached name it.
func TestCometThatNeverAnnouncedLosesItsSessions(t *testing.T) {
	w := newWorld(t, nil)
	// A comet that announces itself late, but in time, keeps its sessions, and
	// those of an incarnation that died before it could do so go at once.
	w.attach(session("late", 1<<32|1, "l", ""))
	w.attach(session("late", 2<<32|1, "l", ""))
	w.attach(session("late", 1<<32|2, "l", ""))
	w.clock.add(w.cfg.CometTimeout / 2)
	w.announce("late", 2, nil)
	if n := w.online("l"); n != 1 {
		t.Fatalf("%d sessions of the comet that announces itself", n)
	}
	w.attach(session("c", 1<<32|1, "u", ""))
	attached := w.clock.now()
	eventually(t, "the session of the comet that died leaves", func() bool {
		w.clock.add(time.Second)
		w.announce("late", 2, map[uint32]uint32{uint32(envelope.Partition("l", 2)): 1})
		return w.online("u") == 0
	})
	if silent := w.clock.now().Sub(attached); silent <= w.cfg.CometTimeout {
		t.Errorf("gone after %v already", silent)
	}
	if n := w.online("l"); n != 1 {
		t.Errorf("%d sessions of the comet that announces itself", n)
	}
	eventually(t, "it is counted", func() bool { return metric(w, "imgo_router_buried_sessions_total") == 1 })
	// Nor does one stay that was under way meanwhile: its comet is known by now.
	w.attach(session("c", 1<<32|2, "u", ""))
	eventually(t, "a session that came later leaves", func() bool {
		w.clock.add(time.Second)
		return w.online("u") == 0
	})
}

// A comet that was away for so long that no router knows it any more must not take what it
// was told then for an answer of now.
func TestEpochOfAForgottenCometDoesNotComeBack(t *testing.T) {
	w := newWorld(t, nil)
	counts := map[uint32]uint32{uint32(envelope.Partition("u", 2)): 1}
	s := session("c", 1<<32|1, "u", "")
	told := map[uint64]bool{}
	for range 3 {
		epoch := w.announce("c", 1, counts).Epochs[uint32(envelope.Partition("u", 2))]
		if told[epoch] {
			t.Fatal("the epoch came back, the sessions did not")
		}
		told[epoch] = true
		w.announce("c", 1, counts, s)
		w.clock.add(25 * time.Hour)
		eventually(t, "the session leaves", func() bool {
			w.clock.add(time.Second)
			return w.online("u") == 0
		})
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
	ghost, here := session("c", 1<<32|1, "u", ""), session("c", 1<<32|2, "u", "")
	w.attach(ghost) // the comet knows nothing of it
	w.attach(here)
	counts := map[uint32]uint32{uint32(envelope.Partition("u", 2)): 1}
	epoch := w.announce("c", 1, counts).Epochs[0]
	for range 20 {
		e := w.announce("c", 1, counts).Epochs[0]
		if n := w.online("u"); n == 0 {
			t.Fatal("in doubt about one session, all went")
		}
		if e != epoch {
			epoch = e
			w.announce("c", 1, counts, here)
		}
	}
	l, _ := w.r.Lookup(context.Background(), &envelope.LookupRequest{Users: []string{"u"}})
	if got := l.Users[0].Sessions; len(got) != 1 || got[0].Session != here.Address.Session {
		t.Fatalf("sessions at the end: %v", got)
	}
	for range 20 {
		if e := w.announce("c", 1, counts).Epochs[0]; e != epoch {
			t.Fatal("asked again though the counts agree")
		}
	}
}

// TestAnnouncementByTwoLogics checks that counts that come twice, by two logics, are one announcement. Those of an older
// node have no number, and each of them counts. So do the first ones of a comet that started again.
func TestAnnouncementByTwoLogics(t *testing.T) {
	for _, test := range []struct {
		name    string
		numbers []uint64 // the last one makes the router ask the comet to announce its sessions again
	}{
		{"twice each", []uint64{1, 1, 2, 2, 2, 1, 3}},
		{"a logic that is late", []uint64{4, 5, 4, 6}},
		{"an older node", []uint64{0, 0, 0}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, nil)
			for _, incarnation := range []uint64{1, 2} {
				w.attach(session("c", incarnation<<32|1, "u", "")) // the comet counts none
				var epoch uint64
				for i, number := range test.numbers {
					reply, err := w.r.Announce(t.Context(), &envelope.AnnounceRequest{Comet: "c", Incarnation: incarnation, Number: number})
					if err != nil {
						t.Fatal(err)
					}
					if last := i == len(test.numbers)-1; i > 0 && (reply.Epochs[0] != epoch) != last {
						t.Fatalf("incarnation %d, announcement %d: the epoch %d became %d", incarnation, i, epoch, reply.Epochs[0])
					}
					epoch = reply.Epochs[0]
				}
				for number := range uint64(5) { // until the comet had its time and the session is gone
					_, _ = w.r.Announce(t.Context(), &envelope.AnnounceRequest{Comet: "c", Incarnation: incarnation, Number: 10 + number})
				}
			}
		})
	}
}

// A partition that has yet to find its place in the log has no sessions, whatever a comet counts there. So it
// is no reason to doubt the sessions of the others.
func TestCountsOfAPartitionThatHasNotBegun(t *testing.T) {
	here, waiting := userOf(0), userOf(1)
	ring := newRing(0)
	wait := make(chan struct{})
	release := sync.OnceFunc(func() { close(wait) })
	w := newOwner(t, nil, ring, nil)
	t.Cleanup(release)
	w.stop()
	w.store = func(s router.Store) router.Store { return lateStore{s, 1, wait} }
	w.start()
	s := session("c", 1<<32|1, here, "")
	w.attach(s)
	counts := map[uint32]uint32{0: 1, 1: 1}
	epoch := w.announce("c", 1, counts).Epochs[0]
	ring.set(0, 1)
	eventually(t, "the partition is here", func() bool { return errors.Is(w.r.Ready(), envelope.ErrNotReady) })
	for range 20 {
		if e := w.announce("c", 1, counts).Epochs; e[0] != epoch || len(e) != 1 {
			t.Fatalf("epochs %v, want %d of partition 0 only", e, epoch)
		}
	}
	release()
	eventually(t, "the partition has found its place", func() bool { return len(w.announce("c", 1, counts).Epochs) == 2 })
	w.announce("c", 1, counts, session("c", 1<<32|2, waiting, ""))
	if n := w.online(here) + w.online(waiting); n != 2 {
		t.Errorf("%d sessions, want 2", n)
	}
}

// The sessions of a partition are taken while it is read back, and wait for few records only.
func TestSessionsOfAPartitionThatIsReadBack(t *testing.T) {
	const records, sessions = 4000, 400
	ring := newRing(0)
	w := newOwner(t, nil, ring, func(c *router.Config) { c.MailboxLength = 1 })
	var applied atomic.Int64
	begun, wait := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(wait) })
	t.Cleanup(release)
	w.stop()
	w.noticed = func() { // a message was dropped, while the partition is locked
		if applied.Add(1) == 1 {
			close(begun)
		}
		select {
		case <-wait:
		case <-time.After(2 * time.Millisecond):
		}
	}
	w.start()
	for range records {
		w.push(userOf(1), "x")
	}
	ring.set(0, 1)
	<-begun
	eventually(t, "callers find the partition", func() bool { return errors.Is(w.r.Ready(), envelope.ErrNotReady) })
	var infos []*envelope.SessionInfo
	for i := range uint64(sessions) {
		infos = append(infos, session("c", 1<<32+i, namedUser(1, fmt.Sprint("u", i, "-")), ""))
	}
	before := applied.Load()
	epochs := w.announce("c", 1, nil, infos...).Epochs
	if n := applied.Load() - before; n > sessions {
		t.Errorf("%d records were applied before %d sessions were taken", n, sessions)
	}
	if _, ok := epochs[1]; !ok {
		t.Error("the sessions were not taken")
	}
	release()
	eventually(t, "the partition is read back", func() bool { return w.r.Ready() == nil })
	if n := w.online(infos[0].User); n != 1 {
		t.Errorf("%d sessions of a user, want 1", n)
	}
}

// An owner that has not taken all sessions of a partition in time does not give its epoch, so that the comet announces
// them again.
func TestSessionsThatAreNotTakenInTime(t *testing.T) {
	slow, other := namedUser(0, "slow"), namedUser(1, "other")
	w := newWorld(t, nil)
	w.attach(session("c", 1, slow, "d"))
	w.detach(session("c", 1, slow, "d"))
	w.stop()
	stalled := &stalledStore{user: slow, release: make(chan struct{})}
	release := sync.OnceFunc(func() { close(stalled.release) })
	w.store = func(s router.Store) router.Store { stalled.Store = s; return stalled }
	w.start()
	t.Cleanup(release)
	go func() { _ = attach(w, slow) }()
	eventually(t, "the store is asked for the user", func() bool { return stalled.begun() > 0 })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	req := &envelope.AnnounceRequest{Comet: "c", Incarnation: 1, Sessions: []*envelope.SessionInfo{
		session("c", 1<<32|2, slow, "d"), session("c", 1<<32|3, other, "d")}}
	reply, err := w.r.Announce(ctx, req)
	if err != nil || len(reply.Epochs) != 1 || reply.Epochs[1] == 0 || ctx.Err() != nil {
		t.Errorf("while one partition waits: %v, %v, %v", reply, err, ctx.Err())
	}
	release()
	if reply, err = w.r.Announce(t.Context(), req); err != nil || len(reply.Epochs) != 2 {
		t.Errorf("when none waits: %v, %v", reply, err)
	}
}

// lateStore is a store that gives the position of one partition only once release is closed.
type lateStore struct {
	router.Store
	partition int32
	release   chan struct{}
}

func (s lateStore) Position(partition int32) (id uint64, version uint32, ok bool, err error) {
	if partition == s.partition {
		<-s.release
	}
	return s.Store.Position(partition)
}

func TestRoomTotals(t *testing.T) {
	w := newWorld(t, nil)
	w.announce("c", 1, nil)
	if got := w.announce("d", 1, nil).Rooms["r"]; got != 2 {
		t.Fatalf("%d in the room on two comets", got)
	}
}

// TestRoomsOfAComet checks which requests replace the numbers of a comet's sessions in rooms.
func TestRoomsOfAComet(t *testing.T) {
	request := func(rooms map[string]uint32, sessions ...*envelope.SessionInfo) *envelope.AnnounceRequest {
		return &envelope.AnnounceRequest{Comet: "c", Incarnation: 1, Rooms: rooms, Sessions: sessions}
	}
	for name, c := range map[string]struct {
		req  *envelope.AnnounceRequest
		want uint32 // of the other comet and this one
	}{
		"fewer sessions":           {request(map[string]uint32{"r": 1}), 2},
		"another room":             {request(map[string]uint32{"s": 1}), 1},
		"no room":                  {request(nil), 1}, // a call to another process does not tell nil from empty
		"sessions to a new owner":  {request(nil, session("c", 1<<32|1, "u", "")), 4},
		"sessions of an old comet": {request(map[string]uint32{"r": 1}, session("c", 1<<32|1, "u", "")), 4},
	} {
		w := newWorld(t, nil)
		for _, req := range []*envelope.AnnounceRequest{request(map[string]uint32{"r": 3}), c.req} {
			if _, err := w.r.Announce(t.Context(), req); err != nil {
				t.Fatal(err)
			}
		}
		if got := w.announce("other", 1, nil).Rooms["r"]; got != c.want {
			t.Errorf("%s: %d in the room, want %d", name, got, c.want)
		}
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

// While a partition of the live log takes no records, comets are told by the other ones. Once it takes records again, it is
// used again.
func TestWatchWhileALivePartitionTakesNothing(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.CometTimeout = 24 * time.Hour })
	w.stop()
	w.live = newMemLog(2)
	w.start()
	release := make(chan struct{})
	goOn := sync.OnceFunc(func() { close(release) })
	t.Cleanup(goOn)
	var tries atomic.Int64
	w.live.setBefore(func(p int32, _ []byte) error {
		if p != 0 {
			return nil
		}
		tries.Add(1)
		<-release
		return envelope.ErrUnavailable
	})
	w.attach(session("c1", 1, "u", "d"))
	w.attach(session("c2", 2, "v", "d"))
	w.applied("u", w.push("u", "a"))
	w.applied("v", w.push("v", "a"))
	later := func(done func() bool) func() bool {
		return func() bool {
			w.clock.add(w.cfg.WatchAfter + time.Hour)
			return done()
		}
	}
	eventually(t, "the partition is tried", later(func() bool { return tries.Load() > 0 }))
	told := w.live.End(1)
	eventually(t, "the comets are told by the other partition", later(func() bool { return w.live.End(1) > told+4 }))
	goOn()
	eventually(t, "the partition is tried again", later(func() bool { return tries.Load() > 3 }))
	w.live.setBefore(nil)
	eventually(t, "the comets are told by it", later(func() bool { return w.live.End(0) > 0 }))
}

func TestWatch(t *testing.T) {
	w := newWorld(t, nil)
	counts := map[uint32]uint32{uint32(envelope.Partition("u", 2)): 1}
	w.attach(session("c", 1<<32|1, "u", "d"))
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

// TestRemindersTakeOtherWays: one job carries a partition of the live log, and it may be unable to call the comet. What
// the watch repeats must not go by that job each time.
func TestRemindersTakeOtherWays(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.CometTimeout = 24 * time.Hour })
	w.stop()
	w.live = newMemLog(4)
	w.start()
	w.attach(session("c", 1<<32|1, "u", "d"))
	w.applied("u", w.push("u", "a"))
	w.member("u", "room", true)
	eventually(t, "nudges and lists of rooms are in several partitions", func() bool {
		w.clock.add(2*time.Second + time.Millisecond)
		w.live.mu.Lock()
		defer w.live.mu.Unlock()
		nudges, rooms := 0, 0
		for _, entries := range w.live.parts {
			nudged, told := 0, 0
			for _, e := range entries {
				var env envelope.Envelope
				if err := env.UnmarshalVT(e.Value); err != nil {
					t.Fatal(err)
				}
				if env.Nudge != nil {
					nudged = 1
				}
				if env.SessionRooms != nil {
					told = 1
				}
			}
			nudges, rooms = nudges+nudged, rooms+told
		}
		return nudges > 1 && rooms > 1
	})
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

// An answer that is too large to be sent would lose what it acknowledges. So an
// answer has a bound in bytes, and the rest waits for the next call.
func TestTakeIsBoundedInBytes(t *testing.T) {
	w := newWorld(t, nil)
	body := strings.Repeat("x", 17<<20)
	for range 2 {
		w.applied("u", w.push("u", body))
	}
	for i, want := range []int{1, 1, 0} {
		reply, err := w.r.Take(context.Background(), &envelope.TakeRequest{User: "u"})
		if err != nil || len(reply.Messages) != want {
			t.Fatalf("call %d: %d messages, want %d, %v", i+1, len(reply.GetMessages()), want, err)
		}
	}
	w.applied("u", w.push("u", body+body)) // more than the bound by itself
	if reply, err := w.r.Take(context.Background(), &envelope.TakeRequest{User: "u"}); err != nil || len(reply.Messages) != 1 {
		t.Fatalf("a large message: %d messages, %v", len(reply.GetMessages()), err)
	}
}

// Messages reads all bodies to fill in the operations, so the bound in bytes
// holds whether or not the caller asks for the bodies.
func TestMessagesAreBoundedInBytes(t *testing.T) {
	w := newWorld(t, nil)
	for range 3 {
		w.applied("u", w.push("u", strings.Repeat("x", 600<<10)))
	}
	for _, want := range []bool{false, true} {
		reply, err := w.r.Messages(context.Background(), &envelope.MessagesRequest{User: "u", Bodies: want})
		if err != nil || len(reply.Messages) != 1 || !reply.More {
			t.Errorf("bodies=%v: %d messages, more=%v, %v", want, len(reply.GetMessages()), reply.GetMore(), err)
		}
	}
}

// What was accepted before the call is in the answer, also when it was not
// applied by then: an answer without it would be a message that its caller
// believes not to exist.
func TestTakeWaitsForWhatWasAccepted(t *testing.T) {
	w := newWorld(t, nil)
	w.applied("u", w.push("u", "a"))
	p := envelope.Partition("u", 2)
	w.kept.stick(p, w.kept.End(p))
	w.push("u", "b")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if reply, err := w.r.Take(ctx, &envelope.TakeRequest{User: "u"}); !errors.Is(err, envelope.ErrNotReady) {
		t.Errorf("before it is applied: %v, %v", reply, err)
	}
	w.kept.stick(p, 0)
	reply, err := w.r.Take(context.Background(), &envelope.TakeRequest{User: "u"})
	if err != nil || len(reply.Messages) != 2 {
		t.Errorf("after: %v, %v", reply, err)
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
