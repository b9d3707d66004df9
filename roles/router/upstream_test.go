package router_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/roles/router"
)

// upstream appends a message of a device.
func (w *world) upstream(user, device string, clientID uint64, body string) uint64 {
	w.t.Helper()
	return w.append(user, &envelope.Record{Upstream: &envelope.Upstream{
		User: user, Device: device, Session: "c~1", Op: 4, Body: []byte(body), ClientId: clientID,
	}})
}

// published returns the bodies of a user's messages in the topic, once there are want of them.
func (w *world) published(user string, want ...string) {
	w.t.Helper()
	var got []string
	eventually(w.t, fmt.Sprintf("%s has the events %q, got %q", user, want, got), func() bool {
		got = nil
		for _, e := range w.topicOf(envelope.Partition(user, 2)) {
			if e.User == user && e.Type == events.Upstream {
				got = append(got, string(e.Value))
			}
		}
		return len(got) >= len(want)
	})
	for i, value := range got {
		if i >= len(want) || !containsAll(value, `"body":"`+want[i]+`"`, `"session":"c~1"`, `"op":4`) {
			w.t.Fatalf("event %d of %s is %s, want %q", i, user, value, want)
		}
	}
}

func containsAll(text string, parts ...string) bool {
	return !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(text, p) })
}

// last returns what the auth reply of a device has as its last client id.
func (w *world) last(user, device string, want uint64) {
	w.t.Helper()
	s := session("c", 1, user, device)
	if got := w.attach(s).Published; got != want {
		w.t.Fatalf("device %s has published %d, want %d", device, got, want)
	}
	w.detach(s)
}

// A message counts once for each client id, whatever is repeated, restarted, rebuilt from the log or forgotten.
func TestUpstreamOnce(t *testing.T) {
	w := reportWorld(t, nil)
	w.last("u1", "phone", 0)
	w.last("u1", "laptop", 0)
	w.upstream("u1", "phone", 1, `"a"`)
	w.upstream("u1", "phone", 1, `"a again"`)
	w.upstream("u1", "phone", 7, `"b"`)
	w.upstream("u1", "phone", 6, `"late"`)
	w.upstream("u1", "laptop", 1, `"c"`) // another device counts for itself
	w.upstream("u1", "phone", 0, `"d"`)
	at := w.upstream("u1", "phone", 0, `"d"`) // without an id each one counts
	w.applied("u1", at)
	all := []string{"a", "b", "c", "d", "d"}
	w.published("u1", all...)
	w.last("u1", "phone", 7)

	w.restart()
	w.applied("u1", w.upstream("u1", "phone", 7, `"b again"`))
	w.published("u1", all...)
	w.last("u1", "phone", 7)

	// Without its disk.
	w.stop()
	w.dir = t.TempDir()
	w.start()
	w.applied("u1", w.upstream("u1", "phone", 7, `"b again"`))
	w.published("u1", all...)
	w.last("u1", "phone", 7)
	w.last("u1", "laptop", 1)

	// What is known of a device goes with it.
	if _, err := w.remove(&envelope.Removal{User: "u1", Devices: []string{"phone"}}); err != nil {
		t.Fatal(err)
	}
	w.last("u1", "phone", 0)
	w.last("u1", "laptop", 1)
	// A session of a device that was forgotten may go on for a moment.
	if _, err := w.remove(&envelope.Removal{User: "u1", Devices: []string{"phone"}}); err != nil {
		t.Fatal(err)
	}
	w.upstream("u1", "phone", 8, `"e"`)
	w.applied("u1", w.upstream("u1", "phone", 8, `"e again"`))
	w.published("u1", append(all, "e")...)
	w.last("u1", "phone", 8)
}

// The last client id of a device outlives the record that has it, by the records that repeat the device.
func TestUpstreamOnceAfterRetention(t *testing.T) {
	const retention = 320 * time.Millisecond // by the test's clock; the sweeps are every 10 ms
	w := reportWorld(t, func(c *router.Config) {
		c.Retention, c.FlushInterval, c.IdleMailboxes = retention, time.Millisecond, 0
	})
	w.last("u", "phone", 0)
	w.last("u", "laptop", 0)
	first := w.upstream("u", "phone", 9, `"a"`)
	w.applied("u", first)
	w.published("u", "a")
	repeated := func() bool {
		return slices.ContainsFunc(w.devices("u"), func(d *envelope.Device) bool { return d.Device == "phone" && d.Published == 9 })
	}
	w.clock.add(retention * 3 / 4)
	eventually(t, "the device is in the log again, with its id", repeated)
	again := w.upstream("u", "phone", 9, `"a again"`)
	w.applied("u", again)
	w.stop()
	_, begin := envelope.SplitID(first)
	w.kept.trim(envelope.Partition("u", 2), begin+1)
	w.dir = t.TempDir()
	w.start()
	w.applied("u", w.upstream("u", "phone", 10, `"b"`))
	w.published("u", "a", "b")
	w.last("u", "phone", 10)
}

// A device that has expired is forgotten by a record, so that all owners forget its last client id at the same place.
func TestUpstreamDeviceExpires(t *testing.T) {
	w := reportWorld(t, func(c *router.Config) {
		c.Retention, c.IdleMailboxes = time.Second, 0 // the sweeps are every 31 ms
	})
	w.last("u", "phone", 0)
	w.applied("u", w.upstream("u", "phone", 9, `"a"`))
	w.published("u", "a")
	w.clock.add(31 * 24 * time.Hour)
	removed := func() bool {
		w.kept.mu.Lock()
		defer w.kept.mu.Unlock()
		return slices.ContainsFunc(w.kept.parts[envelope.Partition("u", 2)], func(e envelope.Entry) bool {
			var rec envelope.Record
			return rec.UnmarshalVT(e.Value) == nil && slices.Contains(rec.Removal.GetDevices(), "phone")
		})
	}
	eventually(t, "a record forgets the device", removed)
	w.awaitApplied([]string{"u"})
	w.last("u", "phone", 0)
	w.applied("u", w.upstream("u", "phone", 1, `"b"`))
	w.published("u", "a", "b")
}
