package router_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/roles/router"
	"imgo/store"
)

// What a router has after crashes at any moment, resumed from its own disk,
// is what a router with an empty disk reads back from the log.
func TestResumedIsRebuilt(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 1))
			w := newWorld(t, func(c *router.Config) {
				c.FlushInterval = time.Duration(rng.IntN(4)+1) * time.Millisecond
				c.MailboxLength = 20
				c.Repeats = time.Minute
				c.IdleMailboxes = rng.IntN(3)
				c.FlushBytes = 1 << (6 + rng.IntN(10))
			})
			users := []string{"u1", "u2", "u3"}
			devices := []string{"", "phone", "laptop"}
			var ids []uint64
			for step := range 300 {
				user := users[rng.IntN(len(users))]
				switch rng.IntN(11) {
				case 0, 1, 2, 3:
					id := w.push(user, fmt.Sprint(step))
					ids = append(ids, id)
				case 4, 5, 6:
					ack := &envelope.Ack{User: user, Device: devices[rng.IntN(3)]}
					for range rng.IntN(6) {
						if len(ids) > 0 {
							ack.Ids = append(ack.Ids, ids[max(0, len(ids)-1-rng.IntN(30))])
						}
					}
					w.append(user, &envelope.Record{Acks: &envelope.Acks{Acks: []*envelope.Ack{ack}}})
				case 7:
					if step > 20 {
						w.append(user, &envelope.Record{Device: &envelope.Device{
							User: user, Device: devices[rng.IntN(3)], SeenMs: w.clock.now().UnixMilli()}})
					}
				case 8:
					time.Sleep(time.Duration(rng.IntN(2000)) * time.Microsecond) // another interleaving, not a wait
				case 9:
					if rng.IntN(3) == 0 {
						_ = w.db.Close() // what was not flushed by now is lost, as with kill -9
						w.restart()
					}
				case 10:
					if len(ids) > 0 {
						w.append(user, &envelope.Record{Read: randomRead(rng, user, devices, ids)})
					}
				}
			}
			for _, u := range users {
				w.push(u, "last")
			}
			w.awaitApplied(users)
			resumed := w.state(users)
			w.stop()
			w.dir = t.TempDir()
			w.start()
			w.awaitApplied(users)
			if rebuilt := w.state(users); rebuilt != resumed {
				t.Fatalf("resumed:\n%s\nrebuilt:\n%s", resumed, rebuilt)
			}
		})
	}
}

// awaitApplied waits until everything in the log was applied.
func (w *world) awaitApplied(users []string) {
	w.t.Helper()
	for _, u := range users {
		p := envelope.Partition(u, 2)
		_, end, _ := w.kept.Bounds(context.Background(), p)
		w.applied(u, envelope.ID(1, end-1))
	}
}

func (w *world) state(users []string) string {
	w.t.Helper()
	var out strings.Builder
	for _, u := range users {
		info, err := w.r.User(context.Background(), &envelope.UserRequest{User: u})
		if err != nil {
			w.t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s pending %d:", u, info.Pending)
		for _, d := range info.Devices {
			b, err := w.r.CatchUp(context.Background(), &envelope.CatchUpRequest{
				To: &envelope.Address{Comet: "c", Session: 1}, User: u, Device: d.Device, MaxMessages: 1000})
			if err != nil {
				w.t.Fatal(err)
			}
			fmt.Fprintf(&out, " %q:", d.Device)
			for _, m := range b.Messages {
				_, off := envelope.SplitID(m.Id)
				fmt.Fprintf(&out, "%d=%s,", off, m.Body)
			}
		}
		fmt.Fprintln(&out)
	}
	return out.String()
}

// The mailboxes that a router of an older version has stored lack what records did that it could not
// read. A newer router reads such a partition from the log again, once such records are in use.
func TestStateOfAnOlderVersionIsRebuilt(t *testing.T) {
	for _, c := range []struct {
		name             string
		inUse            uint32
		waiting, rebuilt int
	}{{"not in use", 1, 1, 0}, {"in use", 2, 2, 1}} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.stop()
			w.store = func(s router.Store) router.Store { return s.(*store.Mailboxes).DerivedBy(1) }
			w.start()
			w.attach(session("c", 1, "u1", "phone"))
			w.push("u1", "known to all")
			// The older router skips this record: it does not know its kind.
			at := w.append("u1", &envelope.Record{})
			w.applied("u1", at)
			w.stop()
			// To a newer router it is a push.
			rec := &envelope.Record{Id: envelope.NewRecordID(), TimeMs: w.clock.now().UnixMilli(), Push: &envelope.Push{
				Users: []string{"u1"}, Op: 5, Body: []byte("new"), ExpiresMs: w.clock.now().Add(time.Hour).UnixMilli()}}
			value, err := rec.MarshalVT()
			if err != nil {
				t.Fatal(err)
			}
			_, offset := envelope.SplitID(at)
			w.kept.mu.Lock()
			w.kept.parts[envelope.Partition("u1", 2)][offset].Value = value
			w.kept.mu.Unlock()

			w.store, w.records = nil, c.inUse
			w.start()
			if ids := w.pendingIDs("u1", "phone"); len(ids) != c.waiting {
				t.Errorf("%d messages wait, want %d", len(ids), c.waiting)
			}
			if n := int(w.counter("imgo_router_rederived_partitions_total")); n != c.rebuilt {
				t.Errorf("%d partitions were read again, want %d", n, c.rebuilt)
			}
			w.restart()
			if n, ids := w.counter("imgo_router_rederived_partitions_total"), w.pendingIDs("u1", "phone"); n != 0 || len(ids) != c.waiting {
				t.Errorf("after another start: %v partitions were read again, %d messages wait", n, len(ids))
			}
		})
	}
}
