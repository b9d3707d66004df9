package router_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/roles/router"
	"imgo/store"
)

// member puts a user into a room, or takes it out, and waits until that is applied.
func (w *world) member(user, room string, member bool) uint64 {
	w.t.Helper()
	id := w.append(user, &envelope.Record{Membership: &envelope.Membership{User: user, Room: room, Member: member}})
	w.applied(user, id)
	return id
}

// rooms are a user's rooms, sorted, once a record was applied.
func (w *world) rooms(user string, floor uint64) string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	reply, err := w.r.Memberships(ctx, &envelope.MembershipsRequest{User: user, Floor: floor})
	if err != nil {
		w.t.Fatal(err)
	}
	return fmt.Sprint(slices.Sorted(slices.Values(reply.Memberships.Rooms)))
}

func TestMembershipsSurviveARestart(t *testing.T) {
	for name, lose := range map[string]func(*world){"its disk": func(*world) {}, "an empty disk": func(w *world) { w.dir = w.t.TempDir() }} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *router.Config) { c.RoomsPerUser = 2 })
			w.member("u", "a", true)
			w.member("u", "b", true)
			w.member("u", "c", true) // one too many
			w.member("u", "a", false)
			last := w.member("u", "d", true)
			w.member("v", "a", true)
			w.member("w", "a", false) // it never was there
			check := func() {
				t.Helper()
				if got := w.rooms("u", last) + w.rooms("v", 0) + w.rooms("w", 0); got != "[b d][a][]" {
					t.Errorf("the rooms are %s", got)
				}
				// A new session has them from the start.
				reply := w.attach(session("c", 1, "u", "phone"))
				if m := reply.Memberships; m.GetAt() != last || len(m.GetRooms()) != 2 {
					t.Errorf("a new session has %v", m)
				}
				if m := w.attach(session("c", 2, "x", "phone")).Memberships; m != nil {
					t.Errorf("a session of a user without memberships has %v", m)
				}
			}
			check()
			w.stop()
			lose(w)
			w.start()
			check()
		})
	}
}

// TestMembershipRecordsMayBeAppliedAgain: the stored state may be newer than the
// stored position. What is applied over it again changes nothing, even though a room
// was full, or was left, in between.
func TestMembershipRecordsMayBeAppliedAgain(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.RoomsPerUser = 2 })
	u := "u"
	for _, step := range []string{"+a", "+b", "+c", "-a", "+d", "-b", "+a"} {
		w.member(u, step[1:], step[0] == '+')
	}
	want := w.rooms(u, 0)
	if want != "[a d]" {
		t.Fatalf("the rooms are %s", want)
	}
	for position := range int64(6) {
		w.stop() // it stores the state
		db, err := store.Open(store.Options{Dir: w.dir, Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		if err := store.NewMailboxes(db).Batch(envelope.Partition(u, 2)).Commit(envelope.ID(1, position)); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		w.start()
		if got := w.rooms(u, 0); got != want {
			t.Errorf("after the records from %d on were applied again the rooms are %s, want %s", position, got, want)
		}
	}
}

func TestMembershipsAreRepeatedBeforeTheyLeaveTheLog(t *testing.T) {
	const retention = 320 * time.Millisecond // by the test's clock; the sweeps are every 10 ms
	w := newWorld(t, func(c *router.Config) {
		c.Retention, c.FlushInterval, c.IdleMailboxes = retention, time.Millisecond, 0
	})
	w.member("u", "a", true)
	w.member("u", "b", true)
	last := w.member("u", "a", false)
	w.member("gone", "a", true)
	w.member("gone", "a", false)
	repeats := func(user string) (list []*envelope.UserRooms, at int64) {
		w.kept.mu.Lock()
		defer w.kept.mu.Unlock()
		for _, e := range w.kept.parts[envelope.Partition(user, 2)] {
			var rec envelope.Record
			if err := rec.UnmarshalVT(e.Value); err != nil {
				t.Error(err)
			}
			if rec.UserRooms.GetUser() == user {
				list, at = append(list, rec.UserRooms), e.Offset
			}
		}
		return list, at
	}
	var begin int64
	for i := range 3 {
		w.clock.add(retention * 3 / 4)
		eventually(t, "the memberships are in the log again", func() bool {
			list, at := repeats("u")
			begin = at
			return len(list) == i+1
		})
	}
	if list, _ := repeats("gone"); len(list) != 0 {
		t.Errorf("nothing was repeated as %v", list)
	}
	// The log forgets all before the last repetition. Then the user joins one more.
	w.kept.trim(envelope.Partition("u", 2), begin)
	w.member("u", "c", true)
	w.stop()
	w.dir = t.TempDir()
	w.start()
	if got := w.rooms("u", 0); got != "[b c]" {
		t.Errorf("rebuilt, the rooms are %s", got)
	}
	// A repetition that a change has overtaken is void.
	w.append("u", &envelope.Record{UserRooms: &envelope.UserRooms{User: "u", Rooms: &envelope.Memberships{At: last, Rooms: []string{"a"}}}})
	w.awaitApplied([]string{"u"})
	if got := w.rooms("u", 0); got != "[b c]" {
		t.Errorf("after a repetition that is out of date the rooms are %s", got)
	}
}

func TestMembershipsMoveWithTheMailbox(t *testing.T) {
	g := newGrowing(5)
	w := newWorldOf(t, nil, nil, nil)
	w.stop()
	w.growth = g
	w.start()
	for i := range 20 {
		user := fmt.Sprint("user", i)
		w.member(user, "a", true)
		w.member(user, fmt.Sprint("room", i), true)
		w.member(user, "a", i%2 == 0)
	}
	w.push("user3", "with a message")
	close(g.begun)
	g.awaitMoved(t, 2)
	n := after(t, w, g.next)
	for i := range 20 {
		user, want := fmt.Sprint("user", i), fmt.Sprintf("[room%d]", i)
		if i%2 == 0 {
			want = fmt.Sprintf("[a room%d]", i)
		}
		if got := n.rooms(user, 0); got != want {
			t.Errorf("%s has moved with %s, want %s", user, got, want)
		}
	}
	n.add("user1", &envelope.Record{Membership: &envelope.Membership{User: "user1", Room: "room1"}})
	if got := n.rooms("user1", 0); got != "[]" {
		t.Errorf("after the move a user left, and has %s", got)
	}
}

// notified are the lists of rooms that the router published to the live log.
func (w *world) notified() (list []*envelope.SessionRooms) {
	w.live.mu.Lock()
	defer w.live.mu.Unlock()
	for _, e := range w.live.parts[0] {
		var env envelope.Envelope
		if err := env.UnmarshalVT(e.Value); err != nil {
			w.t.Error(err)
		}
		if env.SessionRooms != nil {
			list = append(list, env.SessionRooms)
		}
	}
	return list
}

// TestSessionsAreToldTheirRoomsAgain: what logic tells sessions may be lost. The owner
// tells them again for a while, and those that are announced with an old list.
func TestSessionsAreToldTheirRoomsAgain(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.CometTimeout = 24 * time.Hour })
	w.attach(session("c", 1, "u", "phone"))
	w.attach(session("c", 2, "u", "laptop"))
	id := w.member("u", "a", true)
	eventually(t, "the sessions are told", func() bool {
		w.clock.add(10 * time.Millisecond)
		return len(w.notified()) > 0
	})
	first := w.notified()[0]
	if len(first.To) != 2 || first.Rooms.At != id || fmt.Sprint(first.Rooms.Rooms) != "[a]" {
		t.Errorf("told %v", first)
	}
	eventually(t, "the reminders end", func() bool {
		w.clock.add(time.Second)
		return len(w.notified()) == 6
	})
	for range 20 {
		w.clock.add(time.Minute)
		time.Sleep(time.Millisecond) // a few more watches: there must be nothing to wait for
	}
	if n := len(w.notified()); n != 6 {
		t.Fatalf("told %d times", n)
	}
	announce := func(roomsAt uint64) {
		t.Helper()
		s := session("c", 3, "u", "tv")
		s.RoomsAt = roomsAt
		if _, err := w.r.Announce(context.Background(), &envelope.AnnounceRequest{Comet: "c", Sessions: []*envelope.SessionInfo{s}}); err != nil {
			t.Fatal(err)
		}
	}
	announce(id)
	w.clock.add(time.Minute)
	announce(id - 1)
	eventually(t, "a session with an old list is told", func() bool {
		w.clock.add(10 * time.Millisecond)
		return len(w.notified()) > 6
	})
}

// A comet is told the rooms of its sessions again and again while the live log takes nothing.
func TestRoomsWaitForTheLiveLog(t *testing.T) {
	w := newWorld(t, func(c *router.Config) { c.CometTimeout = 24 * time.Hour })
	var tries atomic.Int64
	w.live.setBefore(func(int32, []byte) error {
		tries.Add(1)
		return envelope.ErrUnavailable
	})
	w.attach(session("c", 1, "u", "phone"))
	id := w.member("u", "a", true)
	eventually(t, "it was tried for long", func() bool {
		w.clock.add(time.Second)
		return tries.Load() > 10
	})
	w.live.setBefore(nil)
	eventually(t, "the session is told", func() bool {
		w.clock.add(time.Second)
		return len(w.notified()) > 0
	})
	if first := w.notified()[0]; first.Rooms.At != id {
		t.Errorf("told %v", first)
	}
}
