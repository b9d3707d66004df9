package router_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"imgo/envelope"
	"imgo/roles/router"
)

// presenceWorld is a router that tells who is online, and comets with sessions, in a bubble of testing/synctest.
type presenceWorld struct {
	*world
	comets map[string]*fakeComet
	ids    uint64
}

// fakeComet announces its sessions as a comet does. The routers that it announces to own all partitions.
type fakeComet struct {
	name     string
	sessions map[uint64]*envelope.SessionInfo
	told     map[*router.Router]map[uint32]uint64
}

func newPresenceWorld(t *testing.T, change func(*router.Config)) *presenceWorld {
	w := newWorld(t, func(c *router.Config) {
		c.FlushInterval = 100 * time.Millisecond
		c.WatchInterval = time.Second
		c.CometTimeout = 3 * time.Second
		c.Presence.Events = true
		if change != nil {
			change(c)
		}
	})
	w.stop()
	w.topic = newMemLog(2)
	w.clock.t = time.Time{}
	w.start()
	return &presenceWorld{world: w, comets: make(map[string]*fakeComet)}
}

// presenceTest runs a test in a bubble.
func presenceTest(t *testing.T, change func(*router.Config), test func(t *testing.T, w *presenceWorld)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newPresenceWorld(t, change)) })
}

// partitionsOf counts sessions by their partition.
func (c *fakeComet) partitions(n int32) map[uint32]uint32 {
	counts := make(map[uint32]uint32)
	for _, s := range c.sessions {
		counts[uint32(envelope.Partition(s.User, int(n)))]++
	}
	return counts
}

// announce announces the comet to a router, and the sessions of each partition that has another epoch.
func (c *fakeComet) announce(r *router.Router, partitions int32) {
	req := &envelope.AnnounceRequest{Comet: c.name, Incarnation: 1, Partitions: c.partitions(partitions)}
	reply, err := r.Announce(context.Background(), req)
	if err != nil {
		return
	}
	told := c.told[r]
	if told == nil {
		told = make(map[uint32]uint64)
		c.told[r] = told
	}
	again := &envelope.AnnounceRequest{Comet: c.name, Incarnation: 1, Partitions: req.Partitions}
	for _, s := range c.sessions {
		p := uint32(envelope.Partition(s.User, int(partitions)))
		if epoch, ok := reply.Epochs[p]; ok && told[p] != epoch {
			again.Sessions = append(again.Sessions, s)
		}
	}
	if len(again.Sessions) > 0 {
		if reply, err = r.Announce(context.Background(), again); err != nil {
			return
		}
	}
	for p, epoch := range reply.Epochs {
		told[p] = epoch
	}
}

// pass lets time pass, in which the comets announce themselves every second.
func (w *presenceWorld) pass(d time.Duration) {
	for end := time.Now().Add(d); ; {
		for _, c := range w.comets {
			c.announce(w.r, w.kept.Partitions())
		}
		left := time.Until(end)
		if left <= 0 {
			return
		}
		time.Sleep(min(left, time.Second))
	}
}

// connect opens a session on a comet.
func (w *presenceWorld) connect(comet, user, device string) *envelope.SessionInfo {
	w.t.Helper()
	c := w.comets[comet]
	if c == nil {
		c = &fakeComet{name: comet, sessions: make(map[uint64]*envelope.SessionInfo), told: make(map[*router.Router]map[uint32]uint64)}
		w.comets[comet] = c
		c.announce(w.r, w.kept.Partitions())
	}
	w.ids++
	s := session(comet, 1<<32+w.ids, user, device)
	s.SinceMs = time.Now().UnixMilli()
	c.sessions[s.Address.Session] = s
	w.attach(s)
	return s
}

// end ends a session, and its comet says so.
func (w *presenceWorld) end(s *envelope.SessionInfo) {
	w.t.Helper()
	w.lose(s)
	w.detach(s)
}

// lose ends a session while nobody says so.
func (w *presenceWorld) lose(s *envelope.SessionInfo) {
	delete(w.comets[s.Address.Comet].sessions, s.Address.Session)
}

// presences returns what was told of each user, such as "online phone; offline". It checks that online and offline take
// turns, beginning with first, and that epochs grow.
func (w *presenceWorld) presences(first string) map[string]string {
	w.t.Helper()
	synctest.Wait()
	all, epochs, next := make(map[string]string), make(map[string]uint64), make(map[string]string)
	for p := range w.topic.Partitions() {
		for _, e := range w.topicOf(p) {
			var event struct {
				Data struct{ Device, Epoch string }
			}
			if err := json.Unmarshal(e.Value, &event); err != nil {
				w.t.Fatal(err)
			}
			state := strings.TrimPrefix(string(e.Type), "user.")
			epoch, err := strconv.ParseUint(event.Data.Epoch, 10, 64)
			if err != nil || epoch <= epochs[e.User] || state != cmp.Or(next[e.User], first) {
				w.t.Errorf("%s is %s by the epoch %q after %q until %d: %v", e.User, e.Type, event.Data.Epoch, all[e.User], epochs[e.User], err)
			}
			text := strings.TrimSpace(state + " " + event.Data.Device)
			if all[e.User] != "" {
				text = all[e.User] + "; " + text
			}
			all[e.User], epochs[e.User] = text, epoch
			next[e.User] = map[string]string{"online": "offline", "offline": "online"}[state]
		}
	}
	return all
}

// presence returns what was told of a user.
func (w *presenceWorld) presence(user string) string {
	w.t.Helper()
	return w.presences("online")[user]
}

// wants checks what was told of a user.
func (w *presenceWorld) wants(user, want string) {
	w.t.Helper()
	if got := w.presence(user); got != want {
		w.t.Fatalf("%s was told to be %q, want %q", user, got, want)
	}
}

// failAppends makes appends to the kept log fail; nil: no longer.
func (w *presenceWorld) failAppends(err error) {
	w.kept.mu.Lock()
	defer w.kept.mu.Unlock()
	w.kept.fail = err
}

// records counts the records of presence in the log, and the users that they have.
func (w *presenceWorld) records() (records, users int) {
	w.kept.mu.Lock()
	defer w.kept.mu.Unlock()
	for _, part := range w.kept.parts {
		for _, e := range part {
			var rec envelope.Record
			if err := rec.UnmarshalVT(e.Value); err != nil {
				w.t.Fatal(err)
			}
			if rec.Presences != nil {
				records++
				users += len(rec.Presences.Presences)
			}
		}
	}
	return records, users
}

// A user is told to be online at once, and to be offline when its last session has gone for the grace period.
func TestPresenceIsTold(t *testing.T) {
	presenceTest(t, nil, func(t *testing.T, w *presenceWorld) {
		begin := time.Now()
		phone := w.connect("c1", "u", "phone")
		w.pass(200 * time.Millisecond)
		w.wants("u", "online phone")
		w.pass(4 * time.Second)
		laptop := w.connect("c2", "u", "laptop")
		w.pass(time.Minute)
		w.end(phone)
		w.pass(time.Minute)
		w.wants("u", "online phone")
		if u := w.user("u"); u.SinceMs != begin.UnixMilli() || u.LastSeenMs != time.Now().UnixMilli() || len(u.Devices) != 2 ||
			u.Devices[0].Online || !u.Devices[1].Online {
			t.Errorf("while it is online: %v", u)
		}
		w.end(laptop)
		gone := time.Now()
		w.pass(5*time.Second - time.Millisecond)
		w.wants("u", "online phone")
		w.pass(1100 * time.Millisecond)
		w.wants("u", "online phone; offline laptop")
		if u := w.user("u"); u.SinceMs != gone.UnixMilli() || u.LastSeenMs != gone.UnixMilli() || u.Devices[1].Online {
			t.Errorf("while it is offline: %v", u)
		}
		w.connect("c1", "u", "phone")
		w.pass(time.Second)
		w.wants("u", "online phone; offline laptop; online phone")
	})
}

// A user that comes back within the grace period is told nothing, as often as it may be. One that has gone before it was
// told to be online is told nothing either.
func TestPresenceOfFlappingUser(t *testing.T) {
	presenceTest(t, nil, func(t *testing.T, w *presenceWorld) {
		for range 50 {
			s := w.connect("c1", "u", "phone")
			w.pass(3 * time.Second)
			w.end(s)
			w.pass(4900 * time.Millisecond)
		}
		w.wants("u", "online phone")
		w.end(w.connect("c1", "short", "phone"))
		w.pass(10 * time.Second)
		w.wants("short", "")
		w.wants("u", "online phone; offline phone")
		if records, users := w.records(); records != 2 || users != 2 {
			t.Errorf("%d records with %d users", records, users)
		}
	})
}

// Nothing is told, nor put into the log, while the setting is off; who is online is known all the same. Nothing is told of
// anonymous users.
func TestPresenceOff(t *testing.T) {
	presenceTest(t, func(c *router.Config) { c.Presence.Events = false }, func(t *testing.T, w *presenceWorld) {
		s := w.connect("c1", "u", "phone")
		began := s.SinceMs
		w.pass(time.Minute)
		if u := w.user("u"); u.SinceMs != began || len(u.Devices) != 1 || !u.Devices[0].Online {
			t.Errorf("while it is online: %v", u)
		}
		w.end(s)
		gone := time.Now().UnixMilli()
		w.pass(time.Minute)
		if u := w.user("u"); u.SinceMs != gone || u.LastSeenMs != gone || u.Devices[0].Online {
			t.Errorf("while it is offline: %v", u)
		}
		if u := w.user("nobody"); u.SinceMs != 0 || u.LastSeenMs != 0 {
			t.Errorf("nobody: %v", u)
		}
		if records, _ := w.records(); records != 0 {
			t.Errorf("%d records", records)
		}
	})
	presenceTest(t, nil, func(t *testing.T, w *presenceWorld) {
		w.connect("c1", envelope.AnonymousUser(1<<32+1), "")
		w.pass(time.Minute)
		if records, _ := w.records(); records != 0 {
			t.Errorf("an anonymous user: %d records", records)
		}
	})
}

// Users that go while the router is away are told to be offline by the next one, with its disk or without, and whoever stays
// is told nothing.
func TestPresenceAfterRestart(t *testing.T) {
	for _, disk := range []bool{true, false} {
		t.Run(fmt.Sprintf("disk %v", disk), func(t *testing.T) {
			presenceTest(t, func(c *router.Config) { c.IdleMailboxes = 10 }, func(t *testing.T, w *presenceWorld) {
				const users = 300 // more than are read from the store at a time
				var leave []*envelope.SessionInfo
				for i := range users {
					leave = append(leave, w.connect("c1", fmt.Sprint("gone", i), "phone"))
				}
				w.connect("c1", "stays", "phone")
				w.pass(20 * time.Second)
				w.stop()
				for _, s := range leave {
					w.lose(s)
				}
				if !disk {
					w.dir = t.TempDir()
				}
				w.start()
				begin := time.Now()
				w.pass(9 * time.Second)
				told := w.presences("online")
				for i := range users {
					if user := fmt.Sprint("gone", i); told[user] != "online phone; offline phone" {
						t.Fatalf("%s was told to be %q", user, told[user])
					}
				}
				w.wants("stays", "online phone")
				if u := w.user("gone0"); u.SinceMs < begin.Add(-time.Minute).UnixMilli() || u.SinceMs > time.Now().UnixMilli() {
					t.Errorf("gone since %v", time.UnixMilli(u.SinceMs))
				}
				w.pass(time.Minute)
				if records, _ := w.records(); records > 20 {
					t.Errorf("%d records for %d users that came and went together", records, users)
				}
			})
		})
	}
}

// The users of a comet that dies are told to be offline. Those that come back elsewhere in time are told nothing.
func TestPresenceOfDeadComet(t *testing.T) {
	presenceTest(t, nil, func(t *testing.T, w *presenceWorld) {
		w.connect("c1", "gone", "phone")
		w.connect("c1", "moves", "phone")
		w.connect("c2", "stays", "phone")
		w.pass(10 * time.Second)
		died := time.Now()
		delete(w.comets, "c1")
		w.pass(2 * time.Second)
		w.connect("c2", "moves", "phone")
		w.pass(6 * time.Second)
		w.wants("gone", "online phone; offline phone")
		w.wants("moves", "online phone")
		w.wants("stays", "online phone")
		if u := w.user("gone"); u.SinceMs < died.Add(-2*time.Second).UnixMilli() || u.SinceMs > died.Add(2*time.Second).UnixMilli() {
			t.Errorf("gone since %v, the comet died at %v", time.UnixMilli(u.SinceMs), died)
		}
		w.pass(time.Minute)
		w.wants("moves", "online phone")
	})
}

// What the log does not take is told later, and only as it is then.
func TestPresenceWhileAppendsFail(t *testing.T) {
	presenceTest(t, nil, func(t *testing.T, w *presenceWorld) {
		first := w.connect("c1", "u", "phone")
		w.connect("c1", "other", "phone")
		w.pass(time.Second)
		w.failAppends(errors.New("the log is away"))
		w.end(first)
		w.pass(time.Minute)
		w.wants("u", "online phone")
		w.failAppends(nil)
		w.pass(3 * time.Second)
		w.wants("u", "online phone; offline phone")
		w.failAppends(errors.New("the log is away"))
		second := w.connect("c1", "u", "phone")
		w.pass(10 * time.Second)
		w.end(second)
		w.failAppends(nil)
		w.pass(10 * time.Second)
		w.wants("u", "online phone; offline phone")
		w.wants("other", "online phone")
		if n := w.counter("imgo_router_presence_errors_total"); n == 0 {
			t.Error("no failure was counted")
		}
	})
}

// recordVersions is a router.RecordVersions.
type recordVersions struct {
	closed atomic.Bool
	asked  atomic.Int64
}

func (g *recordVersions) Require(_ context.Context, version uint32) error {
	g.asked.Add(1)
	if version != envelope.RecordVersionClients || g.closed.Load() {
		return envelope.Errorf(envelope.CodeUpgradeUnfinished, "node old does not read version %d", version)
	}
	return nil
}

// While a node does not read such records there are none, and everything is told later.
func TestPresenceAwaitsUpgrade(t *testing.T) {
	presenceTest(t, nil, func(t *testing.T, w *presenceWorld) {
		versions := &recordVersions{}
		versions.closed.Store(true)
		w.stop()
		w.versions = versions
		w.start()
		w.connect("c1", "u", "phone")
		w.pass(time.Minute)
		if records, _ := w.records(); records != 0 || versions.asked.Load() == 0 {
			t.Errorf("%d records, the versions were asked for %d times", records, versions.asked.Load())
		}
		versions.closed.Store(false)
		w.pass(2 * time.Second)
		w.wants("u", "online phone")
	})
}

// More partitions change nothing: who stays is told nothing, and who goes meanwhile is told to be offline.
func TestPresenceMoves(t *testing.T) {
	presenceTest(t, func(c *router.Config) { c.Retention = time.Hour }, func(t *testing.T, w *presenceWorld) {
		var lost []*envelope.SessionInfo
		for i := range 20 {
			lost = append(lost, w.connect("c1", fmt.Sprint("gone", i), "phone"))
			w.connect("c1", fmt.Sprint("stays", i), "phone")
		}
		w.pass(10 * time.Second)
		g := newGrowing(3)
		w.stop()
		w.growth = g
		w.start()
		close(g.begun)
		for range 10 {
			w.pass(time.Second)
		}
		g.awaitMoved(t, 2)
		for _, s := range lost {
			w.lose(s)
		}
		w.stop()
		n := &presenceWorld{comets: w.comets, world: &world{t: t, cfg: w.cfg, dir: t.TempDir(), kept: g.next, live: newMemLog(1), clock: w.clock}}
		n.topic = newMemLog(3)
		n.start()
		defer n.stop()
		n.pass(9 * time.Second)
		told := n.presences("offline")
		for i := range 20 {
			if got := told[fmt.Sprint("gone", i)]; got != "offline phone" {
				t.Errorf("gone%d was told %q after the move", i, got)
			}
			if got := told[fmt.Sprint("stays", i)]; got != "" {
				t.Errorf("stays%d was told %q after the move", i, got)
			}
		}
	})
}

// A router that gets a partition back that another one had for a moment does not take sessions for alive that have ended
// meanwhile.
func TestPresenceAfterRegain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRing(0, 1)
		inner := newWorldOf(t, nil, g, func(c *router.Config) {
			c.FlushInterval, c.WatchInterval, c.CometTimeout = 100*time.Millisecond, time.Second, 3*time.Second
			c.Presence.Events = true
		})
		inner.stop()
		inner.topic = newMemLog(2)
		inner.clock.t = time.Time{}
		inner.start()
		w := &presenceWorld{world: inner, comets: make(map[string]*fakeComet)}
		gone := w.connect("c1", "gone", "phone")
		w.connect("c1", "stays", "phone")
		w.pass(10 * time.Second)
		g.set()
		w.pass(2 * time.Second)
		w.lose(gone) // its end was told to the other owner
		g.set(0, 1)
		w.pass(9 * time.Second)
		w.wants("gone", "online phone; offline phone")
		w.wants("stays", "online phone")
		if n := len(w.user("gone").Sessions); n != 0 {
			t.Errorf("%d sessions of the user that has gone", n)
		}
	})
}

// Two routers that gossip does not connect own the same users, and each has sessions of other comets. A user that stays
// connected to one of them is told to be offline less and less often. One that goes is told so as always, and so are in the
// end the users of the router that dies.
func TestPresenceOfTwoOwners(t *testing.T) {
	presenceTest(t, nil, func(t *testing.T, w *presenceWorld) {
		other := &presenceWorld{comets: make(map[string]*fakeComet), world: &world{
			t: t, cfg: w.cfg, dir: t.TempDir(), kept: w.kept, live: newMemLog(1), clock: w.clock, topic: newMemLog(2),
		}}
		other.start()
		defer func() { other.stop() }()
		pass := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); {
				other.pass(0)
				w.pass(time.Second)
			}
		}
		w.connect("c1", "here", "phone")
		leaves := w.connect("c1", "leaves", "phone")
		other.connect("c2", "there", "phone")
		pass(time.Hour)
		told := w.presences("online")
		for _, user := range []string{"here", "there"} {
			if n := strings.Count(told[user], "offline"); n > 12 || !strings.HasSuffix(told[user], "; online phone") {
				t.Errorf("%s, who stayed, was told to be offline %d times: %q", user, n, told[user])
			}
		}
		w.end(leaves)
		pass(7 * time.Second)
		if got := w.presence("leaves"); !strings.HasSuffix(got, "; offline phone") {
			t.Errorf("after its end it was told %q", got)
		}
		other.stop()
		w.pass(90 * time.Minute)
		told = w.presences("online")
		if !strings.HasSuffix(told["there"], "; offline phone") || !strings.HasSuffix(told["here"], "online phone") {
			t.Errorf("after the other router died: there %q, here %q", told["there"], told["here"])
		}
		// A later pair of owners begins anew.
		begin := len(told["here"])
		other.dir = t.TempDir()
		other.start()
		pass(time.Minute)
		if got := w.presence("here")[begin:]; !strings.HasPrefix(got, "; offline phone; online phone") || strings.Count(got, "offline") > 3 {
			t.Errorf("in the first minute of another pair it was told %q", got)
		}
	})
}

// An erased user that is online stays told to be so. It is told to be offline when it goes, and then nothing is known of it.
func TestPresenceOfErasedUser(t *testing.T) {
	presenceTest(t, nil, func(t *testing.T, w *presenceWorld) {
		s := w.connect("c1", "u", "phone")
		w.pass(time.Second)
		if _, err := w.r.Remove(t.Context(), &envelope.RemoveRequest{Removal: &envelope.Removal{User: "u", All: true}}); err != nil {
			t.Fatal(err)
		}
		w.pass(10 * time.Second)
		w.wants("u", "online phone")
		w.restartPresence()
		w.pass(10 * time.Second)
		w.wants("u", "online phone")
		w.end(s)
		w.pass(10 * time.Second)
		if got := w.presence("u"); !strings.HasPrefix(got, "online phone; offline") || strings.Count(got, ";") != 1 {
			t.Errorf("it was told %q", got)
		}
		if u := w.user("u"); u.LastSeenMs != 0 || u.SinceMs != 0 || len(u.Devices) != 0 {
			t.Errorf("the erased user is known: %v", u)
		}
		w.restartPresence()
		w.pass(10 * time.Second)
		if u := w.user("u"); u.SinceMs != 0 {
			t.Errorf("the erased user is known after a restart: %v", u)
		}
		w.connect("c1", "u", "phone")
		w.pass(time.Second)
		if got := w.presence("u"); !strings.HasSuffix(got, "; online phone") {
			t.Errorf("it was told %q", got)
		}
	})
}

func (w *presenceWorld) restartPresence() {
	w.t.Helper()
	w.stop()
	w.start()
}

// What was told of a user that stays longer than the log keeps records survives the loss of the disk.
func TestPresenceIsRepeated(t *testing.T) {
	presenceTest(t, func(c *router.Config) { c.Retention = 10 * time.Minute }, func(t *testing.T, w *presenceWorld) {
		stays, gone := userOf(0), userOf(1)
		w.connect("c1", stays, "phone")
		leaves := w.connect("c1", gone, "phone")
		w.pass(11 * time.Minute)
		w.stop()
		for p := range w.kept.Partitions() {
			w.kept.mu.Lock()
			begin := int64(0)
			for _, e := range w.kept.parts[p] {
				var rec envelope.Record
				if err := rec.UnmarshalVT(e.Value); err != nil {
					t.Fatal(err)
				}
				if time.Since(time.UnixMilli(rec.TimeMs)) > 10*time.Minute {
					begin = e.Offset + 1
				}
			}
			w.kept.begins[p] = begin
			w.kept.mu.Unlock()
			if begin < 2 {
				t.Fatalf("partition %d begins at %d", p, begin)
			}
		}
		w.lose(leaves)
		w.dir = t.TempDir()
		w.start()
		w.pass(10 * time.Second)
		w.wants(stays, "online phone")
		w.wants(gone, "online phone; offline phone")
	})
}
