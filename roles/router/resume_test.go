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
				c.DedupeWarm = 1000
				c.IdleMailboxes = rng.IntN(3)
				c.FlushBytes = 1 << (6 + rng.IntN(10))
			})
			users := []string{"u1", "u2", "u3"}
			devices := []string{"", "phone", "laptop"}
			var ids []uint64
			for step := range 300 {
				user := users[rng.IntN(len(users))]
				switch rng.IntN(10) {
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
