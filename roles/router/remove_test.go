package router_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/router"
	"imgo/store"
)

func (w *world) tryAttach(s *envelope.SessionInfo) error {
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	_, err := w.r.Attach(ctx, &envelope.AttachRequest{Session: s})
	return err
}

// counter returns the sum of a counter.
func (w *world) counter(name string) (sum float64) {
	w.t.Helper()
	families, err := w.reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == name {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// happened returns the events so far, each as its kind and user.
func (w *world) happened() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.events)
}

func (w *world) user(user string) *envelope.UserReply {
	w.t.Helper()
	reply, err := w.r.User(context.Background(), &envelope.UserRequest{User: user})
	if err != nil {
		w.t.Fatal(err)
	}
	return reply
}

func (w *world) hasDevice(user, device string) bool {
	w.t.Helper()
	return slices.ContainsFunc(w.user(user).Devices, func(d *envelope.DeviceInfo) bool { return d.Device == device })
}

// One device more than a user may have: a connected device stays, and what it costs to forget another one is
// counted and reported.
func TestDevicesPerUser(t *testing.T) {
	const u = "u"
	for name, c := range map[string]struct {
		policy  router.DevicesPolicy
		bound   int
		refused bool // although one is offline
	}{
		"replace, 64": {router.ReplaceDevice, 64, false}, "refuse, 64": {router.RefuseDevice, 64, true},
		"replace, 3": {router.ReplaceDevice, 3, false}, "refuse, 3": {router.RefuseDevice, 3, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(cfg *router.Config) {
				cfg.DevicesPerUser, cfg.DevicesPolicy, cfg.SessionsPerUser = c.bound, c.policy, 0
				cfg.CometTimeout = 24 * time.Hour // the clock goes fast
			})
			for i := range c.bound {
				w.clock.add(time.Minute)
				w.attach(session("c", uint64(i+1), u, fmt.Sprint("d", i)))
			}
			id := w.push(u, "a")
			w.push(u, "b")
			if err := w.tryAttach(session("c", 100, u, "one more")); !errors.Is(err, envelope.ErrTooManyDevices) {
				t.Fatalf("while all are connected: %v", err)
			}
			if n := w.gauges("imgo_router_sessions")[""]; n != float64(c.bound) {
				t.Errorf("%v sessions: a refused one is left", n)
			}
			// The first is the one that is offline for the longest time. It has acknowledged one of two messages.
			w.ack(u, "d0", id)
			w.detach(session("c", 1, u, "d0"))
			w.clock.add(time.Minute)
			w.detach(session("c", 2, u, "d1"))
			err := w.tryAttach(session("c", 100, u, "one more"))
			if c.refused {
				if !errors.Is(err, envelope.ErrTooManyDevices) || !w.hasDevice(u, "d0") || w.user(u).Dropped != 0 {
					t.Fatalf("got %v, devices %v", err, w.user(u).Devices)
				}
				return
			}
			if err != nil || w.hasDevice(u, "d0") || !w.hasDevice(u, "d1") || len(w.user(u).Devices) != c.bound {
				t.Fatalf("got %v, devices %v", err, w.user(u).Devices)
			}
			if got := w.user(u); got.Dropped != 1 || !slices.Contains(w.happened(), "device_evicted u") {
				t.Errorf("%d dropped, events %v", got.Dropped, w.happened())
			}
			for name, want := range map[string]float64{"imgo_router_evicted_devices_total": 1, "imgo_router_dropped_messages_total": 1} {
				if n := w.counter(name); n != want {
					t.Errorf("%s is %v, want %v", name, n, want)
				}
			}
			// After a restart, and from the log alone, it is the same.
			before := w.user(u)
			for range 2 {
				w.stop()
				w.start()
				if after := w.user(u); len(after.Devices) != len(before.Devices) || w.hasDevice(u, "d0") || after.Pending != before.Pending {
					t.Errorf("before\n%v\nafter\n%v", before, after)
				}
				w.stop()
				w.dir = t.TempDir()
				w.start()
			}
		})
	}
}

// A device that made room for another one is a new one when it comes back.
func TestDeviceThatMadeRoomComesBack(t *testing.T) {
	const u = "u"
	w := newWorld(t, func(cfg *router.Config) { cfg.DevicesPerUser = 2 })
	old, young := session("c", 1, u, "old"), session("c", 2, u, "young")
	w.attach(old)
	w.attach(young)
	w.detach(old)
	if err := w.tryAttach(session("c", 3, u, "third")); err != nil || w.hasDevice(u, "old") {
		t.Fatalf("got %v, devices %v", err, w.user(u).Devices)
	}
	if err := w.tryAttach(session("c", 4, u, "old")); !errors.Is(err, envelope.ErrTooManyDevices) {
		t.Errorf("the old one is back: %v", err)
	}
	w.detach(session("c", 3, u, "third"))
	w.attach(session("c", 5, u, "old"))
	if w.hasDevice(u, "third") || !w.hasDevice(u, "young") {
		t.Errorf("devices %v", w.user(u).Devices)
	}
}

func (w *world) remove(removal *envelope.Removal) (*envelope.RemoveReply, error) {
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	return w.r.Remove(ctx, &envelope.RemoveRequest{Removal: removal})
}

func TestRemove(t *testing.T) {
	const u = "u"
	w := newWorld(t, nil)
	phone, laptop := session("c", 1, u, "phone"), session("c", 2, u, "laptop")
	w.attach(phone)
	w.attach(laptop)
	w.detach(phone)
	w.detach(laptop)
	id := w.push(u, "a")
	w.push(u, "b")
	w.ack(u, "laptop", id)

	if _, err := w.remove(&envelope.Removal{User: u, Devices: []string{"tablet"}}); !errors.Is(err, envelope.ErrNotFound) {
		t.Errorf("an unknown device: %v", err)
	}
	reply, err := w.remove(&envelope.Removal{User: u, Devices: []string{"phone"}})
	if err != nil || reply.Devices != 1 || reply.Messages != 2 {
		t.Errorf("forget: %v, %v", reply, err)
	}
	if got := w.user(u); len(got.Devices) != 1 || got.Pending != 1 {
		t.Errorf("after that: %v", got)
	}
	reply, err = w.remove(&envelope.Removal{User: u, Messages: true})
	if err != nil || reply.Devices != 0 || reply.Messages != 1 {
		t.Errorf("purge: %v, %v", reply, err)
	}
	if got := w.user(u); len(got.Devices) != 1 || got.Pending != 0 {
		t.Errorf("after that: %v", got)
	}

	key := &envelope.Push{
		Users: []string{u}, Op: 5, Body: []byte("keyed"), IdempotencyKey: "k", ExpiresMs: w.clock.now().Add(time.Hour).UnixMilli(),
	}
	first := w.append(u, &envelope.Record{Push: key})
	w.applied(u, first)
	w.stop() // the store has the key
	w.start()
	if reply, err = w.remove(&envelope.Removal{User: u, All: true}); err != nil || reply.Devices != 1 || reply.Messages != 1 {
		t.Errorf("erase: %v, %v", reply, err)
	}
	erased := func(when string) {
		t.Helper()
		l, err := w.r.Lookup(context.Background(), &envelope.LookupRequest{Users: []string{u}, IdempotencyKey: "k"})
		got := w.user(u)
		if err != nil || l.Users[0].AppliedId != 0 || len(got.Devices) != 0 || got.Pending != 0 || got.Dropped != 0 || got.LastSeenMs != 0 {
			t.Errorf("%s: %v, %v, %v", when, got, l, err)
		}
	}
	erased("at once")
	w.restart()
	erased("after a restart")
	users, err := store.NewMailboxes(w.db).Users(envelope.Partition(u, 2), "", 10)
	if err != nil || len(users) != 0 {
		t.Errorf("the store knows %v, %v", users, err)
	}
	w.stop()
	w.dir = t.TempDir()
	w.start()
	erased("from the log")
	second := w.append(u, &envelope.Record{Push: key})
	w.applied(u, second)
	if got := w.user(u); got.Pending != 1 || got.OldestId != second {
		t.Errorf("a push with the erased key: %v", got)
	}
}

// Old clients, which come back whatever they are told, do not push each other out for ever. Clients of version 2 obey
// the code, so the newest of them always gets in.
func TestSessionsOfOldClientsDoNotFight(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.SessionsPerUser, c.CometTimeout = 1, 1000*time.Hour })
	kicked := 0
	next := uint64(0)
	come := func(generation string) bool {
		next++
		s := session("c", next, "u", "")
		s.Generation = generation
		ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
		defer cancel()
		reply, err := w.r.Attach(ctx, &envelope.AttachRequest{Session: s})
		if err != nil && !errors.Is(err, envelope.ErrTooMany) {
			t.Fatal(err)
		}
		for _, k := range reply.GetKicks() {
			kicked++
			if k.Code != int32(protocol.CloseTooManySessions) || protocol.CloseCode(k.Code).Reconnect() {
				t.Errorf("kick %v", k)
			}
		}
		return err == nil
	}
	come("goim")
	for range 24 * 60 * 20 { // a day in which a client comes every 3 seconds
		w.clock.add(3 * time.Second)
		come("goim")
	}
	if kicked > 40 {
		t.Errorf("%d sessions were pushed out within a day", kicked)
	}
	for range 2 {
		if !come("v2") {
			t.Error("a client of version 2 is refused")
		}
	}
	w.clock.add(3 * time.Hour)
	if !come("imgo") {
		t.Error("an old client is refused though there was peace")
	}
}

// A session that is refused replaces no other one: nobody would kick that one, and no
// message would be delivered to it.
func TestRefusedSessionReplacesNone(t *testing.T) {
	const u = "u"
	for name, c := range map[string]struct {
		change  func(*router.Config)
		session func(s *envelope.SessionInfo) // makes it one that is refused
	}{
		"no device may come": {
			func(c *router.Config) { c.DevicesPerUser, c.DevicesPolicy = 2, router.RefuseDevice },
			func(s *envelope.SessionInfo) { s.Device, s.Key = "third", "k" },
		},
		"no device may come, and no session": {
			func(c *router.Config) {
				c.DevicesPerUser, c.DevicesPolicy, c.SessionsPerUser = 2, router.RefuseDevice, 2
			},
			func(s *envelope.SessionInfo) { s.Device = "third" },
		},
		"no session may come": {
			func(c *router.Config) { c.SessionsPerUser, c.SessionsPolicy = 1, router.RefuseSession },
			func(s *envelope.SessionInfo) { s.Key = "k" },
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c.change)
			keyed, other := session("c", 1, u, "d1"), session("c", 2, u, "d2")
			keyed.Key = "k"
			w.attach(keyed)
			w.announce("c", 0, nil, other) // sessions that are announced are in the table whatever the limit
			device := &envelope.Device{User: u, Device: "d2", SeenMs: w.clock.now().UnixMilli()}
			w.applied(u, w.append(u, &envelope.Record{Device: device}))
			refused := session("c", 3, u, "d1")
			refused.Generation = envelope.ClientProtocolV2
			c.session(refused)
			if err := w.tryAttach(refused); !errors.Is(err, envelope.ErrTooMany) && !errors.Is(err, envelope.ErrTooManyDevices) {
				t.Fatalf("got %v", err)
			}
			if n := w.online(u); n != 2 {
				t.Errorf("%d sessions are in the table, before it were 2", n)
			}
			if err := w.tryAttach(keyed); err != nil && strings.Contains(err.Error(), "has replaced this one") {
				t.Errorf("the call for a session that stayed is made again: %v", err)
			}
		})
	}
}

// A client whose connect was tried for long, and that has come back meanwhile, does not replace the session that it uses.
// Only the sessions of one start of a comet have an order. Any other one is replaced, whatever the clocks of the comets say.
func TestOlderClientReplacesNoNewerOne(t *testing.T) {
	const u = "u"
	const incarnation = 5 << 32
	for name, tt := range map[string]struct {
		comet             string
		id                uint64
		arrival, attached uint32 // attached is that of the session in the table, which is on the comet c
		since             int64  // that of the session in the table is 1000
		refused           bool
	}{
		"older":                         {"c", incarnation | 2, 6, 7, 500, true},
		"older, after a set clock":      {"c", incarnation | 2, 6, 7, 2000, true},
		"older, the count wrapped":      {"c", incarnation | 2, 1<<32 - 1, 1, 500, true},
		"newer":                         {"c", incarnation | 2, 8, 7, 2000, false},
		"newer, after a set clock":      {"c", incarnation | 2, 8, 7, 500, false},
		"newer, the count wrapped":      {"c", incarnation | 2, 1, 1<<32 - 1, 2000, false},
		"newer, the count far ahead":    {"c", incarnation | 2, 1, 1 << 30, 2000, false},
		"another comet, clock behind":   {"d", incarnation | 2, 6, 7, 500, false},
		"after a restart, clock behind": {"c", 6<<32 | 2, 6, 7, 500, false},
		"a comet without arrivals":      {"c", incarnation | 2, 0, 7, 500, false},
		"a comet upgraded meanwhile":    {"c", incarnation | 2, 6, 0, 500, false},
	} {
		for policy, code := range map[string]protocol.CloseCode{"key": protocol.CloseReplacedByKey, "limit": protocol.CloseTooManySessions} {
			t.Run(name+", "+policy, func(t *testing.T) {
				w := newWorld(t, func(c *router.Config) { c.SessionsPerUser, c.SessionsPolicy = 1, router.CloseOldestSession })
				there, late := session("c", incarnation|1, u, ""), session(tt.comet, tt.id, u, "")
				there.Arrival, late.Arrival, there.SinceMs, late.SinceMs = tt.attached, tt.arrival, 1000, tt.since
				if policy == "key" {
					there.Key, late.Key = "k", "k"
				}
				w.attach(there)
				if !tt.refused {
					kicks := w.attach(late).Kicks
					if len(kicks) != 1 || kicks[0].To[0].Session != incarnation|1 || kicks[0].Code != int32(code) {
						t.Errorf("kicks: %v", kicks)
					}
					return
				}
				for range 2 { // the comet tries again
					err := w.tryAttach(late)
					var e *envelope.Error
					if !errors.As(err, &e) || e.Code != envelope.CodeTooMany || (e.Field == "key") != (policy == "key") ||
						!strings.Contains(err.Error(), "has replaced this one") {
						t.Errorf("got %v", err)
					}
				}
				l, err := w.r.Lookup(t.Context(), &envelope.LookupRequest{Users: []string{u}})
				if err != nil || len(l.Users[0].Sessions) != 1 || l.Users[0].Sessions[0].Session != incarnation|1 {
					t.Errorf("in the table: %v, %v", l, err)
				}
			})
		}
	}
}

// The oldest sessions are closed, in whatever order they came into the table. A client that was tried for long closes none
// that came after it.
func TestTheOldestSessionIsClosed(t *testing.T) {
	for name, tt := range map[string]struct {
		arrival uint32
		want    string // the session that is closed, of those that came as 10, 20 and 30. Empty: the last one is refused
	}{"the newest": {40, "10"}, "older than two": {15, "10"}, "the oldest": {5, ""}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *router.Config) { c.SessionsPerUser, c.SessionsPolicy = 3, router.CloseOldestSession })
			at := func(arrival uint32) *envelope.SessionInfo {
				s := session("c", uint64(arrival), "u", "")
				s.Generation, s.Arrival, s.SinceMs = envelope.ClientProtocolV2, arrival, int64(arrival)
				return s
			}
			w.announce("c", 0, nil, at(20), at(10), at(30))
			reply, err := w.r.Attach(t.Context(), &envelope.AttachRequest{Session: at(tt.arrival)})
			var closed string
			for _, kick := range reply.GetKicks() {
				closed += fmt.Sprint(kick.To[0].Session)
			}
			if closed != tt.want || (tt.want == "") != errors.Is(err, envelope.ErrTooMany) {
				t.Errorf("closed %q, %v", closed, err)
			}
		})
	}
}

// The session that was attached first is the oldest, whatever the clocks of the comets say.
func TestTheOldestSessionIsTheFirst(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.SessionsPerUser, c.SessionsPolicy = 2, router.CloseOldestSession })
	for i, since := range []int64{2000, 1000, 3000} {
		s := session(fmt.Sprint("c", i), 1, "u", "")
		s.SinceMs = since
		kicks := w.attach(s).Kicks
		if i < 2 {
			continue
		}
		if len(kicks) != 1 || kicks[0].To[0].Comet != "c0" {
			t.Errorf("kicks: %v", kicks)
		}
	}
}

// An old client replaces all sessions that are too many, as others do, and not only one.
func TestOldClientReplacesAllThatAreTooMany(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.SessionsPerUser = 1 })
	w.attach(session("c", 1, "u", ""))
	w.announce("c", 0, nil, session("c", 2, "u", "")) // in the table whatever the limit
	if kicks := w.attach(session("c", 3, "u", "")).Kicks; len(kicks) != 2 || w.online("u") != 1 {
		t.Errorf("kicks %v, %d sessions", kicks, w.online("u"))
	}
}

// Anonymous sessions are no user together: no limit counts them so, and no mailbox is made for them.
func TestAnonymousSessions(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.SessionsPerUser, c.DevicesPerUser = 1, 1 })
	for id := range uint64(200) {
		s := session("c", id+1, envelope.AnonymousUser(id+1), "")
		reply := w.attach(s)
		if len(reply.Kicks) != 0 || reply.Backlog == nil || reply.Pending != 0 || !s.IsAnonymous() {
			t.Fatalf("session %d: %v", id, reply)
		}
		b, err := w.r.CatchUp(context.Background(), &envelope.CatchUpRequest{To: s.Address, User: s.User})
		if err != nil || len(b.Messages) != 0 {
			t.Fatalf("session %d: %v, %v", id, b, err)
		}
	}
	if n := w.gauges("imgo_router_sessions")[""]; n != 200 {
		t.Errorf("%v sessions", n)
	}
	for p := range int32(2) {
		if _, end, _ := w.kept.Bounds(context.Background(), p); end != 0 {
			t.Errorf("the log has %d records", end)
		}
	}
}
