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

// secondRouter starts a second router over the log and the clock of w, with a disk and
// settings of its own.
func (w *world) secondRouter(change func(*router.Config)) *world {
	w.t.Helper()
	o := newWorldOf(w.t, w.kept, nil, change)
	o.stop()
	o.clock = w.clock
	o.start()
	return o
}

// backlogs is what a router hands out to a device, in all backlogs of it.
func (w *world) backlogs(user, device string, messages, bytes uint32) string {
	w.t.Helper()
	var out strings.Builder
	for after, more := uint64(0), true; more; {
		b, err := w.r.CatchUp(context.Background(), &envelope.CatchUpRequest{
			To: &envelope.Address{Comet: "c", Session: 1}, User: user, Device: device, After: after, MaxMessages: messages, MaxBytes: bytes})
		if err != nil {
			w.t.Fatal(err)
		}
		fmt.Fprintf(&out, "\nafter %d up to %d:", b.After, b.UpTo)
		for _, m := range b.Messages {
			fmt.Fprintf(&out, " %d op %d at %d %s", m.Id, m.Op, m.TimeMs, m.Body)
			after = m.Id
		}
		more = b.More
	}
	return out.String()
}

// A router that holds bodies in memory hands out the same as a router that reads each
// from its disk, whatever happens to the messages. It never holds more than it may.
func TestCacheChangesNothing(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 2))
			limit := []int{1 << 10, 4 << 10, 1 << 20}[seed%3]
			// Either messages expire or they are dropped: of both it depends on when
			// a router finds that they have expired which are dropped.
			length, ttl := 20, time.Hour
			if seed%2 == 0 {
				length, ttl = 1000, time.Minute
			}
			settings := func(cache int) func(*router.Config) {
				return func(c *router.Config) {
					c.FlushInterval = time.Millisecond
					c.MailboxLength = length
					c.IdleMailboxes = 2
					c.CacheBytes = cache
				}
			}
			w := newWorld(t, settings(limit))
			plain := w.secondRouter(settings(0))
			users := []string{"u1", "u2", "u3", "u4", "u5"}
			devices := []string{"", "phone", "laptop"}
			for _, u := range users {
				for _, d := range devices[1:] {
					w.append(u, &envelope.Record{Device: &envelope.Device{User: u, Device: d, SeenMs: w.clock.now().UnixMilli()}})
				}
			}
			var ids []uint64
			for step := range 400 {
				user := users[rng.IntN(len(users))]
				switch rng.IntN(12) {
				case 0, 1, 2:
					body := fmt.Sprint(step, strings.Repeat("x", rng.IntN(200)))
					ids = append(ids, w.append(user, &envelope.Record{Push: &envelope.Push{
						Users: []string{user}, Op: int32(rng.IntN(5)), Body: []byte(body),
						ExpiresMs: w.clock.now().Add(ttl/2 + time.Duration(rng.Int64N(int64(ttl/2)))).UnixMilli()}}))
				case 3:
					// One body for several users, in as many records as there are partitions.
					for p := range int32(2) {
						push := &envelope.Push{Op: 9, Body: fmt.Append(nil, "shared ", step), ExpiresMs: w.clock.now().Add(ttl).UnixMilli()}
						for _, u := range users {
							if envelope.Partition(u, 2) == p {
								push.Users = append(push.Users, u)
							}
						}
						if len(push.Users) > 0 {
							ids = append(ids, w.append(push.Users[0], &envelope.Record{Push: push}))
						}
					}
				case 4, 5:
					ack := &envelope.Ack{User: user, Device: devices[rng.IntN(3)]}
					for range rng.IntN(6) {
						if len(ids) > 0 {
							ack.Ids = append(ack.Ids, ids[max(0, len(ids)-1-rng.IntN(40))])
						}
					}
					if len(ids) > 0 && rng.IntN(8) == 0 {
						ack.Ids = append(ack.Ids, ids[:max(0, len(ids)-1-rng.IntN(40))+1]...)
					}
					w.append(user, &envelope.Record{Acks: &envelope.Acks{Acks: []*envelope.Ack{ack}}})
				case 6:
					w.append(user, &envelope.Record{Device: &envelope.Device{
						User: user, Device: devices[rng.IntN(3)], SeenMs: w.clock.now().UnixMilli()}})
				case 7:
					w.awaitApplied(users)
					plain.awaitApplied(users)
					w.clock.add(time.Duration(rng.IntN(10_000)) * time.Millisecond)
				case 8:
					time.Sleep(time.Duration(rng.IntN(4000)) * time.Microsecond) // another interleaving, not a wait
				case 9:
					if rng.IntN(10) == 0 {
						w.restart()
					}
				default:
					w.awaitApplied([]string{user})
					plain.awaitApplied([]string{user})
					device, messages, bytes := devices[1+rng.IntN(2)], uint32(1+rng.IntN(30)), uint32(1+rng.IntN(3000))
					with, without := w.backlogs(user, device, messages, bytes), plain.backlogs(user, device, messages, bytes)
					if with != without {
						t.Fatalf("step %d: %s of %s is handed\n%.5000s\nand without a cache\n%.5000s", step, device, user, with, without)
					}
				}
				if n := metric(w, "imgo_router_cached_bytes"); n > float64(limit) {
					t.Fatalf("step %d: %v bytes are held, %d are allowed", step, n, limit)
				}
			}
			if n := metric(plain, "imgo_router_cached_bytes"); n != 0 {
				t.Errorf("%v bytes are held, none are allowed", n)
			}
		})
	}
}

// Backlogs of many messages that were held as they came, and were put together
// when they were first handed out, are what the disk has.
func TestCacheCompacts(t *testing.T) {
	settings := func(cache int) func(*router.Config) {
		return func(c *router.Config) {
			c.FlushInterval = time.Millisecond
			c.CacheBytes = cache
		}
	}
	w := newWorld(t, settings(1<<20))
	plain := w.secondRouter(settings(0))
	const u = "u"
	w.append(u, &envelope.Record{Device: &envelope.Device{User: u, Device: "d", SeenMs: w.clock.now().UnixMilli()}})
	var ids []uint64
	for i := range 200 {
		if i%40 == 0 { // some are written and some are not when a backlog is asked for
			eventually(t, "the messages are on the disk", func() bool { return metric(w, "imgo_router_unwritten_records") == 0 })
		}
		ids = append(ids, w.push(u, fmt.Sprint(i, strings.Repeat("x", i))))
		if i%30 == 29 {
			w.ack(u, "d", ids[i-7], ids[i-3])
		}
		if i%10 == 9 {
			w.awaitApplied([]string{u})
			plain.awaitApplied([]string{u})
			if with, without := w.backlogs(u, "d", 50, 1<<20), plain.backlogs(u, "d", 50, 1<<20); with != without {
				t.Fatalf("after %d messages it is handed\n%.5000s\nand without a cache\n%.5000s", i, with, without)
			}
		}
	}
	if n := metric(w, "imgo_router_backlog_read_messages_total"); n != 0 {
		t.Errorf("%v bodies were read, though all were held", n)
	}
}

// What was used last stays, what was used longest ago makes room, and what is
// held is not read.
func TestCacheHoldsWhatWasUsedLast(t *testing.T) {
	const bodies, size = 10, 100
	w := newWorld(t, func(c *router.Config) {
		c.FlushInterval = time.Millisecond
		// Room for two users and a half, in each of two partitions.
		c.CacheBytes = 2 * 5 * bodies * (size + 112) / 2
	})
	var users []string
	for i := 0; len(users) < 3; i++ {
		if u := fmt.Sprint("user", i); envelope.Partition(u, 2) == 0 {
			users = append(users, u)
		}
	}
	for _, u := range users {
		w.append(u, &envelope.Record{Device: &envelope.Device{User: u, Device: "d", SeenMs: w.clock.now().UnixMilli()}})
		var last uint64
		for range bodies {
			last = w.push(u, strings.Repeat("x", size))
		}
		w.applied(u, last)
		eventually(t, "the messages are on the disk", func() bool { return metric(w, "imgo_router_unwritten_records") == 0 })
	}
	read := func(user string) float64 {
		before := metric(w, "imgo_router_backlog_read_messages_total")
		if got := w.backlogs(user, "d", 1000, 1<<20); strings.Count(got, strings.Repeat("x", size)) != bodies {
			t.Fatalf("%s is handed %s", user, got)
		}
		return metric(w, "imgo_router_backlog_read_messages_total") - before
	}
	for i, test := range []struct {
		user string
		read float64
	}{
		{users[2], 0},      // pushed last
		{users[1], 0},      // and before
		{users[0], bodies}, // made room; and now users[2] does
		{users[0], 0},
		{users[1], 0},
		{users[2], bodies},
	} {
		if n := read(test.user); n != test.read {
			t.Fatalf("%d: %v bodies of %s were read, want %v", i, n, test.user, test.read)
		}
	}
	// A message that no device waits for any more is not held.
	for _, u := range users {
		w.ack(u, "d", w.pendingIDs(u, "d")...)
	}
	if n := metric(w, "imgo_router_cached_bytes"); n != 0 {
		t.Errorf("%v bytes are held of no message", n)
	}
}

// metric is the value of a gauge or a counter of the world's router.
func metric(w *world, name string) float64 {
	w.t.Helper()
	families, err := w.reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}
