package router_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/roles/router"
)

// read appends that a user has read messages, and waits until that is applied.
func (w *world) read(read *envelope.Read) uint64 {
	w.t.Helper()
	id := w.append(read.User, &envelope.Record{Read: read})
	w.applied(read.User, id)
	return id
}

func describeRead(ids []string, upTo string) (text string) {
	if len(ids) > 0 {
		text = " " + strings.Join(ids, "+")
	}
	if upTo != "" {
		text += " up to " + upTo
	}
	return text
}

// What was read waits for no device, and is told of, also for pushes that asked for no report.
func TestRead(t *testing.T) {
	w := reportWorld(t, nil)
	w.attach(session("c", 1, "u1", "phone"))
	w.attach(session("c", 2, "u1", "laptop"))
	none := w.push("u1", "no report")
	each := w.report("u1", time.Hour, &envelope.Report{Ref: "e", Level: 2})
	due := w.report("u1", time.Hour, &envelope.Report{Ref: "d", DeadlineMs: time.Minute.Milliseconds(), DeadlineAny: true})
	last := w.push("u1", "stays")
	w.read(&envelope.Read{User: "u1", Device: "phone", Ids: []uint64{each}})
	w.read(&envelope.Read{User: "u1", Device: "phone", Ids: []uint64{each}}) // again
	w.read(&envelope.Read{User: "u1", UpTo: due, ByCaller: true})
	want := []string{
		"delivered e phone", "settled e without laptop", fmt.Sprintf("read  phone %d", each), fmt.Sprintf("read  up to %d", due),
	}
	w.expectEvents("u1", want...)
	for _, device := range []string{"phone", "laptop"} {
		if ids := w.pendingIDs("u1", device); len(ids) != 1 || ids[0] != last {
			t.Errorf("%v wait for the %s, want %d", ids, device, last)
		}
	}
	w.clock.add(2 * time.Minute) // a deadline of what was read is void
	// Names that cannot be stored are set aside, and so is nothing after them.
	w.append("u1", &envelope.Record{Read: &envelope.Read{User: "u1", Device: strings.Repeat("x", 1000), UpTo: last}})
	w.append("u1", &envelope.Record{Read: &envelope.Read{User: "u1\x00", UpTo: last}})
	w.ack("u1", "phone", none, each, last)
	if ids := w.pendingIDs("u1", "laptop"); len(ids) != 1 {
		t.Errorf("%v wait for the laptop, want one", ids)
	}
	w.restart()
	w.read(&envelope.Read{User: "u1", Device: "laptop", UpTo: due, Ids: []uint64{each, last}})
	w.expectEvents("u1", append(want, fmt.Sprintf("read  laptop %d", last))...)
}

// A router that lost its memory, or its disk, tells nothing again, and knows what was read.
func TestReadIsResumed(t *testing.T) {
	for _, disk := range []bool{true, false} {
		t.Run(fmt.Sprintf("with its disk %v", disk), func(t *testing.T) {
			w := reportWorld(t, func(c *router.Config) { c.IdleMailboxes = 0 })
			first, second := w.push("u1", "1"), w.push("u1", "2")
			w.read(&envelope.Read{User: "u1", UpTo: first})
			w.read(&envelope.Read{User: "u1", Ids: []uint64{second}})
			want := []string{fmt.Sprintf("read  up to %d", first), fmt.Sprintf("read  %d", second)}
			w.expectEvents("u1", want...)
			if !disk {
				w.stop()
				w.dir = t.TempDir()
				w.start()
			} else {
				w.restart()
			}
			third := w.push("u1", "3")
			w.read(&envelope.Read{User: "u1", UpTo: first, Ids: []uint64{second, third}})
			w.expectEvents("u1", append(want, fmt.Sprintf("read  %d", third))...)
		})
	}
}

// The next generation of the log knows what was read in the one before.
func TestReadMovesOn(t *testing.T) {
	g := newGrowing(5)
	w := reportWorld(t, nil)
	w.stop()
	w.growth = g
	w.start()
	w.attach(session("c", 1, "u1", "phone"))
	first, second := w.push("u1", "1"), w.push("u1", "2")
	third := w.push("u1", "3")
	w.read(&envelope.Read{User: "u1", UpTo: first, Ids: []uint64{second}})
	close(g.begun)
	g.awaitMoved(t, 2)
	n := &world{t: t, cfg: w.cfg, dir: t.TempDir(), kept: g.next, live: newMemLog(1), clock: w.clock, topic: newMemLog(5)}
	n.start()
	t.Cleanup(func() { n.stop() })
	if ids := n.pendingIDs("u1", "phone"); len(ids) != 1 || ids[0] != third {
		t.Errorf("%v wait, want %d", ids, third)
	}
	for _, restart := range []bool{false, true} {
		if restart {
			n.restart()
		}
		n.add("u1", &envelope.Record{Read: &envelope.Read{User: "u1", UpTo: first, Ids: []uint64{second, third}}})
	}
	p := envelope.Partition("u1", 5)
	eventually(t, "what is new is told", func() bool { return len(n.topicOf(p)) > 0 })
	if list := n.topicOf(p); len(list) != 1 || describe(t, list[0]) != fmt.Sprintf("read  %d", third) {
		t.Errorf("%d events, the first is %q", len(list), describe(t, list[0]))
	}
}

// randomRead is of some of the newest messages, or of all up to one of them.
func randomRead(rng *rand.Rand, user string, devices []string, ids []uint64) *envelope.Read {
	one := func() uint64 { return ids[max(0, len(ids)-1-rng.IntN(20))] }
	read := &envelope.Read{User: user, Device: devices[rng.IntN(len(devices))], ByCaller: rng.IntN(3) == 0}
	if rng.IntN(2) == 0 {
		read.UpTo = one()
	}
	for range rng.IntN(3) {
		read.Ids = append(read.Ids, one())
	}
	return read
}
