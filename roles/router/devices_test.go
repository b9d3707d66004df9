package router_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/internal/wait/waittest"
	"imgo/roles/router"
	"imgo/store"
)

// devices are the device records of user in the log.
func (w *world) devices(user string) (list []*envelope.Device) {
	w.kept.mu.Lock()
	defer w.kept.mu.Unlock()
	for _, e := range w.kept.parts[envelope.Partition(user, 2)] {
		var rec envelope.Record
		if err := rec.UnmarshalVT(e.Value); err != nil {
			w.t.Error(err)
		}
		if rec.Device.GetUser() == user {
			list = append(list, rec.Device)
		}
	}
	return list
}

// Devices whose records are about to leave the log are put into it again. A router that
// rebuilds from what is left of the log has every device, with exactly what it had yet to
// read.
func TestRebuildFromAShortenedLog(t *testing.T) {
	const retention = 320 * time.Millisecond // by the test's clock; the sweeps are every 10 ms
	w := newWorld(t, func(c *router.Config) {
		c.Retention, c.FlushInterval, c.IdleMailboxes = retention, time.Millisecond, 0
		c.CometTimeout = retention / 2 // no device expires before
	})
	u := "u"
	phone, laptop := session("c", 1, u, "phone"), session("c", 2, u, "laptop")
	w.attach(phone)
	w.attach(laptop)
	w.detach(phone)
	w.detach(laptop)
	longAgo := w.clock.now().Add(-31 * 24 * time.Hour).UnixMilli()
	w.append(u, &envelope.Record{Device: &envelope.Device{User: u, Device: "old", SeenMs: longAgo}})
	m1 := w.push(u, "1")
	w.ack(u, "phone", m1)
	m2 := w.push(u, "2")
	w.ack(u, "laptop", m2)
	if n := len(w.devices(u)); n != 3 {
		t.Fatalf("%d device records", n)
	}
	seen := w.clock.now().UnixMilli()
	for i := 1; i <= 3; i++ {
		w.clock.add(retention * 3 / 4)
		eventually(t, "both devices are in the log again", func() bool { return len(w.devices(u)) >= 3+2*i })
	}
	again := w.devices(u)[3:]
	if len(again) != 6 {
		t.Fatalf("%d repetitions in 3 halves of the retention, want one of each device in each", len(again))
	}
	for _, d := range again {
		if d.Since == 0 || d.SeenMs > seen || d.Device == "old" {
			t.Errorf("repeated %v", d)
		}
	}
	w.awaitApplied([]string{u})
	resumed := w.state([]string{u})

	// The log forgets all before the first message.
	_, begin := envelope.SplitID(m1)
	w.kept.trim(envelope.Partition(u, 2), begin)
	w.stop()
	w.dir = t.TempDir()
	w.start()
	if rebuilt := w.state([]string{u}); rebuilt != resumed {
		t.Fatalf("resumed:\n%s\nrebuilt:\n%s", resumed, rebuilt)
	}
}

// New devices of a user that come at the same time are not more than are allowed.
func TestDevicesThatComeAtOnceAreLimited(t *testing.T) {
	for policy, known := range map[router.DevicesPolicy]int{router.RefuseDevice: 0, router.ReplaceDevice: 1} {
		t.Run(string(policy), func(t *testing.T) {
			const user, limit, coming = "u", 2, 5
			w := newWorld(t, func(c *router.Config) { c.DevicesPerUser, c.DevicesPolicy = limit, policy })
			for i := range known {
				s := session("c", uint64(100+i), user, fmt.Sprint("old", i))
				w.attach(s)
				w.detach(s)
			}
			w.applied(user, w.push(user, "a"))
			p := envelope.Partition(user, 2)
			w.kept.stick(p, w.kept.End(p))
			unstick := sync.OnceFunc(func() { w.kept.stick(p, 0) })
			defer unstick()
			errs := make(chan error, coming)
			for i := range coming {
				go func() {
					_, err := w.r.Attach(context.Background(), &envelope.AttachRequest{Session: session("c", uint64(i), user, fmt.Sprint("d", i))})
					errs <- err
				}()
			}
			eventually(t, "each is in the log or refused", func() bool { return len(w.devices(user))-known+len(errs) == coming })
			unstick()
			refused := 0
			for range coming {
				if err := <-errs; errors.Is(err, envelope.ErrTooManyDevices) {
					refused++
				} else if err != nil {
					t.Error(err)
				}
			}
			if refused != coming-limit {
				t.Errorf("%d of %d were refused, with a limit of %d", refused, coming, limit)
			}
			if reply, err := w.r.User(context.Background(), &envelope.UserRequest{User: user}); err != nil || len(reply.Devices) != limit {
				t.Errorf("the user has the devices %v, %v", reply.GetDevices(), err)
			}
		})
	}
}

// A device that expires while the log is read back is not dropped halfway: a
// later record may say that it was seen again.
func TestRebuildKeepsADeviceThatCameBack(t *testing.T) {
	w := newWorld(t, nil)
	w.attach(session("c", 1, "u", "d"))
	w.attach(session("c", 1, "u", "e"))
	w.stop()
	w.clock.add(31 * 24 * time.Hour)
	back := func(device string) {
		w.append("u", &envelope.Record{Device: &envelope.Device{User: "u", Device: device, SeenMs: w.clock.now().UnixMilli()}})
	}
	back("e")
	m := w.push("u", "a")
	w.append("u", &envelope.Record{Acks: &envelope.Acks{Acks: []*envelope.Ack{{User: "u", Device: "e", Ids: []uint64{m}}}}})
	back("d")
	w.start()
	w.awaitApplied([]string{"u"})
	if got := bodies(w.attach(session("c", 1, "u", "d")).Backlog); got != "a" {
		t.Fatalf("pending %q", got)
	}
}

// One claim record that is in the log twice is one claim, also when it is
// known only from the disk.
func TestDoubledClaim(t *testing.T) {
	w := newWorld(t, nil)
	rec := &envelope.Record{Id: envelope.NewRecordID(), Claim: &envelope.Claim{Key: "k"}}
	rival := &envelope.Record{Id: envelope.NewRecordID(), Claim: &envelope.Claim{Key: "k"}}
	won := func(id uint64, record []byte) bool {
		t.Helper()
		reply, err := w.r.Claim(context.Background(), &envelope.ClaimRequest{
			Partition: uint32(envelope.Partition("k", 2)), Id: id, Key: "k", RecordId: record})
		if err != nil {
			t.Fatal(err)
		}
		return reply.Won
	}
	first, second, other := w.append("k", rec), w.append("k", rec), w.append("k", rival)
	for _, restart := range []bool{false, true} {
		if restart {
			w.restart()
		}
		if !won(first, rec.Id) || !won(second, rec.Id) || won(other, rival.Id) {
			t.Errorf("restart=%v: the first record must win wherever it is, and no other", restart)
		}
		if !won(first, nil) || won(second, nil) {
			t.Errorf("restart=%v: without a record id the place decides", restart)
		}
	}
	if third := w.append("k", rec); !won(third, rec.Id) {
		t.Error("a double that came long after")
	}
}

// The ids of records that were applied before a gain are known after it.
func TestRetriedRecordIsVoidAfterARegain(t *testing.T) {
	g := newRing(0, 1)
	w := newOwner(t, nil, g, nil)
	u := userOf(1)
	rec := &envelope.Record{Id: envelope.NewRecordID(), Push: &envelope.Push{
		Users: []string{u}, Op: 5, Body: []byte("x"), ExpiresMs: w.clock.now().Add(time.Hour).UnixMilli()}}
	w.applied(u, w.append(u, rec))
	g.set(0)
	w.owns(u, false)
	g.set(0, 1)
	w.owns(u, true)
	w.applied(u, w.append(u, rec))
	if got := bodies(w.attach(session("c", 1, u, "d")).Backlog); got != "x" {
		t.Fatalf("pending %q", got)
	}
}

// Of two sessions with one key the later one stays, though the call of the
// earlier one is made again.
func TestOustedSessionStaysOut(t *testing.T) {
	for name, change := range map[string]func(*router.Config){
		"key":   func(*router.Config) {},
		"limit": func(c *router.Config) { c.SessionsPerUser, c.SessionsPolicy = 1, router.CloseOldestSession },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, change)
			old, young := session("c", 1, "u", ""), session("d", 1, "u", "")
			old.Key, young.Key = "k", "k"
			w.attach(old)
			if kicks := w.attach(young).Kicks; len(kicks) != 1 || kicks[0].To[0].Comet != "c" {
				t.Fatalf("kicks %v", kicks)
			}
			if _, err := w.r.Attach(context.Background(), &envelope.AttachRequest{Session: old}); !errors.Is(err, envelope.ErrTooMany) {
				t.Fatalf("the replaced session came again: %v", err)
			}
			if kicks := w.attach(young).Kicks; len(kicks) != 0 || w.online("u") != 1 {
				t.Fatalf("kicks %v, %d sessions", kicks, w.online("u"))
			}
		})
	}
}

// A store that is ahead of its log is refused.
func TestPositionPastTheEnd(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.FlushInterval, c.Presence.Events = time.Millisecond, true })
	w.applied("u", w.push("u", "a"))
	w.stop()
	w.kept = newMemLog(2)
	db, err := store.Open(store.Options{Dir: w.dir, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	r, err := router.New(w.cfg, router.Deps{Kept: w.kept, Live: w.live, Store: store.NewMailboxes(db), Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), waittest.Limit)
	defer cancel()
	if err := r.Run(ctx); err == nil || !strings.Contains(err.Error(), "past the end of the log") {
		t.Fatalf("got %v", err)
	}
	if err := ctx.Err(); err != nil {
		t.Fatalf("Run did not end by itself: %v", err)
	}
}

// A device that stays connected does not expire while its comet announces the session to a router that was restarted,
// or that owns the partition again. A device that is not connected expires soon after that.
func TestConnectedDeviceOutlivesARestart(t *testing.T) {
	const expiry = time.Minute
	g := newRing(0, 1)
	w := newWorldOf(t, nil, g, func(c *router.Config) {
		c.DeviceExpiry, c.CometTimeout, c.LoseAfter = expiry, 10*expiry, time.Hour
	})
	u := userOf(1)
	devices := func() int {
		t.Helper()
		reply, err := w.r.User(context.Background(), &envelope.UserRequest{User: u})
		if err != nil {
			t.Fatal(err)
		}
		return len(reply.Devices)
	}
	s := session("c", 1, u, "d")
	w.attach(s)
	gone := session("c", 2, u, "gone")
	w.attach(gone)
	w.detach(gone)
	w.clock.add(expiry / 3)
	w.attach(s)
	eventually(t, "the device is noted as seen", func() bool { return len(w.devices(u)) == 3 })
	w.applied(u, w.push(u, "a"))
	w.clock.add(2 * expiry)
	w.restart()
	if n := devices(); n != 2 {
		t.Fatalf("%d devices after a restart, before the comet announced its session", n)
	}
	w.announce("c", 0, nil, s)
	w.clock.add(w.cfg.CometTimeout)
	if n := devices(); n != 1 || bodies(w.attach(s).Backlog) != "a" {
		t.Fatalf("%d devices after the time for announcements", n)
	}
	w.detach(s)
	w.clock.add(2 * expiry)
	owned := func() bool { _, ok := w.announce("other", 0, nil).Epochs[1]; return ok }
	g.set(0)
	eventually(t, "the partition is not owned", func() bool { return !owned() })
	g.set(0, 1)
	eventually(t, "the partition is owned again", owned)
	if n := devices(); n != 1 {
		t.Errorf("%d devices after a regain, before the comet announced its session", n)
	}
}

// A device that has expired and that only a record may forget stays if it comes back before that record.
func TestExpiredDeviceThatCameBackStays(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.DeviceExpiry = time.Hour })
	users := []string{"u0"} // of one partition
	for i := 1; len(users) < 3; i++ {
		if u := fmt.Sprint("u", i); envelope.Partition(u, 2) == envelope.Partition(users[0], 2) {
			users = append(users, u)
		}
	}
	removed := func(user string) bool {
		w.kept.mu.Lock()
		defer w.kept.mu.Unlock()
		return slices.ContainsFunc(w.kept.parts[envelope.Partition(user, 2)], func(e envelope.Entry) bool {
			var rec envelope.Record
			return rec.UnmarshalVT(e.Value) == nil && rec.Removal.GetUser() == user
		})
	}
	for _, u := range users {
		now := w.clock.now().UnixMilli()
		since := w.append(u, &envelope.Record{Device: &envelope.Device{User: u, Device: "d", SeenMs: now}})
		w.applied(u, w.append(u, &envelope.Record{Device: &envelope.Device{
			User: u, Device: "d", SeenMs: now, Since: since, Published: 1,
		}}))
	}
	w.clock.add(2 * time.Hour)
	w.restart()
	w.clock.add(w.cfg.CometTimeout) // no device expires before
	w.attach(session("c", 1, users[0], "d"))
	for _, gone := range users[1:] {
		if _, err := w.r.User(context.Background(), &envelope.UserRequest{User: gone}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the device of a user that is gone is forgotten by a record", func() bool { return removed(gone) })
	}
	if removed(users[0]) {
		t.Error("the device of a connected user was forgotten")
	}
}
