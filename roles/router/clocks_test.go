package router_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/roles/router"
)

// checkTime checks that a time, Unix milliseconds, is the log's time now, or late by as much.
type checkTime func(what string, ms int64, late time.Duration)

// skewTest runs a test with node clocks that are as the log's, or differ from it by more than all times of the test.
func skewTest(
	t *testing.T, change func(*router.Config), test func(t *testing.T, w *presenceWorld, isNow checkTime),
) {
	t.Helper()
	for name, ahead := range map[string]time.Duration{"right": 0, "ahead": 24 * time.Hour, "behind": -24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			presenceTest(t, change, func(t *testing.T, w *presenceWorld) {
				stamp := func() time.Time { return w.clock.now().Add(-ahead) }
				w.kept.mu.Lock()
				w.kept.stamp = stamp
				w.kept.mu.Unlock()
				for p := range w.kept.Partitions() { // the clocks are compared
					w.applied(userOf(p), w.append(userOf(p), &envelope.Record{}))
				}
				test(t, w, func(what string, ms int64, late time.Duration) {
					t.Helper()
					if off := stamp().Sub(time.UnixMilli(ms)); off < -2*time.Second || off > late+2*time.Second {
						t.Errorf("%s is %v before the log's time", what, off)
					}
				})
			})
		})
	}
}

// When a device was seen, and a user has gone, goes by the log's clock: the next owner has another clock.
func TestDevicesGoByTheLogsClock(t *testing.T) {
	const expiry = time.Hour
	skewTest(t, func(c *router.Config) { c.DeviceExpiry = expiry }, func(t *testing.T, w *presenceWorld, isNow checkTime) {
		s := w.connect("c1", "u", "phone")
		isNow("a new device", w.devices("u")[0].SeenMs, 0)
		if off := w.clock.now().Sub(time.UnixMilli(w.user("u").LastSeenMs)); off.Abs() > 2*time.Second { // not compared with a record
			t.Errorf("a connected user was seen %v before the node's time", off)
		}
		for range 20 {
			w.pass(time.Minute)
			if list := w.devices("u"); len(list) > 1 {
				break
			}
		}
		w.pass(0)
		if list := w.devices("u"); len(list) != 2 {
			t.Fatalf("%d device records", len(list))
		} else {
			isNow("a device that stays connected", list[1].SeenMs, time.Minute) // perhaps found a step later
		}
		w.pass(time.Minute)
		w.end(s)
		isNow("a device that has gone", w.user("u").Devices[0].SeenMs, 0)
		w.pass(w.cfg.Presence.Grace - time.Second)
		w.wants("u", "online phone")
		w.pass(3 * time.Second)
		w.wants("u", "online phone; offline phone")
		u := w.user("u")
		if u.SinceMs != u.LastSeenMs || u.SinceMs != u.Devices[0].SeenMs {
			t.Errorf("the user has gone at %d, and was seen at %d, its device at %d", u.SinceMs, u.LastSeenMs, u.Devices[0].SeenMs)
		}
		w.pass(expiry - time.Minute)
		if n := len(w.user("u").Devices); n != 1 {
			t.Errorf("%d devices before the expiry", n)
		}
		w.pass(2 * time.Minute)
		if n := len(w.user("u").Devices); n != 0 {
			t.Errorf("%d devices after the expiry", n)
		}
	})
}

// What is known of a user is put into the log again when its records are old by the log's clock.
func TestRepetitionsGoByTheLogsClock(t *testing.T) {
	skewTest(t, func(c *router.Config) { c.Retention = 10 * time.Minute }, func(t *testing.T, w *presenceWorld, _ checkTime) {
		w.connect("c1", "u", "phone")
		w.pass(3 * time.Minute)
		if n := len(w.devices("u")); n != 1 {
			t.Errorf("after a third of the retention there are %d records of the device, want 1", n)
		}
		w.pass(3 * time.Minute)
		if n := len(w.devices("u")); n != 2 {
			t.Errorf("after half of the retention there are %d records of the device, want 2", n)
		}
	})
}

// The watch tells a client what it has missed a while after the push, however the clocks differ.
func TestWatchGoesByTheLogsClock(t *testing.T) {
	skewTest(t, nil, func(t *testing.T, w *presenceWorld, _ checkTime) {
		w.connect("c1", "u", "phone")
		w.applied("u", w.push("u", "a"))
		w.pass(w.cfg.WatchAfter - 500*time.Millisecond)
		if n := w.live.End(0); n != 0 {
			t.Errorf("the client was told %d times, too early", n)
		}
		w.pass(w.cfg.WatchInterval + time.Second)
		if n := w.live.End(0); n != 1 {
			t.Errorf("the client was told %d times", n)
		}
	})
}

// A node whose clock is set while it runs still goes by the log's clock: nothing expires early. If the log has no clock, the
// node's counts, as it is set.
func TestNodeClockIsSet(t *testing.T) {
	for _, c := range []struct {
		ahead time.Duration
		alone bool // the log has no clock
	}{{2 * time.Hour, false}, {-2 * time.Hour, false}, {-2 * time.Hour, true}} {
		t.Run(fmt.Sprintf("%v, alone: %v", c.ahead, c.alone), func(t *testing.T) {
			w := newWorld(t, nil)
			if !c.alone {
				w.kept.mu.Lock()
				w.kept.stamp = time.Now
				w.kept.mu.Unlock()
			}
			w.attach(session("c", 1, "u", "phone"))
			first := w.push("u", "for an hour")
			w.applied("u", first)
			w.clock.set(c.ahead)
			second := w.push("u", "for an hour")
			w.applied("u", second)
			if got := w.pendingIDs("u", "phone"); !slices.Equal(got, []uint64{first, second}) {
				t.Errorf("%d wait, want %d and %d", got, first, second)
			}
		})
	}
}
