package router_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/router"
)

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
			// The first device takes over what waited for the first one to come.
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
	id := w.append("u", &envelope.Record{Acks: &envelope.Acks{Acks: []*envelope.Ack{{User: "u", Device: "d", Ids: ids[:1]}}}})
	w.applied("u", id)
	if got := bodies(w.attach(s).Backlog); got != "c" {
		t.Fatalf("pending: %q, want c", got)
	}
}

func TestBacklogs(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.BacklogMessages = 2 })
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
			t.Fatalf("backlog %v", b)
		}
		got += bodies(b)
		if n := len(b.Messages); n > 0 {
			after = b.Messages[n-1].Id
		}
		if !b.More {
			if b.UpTo != last || i != 2 {
				t.Fatalf("ended with %v after %d backlogs", b, i)
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
	w := newWorld(t, func(c *router.Config) { c.Repeats = time.Minute })
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

// The copy of a push is void also if many records come before it, and after a restart. A router that starts
// does not read again what is too old to be repeated.
func TestRetriedRecordIsVoidAfterManyOthers(t *testing.T) {
	const between, old = 40_000, 100_000
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%v", restart), func(t *testing.T) {
			w := newWorld(t, func(c *router.Config) { c.Repeats = time.Minute })
			w.kept.stamp = w.clock.now
			w.kept.inChunks(500)
			w.attach(session("c", 1, "u", "d"))
			push := &envelope.Record{Id: envelope.NewRecordID(), Push: &envelope.Push{
				Users: []string{"u"}, Op: 5, Body: []byte("x"), ExpiresMs: w.clock.now().Add(time.Hour).UnixMilli()}}
			others := func(n int) {
				var last uint64
				for range n {
					last = w.append("u", &envelope.Record{})
				}
				w.applied("u", last)
			}
			others(old)
			w.clock.add(2 * time.Minute)
			w.append("u", push)
			others(between)
			p := envelope.Partition("u", 2)
			before := w.kept.read(p)
			if restart {
				w.restart()
			}
			w.applied("u", w.append("u", push))
			if got := w.pendingIDs("u", "d"); len(got) != 1 {
				t.Errorf("one push became the messages %v", got)
			}
			if n := w.kept.read(p) - before; n > 2*between {
				t.Errorf("%d records were read", n)
			}
		})
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

// A push that has expired by the time it is applied uses its key up, too: a
// caller that waits for what became of the key is answered.
func TestIdempotencyKeyOfAnExpiredPush(t *testing.T) {
	w := newWorld(t, nil)
	id := w.append("u", &envelope.Record{Push: &envelope.Push{Users: []string{"u"}, Op: 5, Body: []byte("x"),
		ExpiresMs: w.clock.now().UnixMilli(), IdempotencyKey: "k"}})
	w.applied("u", id)
	l, err := w.r.Lookup(context.Background(), &envelope.LookupRequest{Users: []string{"u"}, IdempotencyKey: "k"})
	if err != nil || l.Users[0].AppliedId != id {
		t.Fatalf("lookup: %v, %v", l, err)
	}
	if u, err := w.r.User(context.Background(), &envelope.UserRequest{User: "u"}); err != nil || u.Pending != 0 {
		t.Fatalf("user: %v, %v", u, err)
	}
}

// A key that is used while a flush is being written is still known after it.
func TestIdempotencyKeyUsedDuringAFlush(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.FlushInterval = time.Millisecond })
	ids := make(map[string]uint64)
	var last uint64
	for n := range 300 {
		key := fmt.Sprint("key-", n)
		last = w.append("u", &envelope.Record{Id: envelope.NewRecordID(), Push: &envelope.Push{
			Users: []string{"u"}, Op: 5, Body: []byte(key), ExpiresMs: w.clock.now().Add(time.Hour).UnixMilli(), IdempotencyKey: key,
		}})
		ids[key] = last
		w.applied("u", last)
	}
	for _, restart := range []bool{false, true} {
		if restart {
			w.restart()
		}
		for key, id := range ids {
			l, err := w.r.Lookup(context.Background(), &envelope.LookupRequest{Users: []string{"u"}, IdempotencyKey: key})
			if err != nil {
				t.Fatal(err)
			}
			if got := l.Users[0].AppliedId; got != id {
				t.Errorf("restart=%v: %s was used by %d, want %d", restart, key, got, id)
			}
		}
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
		w := newWorld(t, func(c *router.Config) { c.SessionsPerUser, c.SessionsPolicy = 1, router.RefuseSession })
		w.attach(session("c", 1, "u", ""))
		_, err := w.r.Attach(context.Background(), &envelope.AttachRequest{Session: session("c", 2, "u", "")})
		if !errors.Is(err, envelope.ErrTooMany) {
			t.Fatalf("got %v", err)
		}
		w.attach(session("c", 3, "v", ""))
	})
	t.Run("close the oldest", func(t *testing.T) {
		w := newWorld(t, func(c *router.Config) { c.SessionsPerUser, c.SessionsPolicy = 2, router.CloseOldestSession })
		w.attach(session("c", 1, "u", ""))
		w.attach(session("c", 2, "u", ""))
		kicks := w.attach(session("c", 3, "u", "")).Kicks
		if len(kicks) != 1 || kicks[0].To[0].Session != 1 || kicks[0].Code != int32(protocol.CloseTooManySessions) {
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
		if len(kicks) != 1 || kicks[0].To[0].Session != 1 || kicks[0].Code != int32(protocol.CloseReplacedByKey) {
			t.Fatalf("kicks: %v", kicks)
		}
		w.detach(old) // late
		l, err := w.r.Lookup(context.Background(), &envelope.LookupRequest{Users: []string{"u"}, Keys: []string{"k"}})
		if err != nil || len(l.Users[0].Sessions) != 1 || len(l.Keyed) != 0 {
			t.Fatalf("lookup: %v, %v", l, err)
		}
	})
	t.Run("by key", func(t *testing.T) {
		w := newWorld(t, nil)
		own, global, again, plain := session("c", 1, "u", ""), session("c", 2, "u", ""), session("c", 3, "v", ""), session("c", 4, "v", "")
		own.Key, global.Key, again.Key = "k", "g", "g"
		global.GlobalKey, again.GlobalKey = true, true
		for _, s := range []*envelope.SessionInfo{own, global, again, plain} {
			w.attach(s)
		}
		for key, want := range map[string][]uint64{
			"k": nil, "g": {2, 3}, "c~0000000000000001": {1}, "c~0000000000000002": {2}, "c~0000000000000004": {4}, "c~0000000000000005": nil,
		} {
			l, err := w.r.Lookup(context.Background(), &envelope.LookupRequest{Keys: []string{key}})
			var got []uint64
			for _, s := range l.GetKeyed() {
				got = append(got, s.GetAddress().GetSession())
				if s.GetKey() != key {
					t.Errorf("%s: found as %s", key, s.GetKey())
				}
			}
			slices.Sort(got)
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: sessions %v, want %v, %v", key, got, want, err)
			}
		}
		w.detach(global)
		if l, err := w.r.Lookup(context.Background(), &envelope.LookupRequest{Keys: []string{"g"}}); err != nil || len(l.Keyed) != 1 {
			t.Errorf("after the end of one: %v, %v", l, err)
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

// Forgetting a comet drops its sessions and those of no other comet.
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
