package router_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/roles/router"
	"imgo/roles/router/mailbox"
	"imgo/store"
)

// reportWorld is a world with an events topic.
func reportWorld(t *testing.T, change func(*router.Config)) *world {
	w := newWorld(t, func(c *router.Config) {
		c.FlushInterval = 2 * time.Millisecond
		if change != nil {
			change(c)
		}
	})
	w.stop()
	w.topic = newMemLog(2)
	w.start()
	return w
}

// report pushes a message with a report.
func (w *world) report(user string, ttl time.Duration, report *envelope.Report) uint64 {
	w.t.Helper()
	now := w.clock.now()
	if report.DeadlineMs > 0 {
		report.DeadlineMs += now.UnixMilli()
	}
	return w.append(user, &envelope.Record{Push: &envelope.Push{
		Users: []string{user}, Op: 5, Body: []byte("hello"), ExpiresMs: now.Add(ttl).UnixMilli(), Report: report,
	}})
}

// eventsOf returns the events of a user as a reader of the topic sees them: type, message, and what else an event has.
func (w *world) eventsOf(user string, want int) (list []string) {
	w.t.Helper()
	p := envelope.Partition(user, 2)
	eventually(w.t, fmt.Sprintf("%s has %d events", user, want), func() bool {
		list = nil
		for _, e := range w.topicOf(p) {
			if e.User == user {
				list = append(list, describe(w.t, e))
			}
		}
		return len(list) >= want
	})
	return list
}

// topicOf returns the events of a partition, each once.
func (w *world) topicOf(p int32) (list []events.Record) {
	w.t.Helper()
	_, end, err := w.topic.Bounds(context.Background(), p)
	if err != nil {
		w.t.Fatal(err)
	}
	r := events.NewReader(w.topic, p, events.Position{})
	for r.Position().Offset < end {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		records, err := r.Next(ctx)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			break // only repetitions were left
		}
		if err != nil {
			w.t.Fatal(err)
		}
		list = append(list, records...)
	}
	return list
}

func describe(t *testing.T, e events.Record) string {
	var event struct {
		Data struct {
			ID, Ref, Device, Reason string
			Devices, Without, IDs   []string
			UpTo                    string `json:"up_to"`
			Auto                    bool
		}
	}
	if err := json.Unmarshal(e.Value, &event); err != nil {
		t.Fatalf("%s: %v", e.Value, err)
	}
	d := event.Data
	text := strings.TrimPrefix(string(e.Type), "message.") + " " + d.Ref
	for _, part := range []string{d.Device, d.Reason, strings.Join(d.Devices, "+")} {
		if part != "" {
			text += " " + part
		}
	}
	if len(d.Without) > 0 {
		text += " without " + strings.Join(d.Without, "+")
	}
	if d.Auto {
		text += " auto"
	}
	return text + describeRead(d.IDs, d.UpTo)
}

func (w *world) expectEvents(user string, want ...string) {
	w.t.Helper()
	if got := w.eventsOf(user, len(want)); !slices.Equal(got, want) {
		w.t.Errorf("events of %s: %q, want %q", user, got, want)
	}
}

// A push gets the events that it asked for, and no others.
func TestReports(t *testing.T) {
	w := reportWorld(t, nil)
	w.attach(session("c", 1, "u1", "phone"))
	w.attach(session("c", 2, "u1", "laptop"))
	none := w.push("u1", "no report")
	ref := w.report("u1", time.Hour, &envelope.Report{Ref: "only-ref"})
	settled := w.report("u1", time.Hour, &envelope.Report{Ref: "s", Level: 1})
	each := w.report("u1", time.Hour, &envelope.Report{Ref: "e", Level: 2})
	w.ack("u1", "phone", none, ref, settled, each)
	w.expectEvents("u1", "delivered e phone")
	at := w.append("u1", &envelope.Record{Acks: &envelope.Acks{Acks: []*envelope.Ack{
		{User: "u1", Device: "laptop", Ids: []uint64{none, ref, settled, each}, Auto: true}}}})
	w.applied("u1", at)
	w.expectEvents("u1", "delivered e phone", "settled s", "delivered e laptop auto", "settled e")
	w.ack("u1", "laptop", settled, each)

	// Devices that go before they have the message are named.
	gone := w.report("u1", time.Hour, &envelope.Report{Ref: "g", Level: 2})
	w.ack("u1", "phone", gone)
	if _, err := w.remove(&envelope.Removal{User: "u1", Devices: []string{"laptop"}}); err != nil {
		t.Fatal(err)
	}
	// A message that is removed is told of too.
	w.report("u1", time.Hour, &envelope.Report{Ref: "r", Level: 1})
	if _, err := w.remove(&envelope.Removal{User: "u1", Messages: true}); err != nil {
		t.Fatal(err)
	}
	w.expectEvents("u1", "delivered e phone", "settled s", "delivered e laptop auto", "settled e",
		"delivered g phone", "settled g without laptop", "dropped r removed phone")
}

// Nothing is appended to the topic for pushes that ask for nothing.
func TestNoReportNoEvent(t *testing.T) {
	w := reportWorld(t, func(c *router.Config) { c.MailboxLength = 2 })
	w.attach(session("c", 1, "u1", "phone"))
	for i := range 5 {
		w.ack("u1", "phone", w.push("u1", fmt.Sprint(i)))
		w.push("u1", "unread")
	}
	w.restart()
	w.topic.mu.Lock()
	defer w.topic.mu.Unlock()
	if w.topic.appends != 0 || len(w.topic.reads) != 0 {
		t.Errorf("the topic has %d events, and was read %v", w.topic.appends, w.topic.reads)
	}
}

// Deadlines and the ttl are told of once, by a step in the log, also for users who are in the store only.
func TestDeadlines(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart %v", restart), func(t *testing.T) {
			w := reportWorld(t, func(c *router.Config) { c.IdleMailboxes = 0 })
			for i, device := range []string{"phone", "laptop"} {
				s := session("c", uint64(i+1), "u1", device)
				w.attach(s)
				w.detach(s)
			}
			minute := time.Minute.Milliseconds()
			w.report("u1", time.Hour, &envelope.Report{Ref: "late", DeadlineMs: minute})
			some := w.report("u1", time.Hour, &envelope.Report{Ref: "some", DeadlineMs: minute})
			all := w.report("u1", time.Hour, &envelope.Report{Ref: "any", DeadlineMs: 2 * minute, DeadlineAny: true, Level: 1})
			done := w.report("u1", time.Hour, &envelope.Report{Ref: "done", DeadlineMs: minute, DeadlineAny: true})
			short := w.report("u1", time.Minute*3, &envelope.Report{Ref: "short", Level: 1})
			w.ack("u1", "phone", some, all, done)
			w.ack("u1", "laptop", done)
			if restart {
				w.restart()
			}
			w.expectEvents("u1")
			w.clock.add(time.Minute + time.Second)
			w.expectEvents("u1", "undelivered late laptop+phone")
			if restart {
				w.restart()
			}
			w.clock.add(time.Minute)
			w.expectEvents("u1", "undelivered late laptop+phone", "undelivered any laptop")
			w.clock.add(time.Minute)
			w.expectEvents("u1", "undelivered late laptop+phone", "undelivered any laptop", "expired short laptop+phone")
			w.ack("u1", "laptop", all, short)
			w.expectEvents("u1", "undelivered late laptop+phone", "undelivered any laptop", "expired short laptop+phone", "settled any")
			w.clock.add(time.Hour)
			w.expectEvents("u1", "undelivered late laptop+phone", "undelivered any laptop", "expired short laptop+phone", "settled any",
				"expired late laptop+phone", "expired some laptop")
			if w.metric() > 0 {
				t.Error("messages wait that have expired")
			}
		})
	}
}

// No step is missed that is due before the last one that was taken, since the clock was set back.
func TestDeadlineAfterTheClockWasSetBack(t *testing.T) {
	w := reportWorld(t, func(c *router.Config) { c.IdleMailboxes, c.CometTimeout = 0, 24*time.Hour })
	push := func(user string, deadline time.Duration) {
		s := session("c", 1, user, "phone")
		w.attach(s)
		w.detach(s)
		w.report(user, time.Hour, &envelope.Report{Ref: user, DeadlineMs: deadline.Milliseconds()})
		w.awaitApplied([]string{user})
		eventually(t, "the message is in the store only", func() bool { return w.metric() == 0 })
	}
	first, second := namedUser(0, "first"), namedUser(0, "second")
	push(first, time.Minute)
	w.clock.add(time.Minute + time.Second)
	w.expectEvents(first, "undelivered "+first+" phone")
	w.clock.add(-50 * time.Second)
	push(second, 30*time.Second)
	w.clock.add(31 * time.Second)
	w.expectEvents(second, "undelivered "+second+" phone")
}

// countedDues is a store that counts the calls of Dues.
type countedDues struct {
	router.Store
	calls atomic.Int64
}

func (c *countedDues) Dues(partition int32, after store.DueTime, untilMS int64, limit int) ([]store.DueTime, int64, bool, error) {
	defer c.calls.Add(1)
	return c.Store.Dues(partition, after, untilMS, limit)
}

// No step is missed that the store takes while the steps that are due are read from it.
func TestDeadlineStoredWhileOthersAreRead(t *testing.T) {
	w := reportWorld(t, func(c *router.Config) { c.IdleMailboxes, c.FlushBytes = 0, 1 })
	w.stop()
	var dues countedDues
	var armed, blocked atomic.Bool
	free := make(chan struct{})
	release := sync.OnceFunc(func() { close(free) })
	t.Cleanup(release)
	w.store = func(s router.Store) router.Store { dues.Store = s; return &dues }
	w.storeFaults.CommitMailboxes = func(int32) {
		if armed.Load() {
			blocked.Store(true)
			<-free
		}
	}
	w.start()
	first, second := namedUser(0, "first"), namedUser(0, "second")
	push := func(user string, deadline time.Duration) {
		w.report(user, time.Hour, &envelope.Report{Ref: user, DeadlineMs: deadline.Milliseconds()})
		w.awaitApplied([]string{user})
	}
	inStoreOnly := func() { eventually(t, "the store alone has the messages", func() bool { return w.metric() == 0 }) }
	for _, user := range []string{first, second} {
		s := session("c", 1, user, "phone")
		w.attach(s)
		w.detach(s)
	}
	push(first, time.Minute)
	inStoreOnly()
	armed.Store(true)
	push(second, 2*time.Minute)
	eventually(t, "the store is given the second message", blocked.Load)
	before := dues.calls.Load()
	w.clock.add(time.Minute + time.Second)
	eventually(t, "the steps that are due are read", func() bool { return dues.calls.Load() > before })
	release()
	w.expectEvents(first, "undelivered "+first+" phone")
	inStoreOnly()
	w.clock.add(time.Minute)
	w.expectEvents(second, "undelivered "+second+" phone")
}

// Accounts that only the store has are read a page at a time for their steps, and leave memory again. While no step is
// applied, no more are read.
func TestDueAccountsAreReadInPages(t *testing.T) {
	const page, users = 256, 5*256 + 1
	presenceTest(t, func(c *router.Config) { c.Presence.Events, c.IdleMailboxes = false, 0 }, func(t *testing.T, w *presenceWorld) {
		push := &envelope.Push{
			Op: 5, Body: []byte("hello"), ExpiresMs: w.clock.now().Add(time.Hour).UnixMilli(),
			Report: &envelope.Report{Level: 1, DeadlineMs: w.clock.now().Add(time.Minute).UnixMilli()},
		}
		for i := 0; len(push.Users) < users; i++ {
			if user := fmt.Sprint("u", i); envelope.Partition(user, 2) == 0 {
				push.Users = append(push.Users, user)
			}
		}
		w.applied(push.Users[0], w.append(push.Users[0], &envelope.Record{Push: push}))
		w.restart()
		w.kept.stick(0, w.kept.End(0))
		w.pass(90 * time.Second)
		if n := w.metric(); n != page {
			t.Errorf("%d messages are in memory while no step is applied, want %d", n, page)
		}
		w.kept.stick(0, 0)
		most := 0
		for range 10 {
			w.pass(time.Second)
			most = max(most, w.metric())
		}
		if most >= 2*page {
			t.Errorf("%d messages were in memory", most)
		}
		if n := w.metric(); n != 0 {
			t.Errorf("%d messages are in memory after their steps", n)
		}
		told := make(map[string]int)
		for _, e := range w.topicOf(0) {
			told[e.User]++
		}
		if len(told) != users {
			t.Errorf("%d users were told, want %d", len(told), users)
		}
		for user, n := range told {
			if n > 1 {
				t.Errorf("%s was told %d times", user, n)
			}
		}
	})
}

// While the log takes no steps of one partition, those of the others are taken.
func TestPartitionThatTakesNoSteps(t *testing.T) {
	refused, other := namedUser(0, "refused"), namedUser(1, "other")
	w := reportWorld(t, nil)
	release := make(chan struct{})
	goOn := sync.OnceFunc(func() {
		w.kept.setBefore(nil)
		close(release)
	})
	t.Cleanup(goOn)
	for _, user := range []string{refused, other} {
		w.attach(session("c", 1, user, "phone"))
		w.report(user, time.Hour, &envelope.Report{Ref: "r", DeadlineMs: time.Minute.Milliseconds()})
	}
	w.awaitApplied([]string{refused, other})
	w.kept.setBefore(func(p int32, value []byte) error {
		var rec envelope.Record
		if err := rec.UnmarshalVT(value); err != nil || rec.Dues == nil || p != 0 {
			return err
		}
		<-release
		return envelope.ErrUnavailable
	})
	w.clock.add(time.Minute + time.Second)
	w.expectEvents(other, "undelivered r phone")
	goOn()
	eventually(t, "the step is taken after all", func() bool {
		w.clock.add(mailbox.StepRetryMS * time.Millisecond)
		return len(w.eventsOf(refused, 0)) == 1
	})
}

// While the log takes no records, one removal of an expired device is tried in a round. The others wait: until their turn
// comes the device may be back.
func TestRefusedRemovalEndsTheRound(t *testing.T) {
	presenceTest(t, func(c *router.Config) { c.Presence.Events, c.DeviceExpiry = false, time.Hour }, func(t *testing.T, w *presenceWorld) {
		const users = 3
		for i := range users {
			user := namedUser(0, fmt.Sprint("u", i, "-"))
			w.connect("c", user, "phone")
			w.end(w.connect("c", user, "old"))
			w.ack(user, "phone", w.report(user, 100*time.Hour, &envelope.Report{Ref: "x", Level: 1}))
		}
		var mu sync.Mutex
		tried := make(map[time.Time]int) // removals; guarded by mu
		w.kept.setBefore(func(_ int32, value []byte) error {
			var rec envelope.Record
			if err := rec.UnmarshalVT(value); err != nil || rec.Removal == nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			tried[time.Now()]++
			return envelope.ErrUnavailable
		})
		w.pass(70 * time.Minute)
		w.kept.setBefore(nil)
		mu.Lock()
		defer mu.Unlock()
		if len(tried) == 0 {
			t.Error("no removal was tried")
		}
		for _, n := range tried {
			if n > 1 {
				t.Fatalf("%d removals were tried in a round", n)
			}
		}
		w.pass(2 * time.Minute)
		for i := range users {
			w.expectEvents(namedUser(0, fmt.Sprint("u", i, "-")), "settled x without old")
		}
	})
}

// metric counts the messages in memory.
func (w *world) metric() int { return int(w.gauges("imgo_router_mailbox_messages")[""]) }

// A message that reports leaves a full mailbox by a step in the log, and is told of.
func TestDroppedIsTold(t *testing.T) {
	for _, c := range []struct {
		policy mailbox.Policy
		want   []string
	}{
		{mailbox.DropOldest, []string{"dropped 0 mailbox_full phone", "dropped 1 mailbox_full phone"}},
		{mailbox.RefuseNewest, []string{"dropped 3 mailbox_full phone", "dropped 4 mailbox_full phone"}},
	} {
		w := reportWorld(t, func(cfg *router.Config) { cfg.MailboxLength, cfg.MailboxPolicy = 3, c.policy })
		w.attach(session("c", 1, "u1", "phone"))
		for i := range 5 {
			w.report("u1", time.Hour, &envelope.Report{Ref: fmt.Sprint(i), Level: 1})
		}
		got := w.eventsOf("u1", 2)
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.policy, got, c.want)
		}
		eventually(t, "the mailbox keeps its bound", func() bool { return len(w.pendingIDs("u1", "phone")) == 3 })
	}
}

// An expired device that a message with a report waits for goes by a record.
func TestExpiredDeviceIsTold(t *testing.T) {
	w := reportWorld(t, func(c *router.Config) { c.DeviceExpiry = time.Hour })
	w.attach(session("c", 1, "u1", "phone"))
	old := session("c", 2, "u1", "old")
	w.attach(old)
	w.detach(old)
	id := w.report("u1", 100*time.Hour, &envelope.Report{Ref: "x", Level: 1})
	w.ack("u1", "phone", id)
	w.clock.add(2 * time.Hour)
	w.restart()
	w.clock.add(w.cfg.CometTimeout) // no device expires before
	w.user("u1")
	w.expectEvents("u1", "settled x without old")
}

// While the topic takes no events, acknowledgements and pushes go on, and no mailbox is written whose
// events it lacks: after a crash they are derived again.
func TestTopicAway(t *testing.T) {
	w := reportWorld(t, nil)
	w.attach(session("c", 1, "u1", "phone"))
	away := func(err error) {
		w.topic.mu.Lock()
		defer w.topic.mu.Unlock()
		w.topic.fail = err
	}
	var want []string
	away(envelope.ErrUnavailable)
	for i := range 20 {
		ref := fmt.Sprint(i)
		w.ack("u1", "phone", w.report("u1", time.Hour, &envelope.Report{Ref: ref, Level: 2}))
		want = append(want, "delivered "+ref+" phone", "settled "+ref)
		if i == 10 {
			_ = w.db.Close() // as kill -9
			w.restart()
		}
	}
	away(nil)
	w.expectEvents("u1", want...)
}

// An event that the topic refuses as too large is left out. Those before it and behind it are told.
func TestTooLargeEvent(t *testing.T) {
	w := reportWorld(t, nil)
	w.attach(session("c", 1, "u1", "phone"))
	upstream := func(size int) uint64 {
		return w.append("u1", &envelope.Record{Upstream: &envelope.Upstream{User: "u1", Device: "phone", Body: make([]byte, size)}})
	}
	w.stop()
	w.topic.fail = envelope.ErrUnavailable // so that they are one batch
	w.start()
	var want []string
	for i := range 9 {
		ref := fmt.Sprint(i)
		w.ack("u1", "phone", w.report("u1", time.Hour, &envelope.Report{Ref: ref, Level: 1}))
		want = append(want, "settled "+ref)
		if i%4 == 0 {
			w.applied("u1", upstream(maxRecord)) // as text it is larger
		}
	}
	w.topic.mu.Lock()
	w.topic.fail = nil
	w.topic.mu.Unlock()
	w.expectEvents("u1", want...)
}

// Whatever crashes and whoever else owns the partition: the topic has the events of the log, each once.
func TestEventsAreThoseOfTheLog(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 1))
			w := reportWorld(t, func(c *router.Config) {
				c.FlushInterval = time.Duration(rng.IntN(4)+1) * time.Millisecond
				c.Repeats, c.IdleMailboxes, c.FlushBytes = time.Minute, rng.IntN(3), 1<<(6+rng.IntN(10))
			})
			users, devices := []string{"u1", "u2", "u3"}, []string{"phone", "laptop"}
			for i, u := range users {
				for j, d := range devices {
					w.attach(session("c", uint64(10*i+j), u, d))
				}
			}
			var ids []uint64
			for step := range 250 {
				user := users[rng.IntN(3)]
				switch rng.IntN(10) {
				case 0, 1, 2:
					ids = append(ids, w.report(user, time.Hour, &envelope.Report{Ref: fmt.Sprint(step), Level: 2}))
				case 3, 4, 5, 6:
					acks := &envelope.Acks{}
					for range rng.IntN(3) + 1 {
						ack := &envelope.Ack{User: user, Device: devices[rng.IntN(2)]}
						for range rng.IntN(4) {
							if len(ids) > 0 {
								ack.Ids = append(ack.Ids, ids[max(0, len(ids)-1-rng.IntN(20))])
							}
						}
						acks.Acks = append(acks.Acks, ack)
					}
					w.append(user, &envelope.Record{Acks: acks})
				case 7:
					time.Sleep(time.Duration(rng.IntN(2000)) * time.Microsecond) // another interleaving, not a wait
				case 8:
					if rng.IntN(3) == 0 {
						_ = w.db.Close() // what was not flushed by now is lost, as with kill -9
						w.restart()
					}
				case 9:
					if len(ids) > 0 {
						w.append(user, &envelope.Record{Read: randomRead(rng, user, devices, ids)})
					}
				}
			}
			w.awaitApplied(users)
			topicText := func() (text string) {
				for p := range int32(2) {
					text += fmt.Sprintf("partition %d:\n", p)
					for _, e := range w.topicOf(p) {
						text += string(e.Value) + "\n"
					}
				}
				return text
			}
			w.stop()
			told := topicText()
			// A router without a disk and with a topic of its own derives the same.
			w.topic, w.dir = newMemLog(2), t.TempDir()
			w.start()
			w.awaitApplied(users)
			w.stop()
			if again := topicText(); told != again {
				t.Fatalf("told:\n%s\nderived again:\n%s", told, again)
			}
		})
	}
}

// A router that begins derives what the topic has again, and appends none of it. Without the rule it appends all of
// that, which a reader drops.
func TestTailSavesWork(t *testing.T) {
	for _, without := range []bool{false, true} {
		w := reportWorld(t, func(c *router.Config) { c.Faults.NoEventsTail = without })
		w.attach(session("c", 1, "u1", "phone"))
		var want []string
		for i := range 5 {
			ref := fmt.Sprint(i)
			w.ack("u1", "phone", w.report("u1", time.Hour, &envelope.Report{Ref: ref, Level: 1}))
			want = append(want, "settled "+ref)
		}
		w.expectEvents("u1", want...)
		w.stop()
		w.dir = t.TempDir() // the disk is lost
		w.start()
		w.ack("u1", "phone", w.report("u1", time.Hour, &envelope.Report{Ref: "last", Level: 1}))
		w.expectEvents("u1", append(want, "settled last")...)
		w.stop()
		w.topic.mu.Lock()
		appended := w.topic.appends
		w.topic.mu.Unlock()
		if again := appended > 6; again != without {
			t.Errorf("without the rule %v: %d events were appended for 6", without, appended)
		}
	}
}
