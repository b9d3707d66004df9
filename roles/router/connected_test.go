package router_test

import (
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/roles/router"
)

// connectedTest runs a test of devices that stay connected, with the shortest expiry that an operator can set.
func connectedTest(t *testing.T, test func(t *testing.T, w *presenceWorld)) {
	t.Helper()
	presenceTest(t, func(c *router.Config) { c.DeviceExpiry, c.Presence.Events = time.Minute, false }, test)
}

// isNote reports whether a record notes a device that is known as seen.
func isNote(t *testing.T, value []byte) bool {
	var rec envelope.Record
	if err := rec.UnmarshalVT(value); err != nil {
		t.Error(err)
	}
	return rec.Device.GetSince() > 0
}

// holdFirst has the first append wait that which reports true for. held is closed when it does.
func (l *memLog) holdFirst(which func(value []byte) bool) (held <-chan struct{}, release func()) {
	begun, over := make(chan struct{}), make(chan struct{})
	var once sync.Once
	l.setBefore(func(_ int32, value []byte) error {
		if which(value) {
			once.Do(func() {
				close(begun)
				<-over
			})
		}
		return nil
	})
	return begun, sync.OnceFunc(func() { close(over) })
}

// While a log does not answer, the sessions of a comet that has died leave the table. While the kept log does not,
// clients are told what they have missed.
func TestLogThatDoesNotAnswerDelaysNoWatch(t *testing.T) {
	for _, name := range []string{"kept", "live"} {
		t.Run(name, func(t *testing.T) {
			connectedTest(t, func(t *testing.T, w *presenceWorld) {
				log, which := w.live, func([]byte) bool { return true }
				if name == "kept" {
					log, which = w.kept, func(value []byte) bool { return isNote(t, value) }
				}
				held, release := log.holdFirst(which)
				defer release()
				w.connect("c1", "u", "phone")
				if name == "live" {
					w.push("u", "a")
				}
				w.pass(90 * time.Second)
				select {
				case <-held:
				default:
					t.Fatal("nothing was appended")
				}
				if name == "kept" {
					w.push("u", "a")
					w.pass(10 * time.Second)
					if w.live.End(0) == 0 {
						t.Error("the client was not told what it has missed")
					}
				}
				time.Sleep(3 * w.cfg.CometTimeout)
				if n := w.online("u"); n != 0 {
					t.Errorf("%d sessions of a comet that is silent", n)
				}
			})
		})
	}
}

// A device that is removed while others are noted as seen is not noted any more: it would come back.
func TestRemovedDeviceIsNotNotedAsSeen(t *testing.T) {
	connectedTest(t, func(t *testing.T, w *presenceWorld) {
		held, release := w.kept.holdFirst(func(value []byte) bool { return isNote(t, value) })
		defer release()
		w.connect("c1", "u", "first")
		w.connect("c1", "u", "removed")
		gone := w.connect("c1", "u", "gone")
		w.connect("c1", "u", "last")
		w.pass(90 * time.Second)
		<-held
		if _, err := w.remove(&envelope.Removal{User: "u", Devices: []string{"removed"}}); err != nil {
			t.Fatal(err)
		}
		w.end(gone)
		release()
		w.pass(5 * time.Second)
		noted := make(map[string]bool)
		for _, d := range w.devices("u") {
			if d.Since > 0 {
				noted[d.Device] = true
			}
		}
		if !maps.Equal(noted, map[string]bool{"first": true, "last": true}) {
			t.Errorf("noted as seen: %v", noted)
		}
		if n := len(w.user("u").Devices); n != 3 {
			t.Errorf("the user has %d devices, want 3", n)
		}
	})
}

// A device that stays connected is noted as seen at least twice within its expiry, also while the log refuses
// records of another partition.
func TestConnectedDeviceIsNotedInTime(t *testing.T) {
	connectedTest(t, func(t *testing.T, w *presenceWorld) {
		w.kept.setBefore(func(p int32, value []byte) error {
			if p == 0 && isNote(t, value) {
				return envelope.ErrUnavailable
			}
			return nil
		})
		w.connect("c1", userOf(0), "phone")
		user := userOf(1)
		w.connect("c1", user, "phone")
		for range 200 {
			w.pass(time.Second)
			list := w.devices(user)
			if age := time.Since(time.UnixMilli(list[len(list)-1].SeenMs)); age > w.cfg.DeviceExpiry/2+time.Second {
				t.Fatalf("the device was noted as seen %v ago", age)
			}
		}
	})
}

// A device that is removed while what is known of its user is put into the log again does not come back.
func TestRemovedDeviceIsNotRepeated(t *testing.T) {
	presenceTest(t, func(c *router.Config) {
		c.Retention, c.IdleMailboxes, c.Presence.Events = 10*time.Minute, 0, false
	}, func(t *testing.T, w *presenceWorld) {
		held, release := w.kept.holdFirst(func(value []byte) bool { return isNote(t, value) })
		defer release()
		for _, device := range []string{"first", "removed", "last"} {
			w.end(w.connect("c1", "u", device))
		}
		w.pass(6 * time.Minute)
		<-held
		if _, err := w.remove(&envelope.Removal{User: "u", Devices: []string{"removed"}}); err != nil {
			t.Fatal(err)
		}
		w.pass(time.Second) // the user leaves memory
		release()
		w.pass(time.Minute)
		var repeated []string
		for _, d := range w.devices("u")[3:] {
			repeated = append(repeated, d.Device)
		}
		if !slices.Equal(repeated, []string{"first", "last"}) {
			t.Errorf("the log has again %q", repeated)
		}
		if n := len(w.user("u").Devices); n != 2 {
			t.Errorf("the user has %d devices, want 2", n)
		}
	})
}
