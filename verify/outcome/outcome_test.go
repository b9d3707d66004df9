package outcome_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"imgo/internal/events"
	"imgo/verify/history"
	"imgo/verify/outcome"
)

// The streams of the tests.
const follower, hook = 0, 1

// story has a judge and what it found.
type story struct {
	*outcome.Judge
	found   history.Violations
	settled []time.Duration
	// ids are the record numbers of the next event, by stream.
	next [2]int
}

// begin returns a judge of ann, whose devices phone and laptop acknowledge, and of bob, whose tv does not.
func begin() *story {
	s := &story{Judge: outcome.New(outcome.Stream{Name: "GET /v1/events"}, outcome.Stream{Name: "the hook", Repeats: true})}
	s.Watch(func(v history.Violation) { s.found = append(s.found, v) },
		func(_ int, took time.Duration) { s.settled = append(s.settled, took) })
	s.Device("ann", "phone", outcome.AcksKnown)
	s.Device("ann", "laptop", outcome.AcksKnown)
	s.Device("bob", "tv", outcome.AcksAuto)
	s.Device("bob", "sdk", outcome.AcksAll)
	return s
}

// push tries a push and has it accepted with the id 100 + number.
func (s *story) push(number uint64, user string, ask outcome.Ask) {
	if ask.Level == 0 {
		ask.Level = events.LevelEach
	}
	s.Tried(number, ask, time.Second, user)
	s.Accepted(number, user, 100+number)
}

// received has devices receive and acknowledge a push.
func (s *story) received(number uint64, user string, devices ...string) {
	for _, d := range devices {
		s.Received(number, user, d, 100+number, 2*time.Second)
		s.Acknowledging(user, d, []uint64{100 + number}, 2*time.Second)
	}
}

// event returns an event of a message.
func event(id string, t events.Type, user string, message uint64) outcome.Event {
	e := outcome.Event{Document: events.Document{ID: id, Type: t}}
	e.Data.User, e.Data.ID = user, message
	return e
}

// notify brings an event by one stream, with the next id of it.
func (s *story) notify(stream int, t events.Type, user string, number uint64, change ...func(*outcome.Event)) {
	s.next[stream]++
	e := event(fmt.Sprintf("0-%d.0", s.next[stream]), t, user, 100+number)
	e.Received = 10 * time.Second
	for _, c := range change {
		c(&e)
	}
	s.Add(stream, e)
}

// notifyBoth is notify by both streams.
func (s *story) notifyBoth(t events.Type, user string, number uint64, change ...func(*outcome.Event)) {
	s.notify(follower, t, user, number, change...)
	s.notify(hook, t, user, number, change...)
}

func by(device string) func(*outcome.Event) { return func(e *outcome.Event) { e.Data.Device = device } }
func ref(text string) func(*outcome.Event)  { return func(e *outcome.Event) { e.Data.Ref = text } }
func id(text string) func(*outcome.Event)   { return func(e *outcome.Event) { e.ID = text } }
func auto(e *outcome.Event)                 { e.Data.Auto = true }
func waits(devices ...string) func(*outcome.Event) {
	return func(e *outcome.Event) { e.Data.Devices = devices }
}

// good tells what became of pushes 1 to 4 of ann, and 5 of bob.
func good() *story {
	s := begin()
	s.push(1, "ann", outcome.Ask{})
	s.received(1, "ann", "phone", "laptop")
	s.notifyBoth(events.Delivered, "ann", 1, by("phone"))
	s.notifyBoth(events.Delivered, "ann", 1, by("laptop"))
	s.notifyBoth(events.Settled, "ann", 1)
	// The end only, with a ref; the answer comes last.
	s.Tried(2, outcome.Ask{Level: events.LevelSettled, Ref: outcome.Ref(2)}, time.Second, "ann")
	s.Received(2, "ann", "phone", 102, 2*time.Second)
	s.Received(2, "ann", "laptop", 102, 2*time.Second)
	s.Acknowledging("ann", "phone", []uint64{102}, 2*time.Second)
	s.Acknowledging("ann", "laptop", []uint64{102}, 2*time.Second)
	s.notifyBoth(events.Settled, "ann", 2, ref(outcome.Ref(2)))
	s.Accepted(2, "ann", 102)
	// A deadline that passes for the laptop, and then the ttl.
	s.push(3, "ann", outcome.Ask{Deadline: 2 * time.Second, DeadlineAny: true})
	s.received(3, "ann", "phone")
	s.notifyBoth(events.Delivered, "ann", 3, by("phone"))
	s.notifyBoth(events.Undelivered, "ann", 3, waits("laptop"))
	s.notifyBoth(events.Expired, "ann", 3, waits("laptop"))
	// A message that nobody acknowledges before its deadline, told before the answer.
	s.Tried(4, outcome.Ask{Level: events.LevelEach, Deadline: 2 * time.Second, Held: true, Ref: outcome.Ref(4)}, time.Second, "ann")
	s.notifyBoth(events.Undelivered, "ann", 4, ref(outcome.Ref(4)), waits("laptop", "phone"))
	s.received(4, "ann", "phone", "laptop")
	s.notifyBoth(events.Delivered, "ann", 4, by("phone"), ref(outcome.Ref(4)))
	s.notifyBoth(events.Delivered, "ann", 4, by("laptop"), ref(outcome.Ref(4)))
	s.notifyBoth(events.Settled, "ann", 4, ref(outcome.Ref(4)))
	s.Accepted(4, "ann", 104)
	// Devices whose acknowledgements are not known: the events come before the receipts, and before the answer.
	s.Tried(5, outcome.Ask{Level: events.LevelEach}, time.Second, "bob")
	s.notifyBoth(events.Delivered, "bob", 5, by("tv"), auto)
	s.notifyBoth(events.Delivered, "bob", 5, by("sdk"))
	s.notifyBoth(events.Settled, "bob", 5)
	s.Received(5, "bob", "tv", 105, 2*time.Second)
	s.Received(5, "bob", "sdk", 105, 2*time.Second)
	return s
}

func TestGood(t *testing.T) {
	s := good()
	if all := slices.Concat(s.found, s.Missing()); len(all) > 0 {
		t.Error(all)
	}
	got := s.Stats()
	if got.Open != 0 || got.Asked != 5 || got.Received[follower] != 14 || got.Received[hook] != 14 || got.Repeated[hook] != 0 {
		t.Errorf("the counters are %+v", got)
	}
	if len(s.settled) != 6 || s.settled[0] != 8*time.Second {
		t.Errorf("ends were told %s after the last acknowledgement", s.settled)
	}
	s.notify(hook, events.Settled, "ann", 1, id("0-3.0")) // a repetition
	s.notify(follower, events.Settled, "cleo", 1)         // somebody else's
	s.notify(follower, events.Read, "ann", 1)             // not judged
	if got := s.Stats(); len(s.found) > 0 || got.Repeated[hook] != 1 || got.Received[follower] != 14 {
		t.Errorf("%v, the counters are %+v", s.found, got)
	}
}

// TestJudgeFinds adds one fault at a time to the good story. The judge must find exactly that fault.
func TestJudgeFinds(t *testing.T) {
	const far = 7 * 24 * time.Hour
	for name, c := range map[string]struct {
		spoil func(*story)
		want  []history.Kind
	}{
		"no event": {func(s *story) {
			s.push(7, "ann", outcome.Ask{})
			s.received(7, "ann", "phone", "laptop")
			s.notify(hook, events.Delivered, "ann", 7, by("phone"))
			s.notify(hook, events.Delivered, "ann", 7, by("laptop"))
			s.notify(hook, events.Settled, "ann", 7)
		}, []history.Kind{outcome.KindMissing}},
		"no end": {func(s *story) {
			s.push(7, "ann", outcome.Ask{})
			s.received(7, "ann", "phone", "laptop")
			s.notifyBoth(events.Delivered, "ann", 7, by("phone"))
			s.notifyBoth(events.Delivered, "ann", 7, by("laptop"))
			s.notify(follower, events.Settled, "ann", 7)
		}, []history.Kind{outcome.KindMissing}},
		"no end of a message that arrived without an answer": {func(s *story) {
			s.Tried(7, outcome.Ask{Level: events.LevelSettled}, time.Second, "ann")
			s.received(7, "ann", "phone", "laptop")
			s.notify(hook, events.Settled, "ann", 7)
		}, []history.Kind{outcome.KindMissing}},
		"one device left out": {func(s *story) {
			s.push(7, "ann", outcome.Ask{})
			s.received(7, "ann", "phone", "laptop")
			s.notifyBoth(events.Delivered, "ann", 7, by("phone"))
			s.notifyBoth(events.Settled, "ann", 7)
		}, []history.Kind{outcome.KindOrder, outcome.KindOrder}},
		"a deadline that was told by one stream only": {func(s *story) {
			s.push(7, "ann", outcome.Ask{Level: events.LevelSettled, Deadline: 2 * time.Second})
			s.received(7, "ann", "phone", "laptop")
			s.notify(follower, events.Undelivered, "ann", 7, waits("laptop", "phone"))
			s.notifyBoth(events.Settled, "ann", 7)
		}, []history.Kind{outcome.KindMissing}},
		"not acknowledged": {func(s *story) {
			s.push(7, "ann", outcome.Ask{})
			s.Received(7, "ann", "phone", 107, 2*time.Second)
			s.notify(follower, events.Delivered, "ann", 7, by("phone"))
			s.received(7, "ann", "phone", "laptop")
			s.notify(follower, events.Delivered, "ann", 7, by("laptop"))
			s.notify(follower, events.Settled, "ann", 7)
			s.notify(hook, events.Delivered, "ann", 7, by("phone"))
			s.notify(hook, events.Delivered, "ann", 7, by("laptop"))
			s.notify(hook, events.Settled, "ann", 7)
		}, []history.Kind{outcome.KindInvented}},
		"the end before an acknowledgement": {func(s *story) {
			s.push(7, "ann", outcome.Ask{Level: events.LevelSettled})
			s.received(7, "ann", "phone")
			s.notify(follower, events.Settled, "ann", 7)
			s.received(7, "ann", "laptop")
			s.notify(hook, events.Settled, "ann", 7)
		}, []history.Kind{outcome.KindInvented}},
		"never received": {func(s *story) {
			s.push(7, "bob", outcome.Ask{})
			s.received(7, "bob", "sdk")
			s.notifyBoth(events.Delivered, "bob", 7, by("sdk"))
			s.notify(follower, events.Delivered, "bob", 7, by("tv"))
		}, []history.Kind{outcome.KindInvented, outcome.KindMissing, outcome.KindMissing}},
		"the end of what was never received": {func(s *story) {
			s.push(7, "bob", outcome.Ask{Level: events.LevelSettled})
			s.received(7, "bob", "sdk")
			s.notifyBoth(events.Settled, "bob", 7)
		}, []history.Kind{outcome.KindInvented, outcome.KindInvented}},
		"automatic for a device that acknowledges": {func(s *story) {
			s.push(7, "ann", outcome.Ask{})
			s.received(7, "ann", "phone", "laptop")
			s.notify(follower, events.Delivered, "ann", 7, by("phone"), auto)
			s.notify(hook, events.Delivered, "ann", 7, by("phone"))
			s.notifyBoth(events.Delivered, "ann", 7, by("laptop"))
			s.notifyBoth(events.Settled, "ann", 7)
		}, []history.Kind{outcome.KindInvented}},
		"of a push that did not ask": {func(s *story) {
			s.Accepted(7, "ann", 107)
			s.received(7, "ann", "phone", "laptop")
			s.notify(follower, events.Settled, "ann", 7)
		}, []history.Kind{outcome.KindInvented}},
		"more than was asked": {func(s *story) {
			s.push(7, "ann", outcome.Ask{Level: events.LevelSettled})
			s.received(7, "ann", "phone", "laptop")
			s.notify(hook, events.Delivered, "ann", 7, by("phone"))
			s.notifyBoth(events.Settled, "ann", 7)
		}, []history.Kind{outcome.KindInvented}},
		"of a push that was refused": {func(s *story) {
			s.Tried(7, outcome.Ask{Level: events.LevelSettled}, time.Second, "ann")
			s.Refused(7)
			s.notify(hook, events.Settled, "ann", 7)
		}, []history.Kind{outcome.KindInvented}},
		"another ref": {func(s *story) {
			s.push(7, "ann", outcome.Ask{Level: events.LevelSettled, Ref: outcome.Ref(7)})
			s.received(7, "ann", "phone", "laptop")
			s.notify(hook, events.Settled, "ann", 7, ref(outcome.Ref(8)))
			s.notify(follower, events.Settled, "ann", 7, ref(outcome.Ref(7)))
		}, []history.Kind{outcome.KindInvented}},
		"another id than the push": {func(s *story) {
			s.push(7, "ann", outcome.Ask{Level: events.LevelSettled, Ref: outcome.Ref(7)})
			s.received(7, "ann", "phone", "laptop")
			s.notify(hook, events.Settled, "ann", 8, ref(outcome.Ref(7)))
			s.notifyBoth(events.Settled, "ann", 7, ref(outcome.Ref(7)))
		}, []history.Kind{outcome.KindInvented}},
		"no device of the user": {func(s *story) {
			s.push(7, "ann", outcome.Ask{})
			s.notify(hook, events.Delivered, "ann", 7, by("watch"))
			s.received(7, "ann", "phone", "laptop")
			s.notifyBoth(events.Delivered, "ann", 7, by("phone"))
			s.notifyBoth(events.Delivered, "ann", 7, by("laptop"))
			s.notifyBoth(events.Settled, "ann", 7)
		}, []history.Kind{outcome.KindInvented}},
		"a device was forgotten": {func(s *story) {
			s.push(7, "ann", outcome.Ask{Level: events.LevelSettled})
			s.received(7, "ann", "phone", "laptop")
			s.notify(hook, events.Settled, "ann", 7)
			s.notify(follower, events.Settled, "ann", 7, func(e *outcome.Event) { e.Data.Without = []string{"laptop"} })
		}, []history.Kind{outcome.KindInvented}},
		"lost with a disk": {func(s *story) {
			s.push(7, "ann", outcome.Ask{})
			s.notify(hook, events.Dropped, "ann", 7, waits("laptop", "phone"))
			s.notify(follower, events.Dropped, "ann", 7, waits("laptop", "phone"), func(e *outcome.Event) { e.Data.Reason = events.ReasonLost })
		}, []history.Kind{outcome.KindInvented}},
		"no id": {func(s *story) {
			s.notify(hook, events.Settled, "ann", 4, id("x"))
		}, []history.Kind{outcome.KindInvented}},
		"twice under one id": {func(s *story) {
			s.notify(follower, events.Settled, "ann", 1, id("0-3.0"))
		}, []history.Kind{outcome.KindTwice}},
		"delivered twice": {func(s *story) {
			s.push(7, "ann", outcome.Ask{})
			s.received(7, "ann", "phone", "laptop")
			s.notifyBoth(events.Delivered, "ann", 7, by("phone"))
			s.notify(hook, events.Delivered, "ann", 7, by("phone"))
			s.notifyBoth(events.Delivered, "ann", 7, by("laptop"))
			s.notifyBoth(events.Settled, "ann", 7)
		}, []history.Kind{outcome.KindTwice}},
		"ended twice": {func(s *story) {
			s.push(7, "ann", outcome.Ask{Level: events.LevelSettled})
			s.received(7, "ann", "phone", "laptop")
			s.notify(hook, events.Settled, "ann", 7)
			s.notify(hook, events.Settled, "ann", 7)
			s.notify(follower, events.Settled, "ann", 7)
		}, []history.Kind{outcome.KindTwice}},
		"after the end, long ago": {func(s *story) {
			s.notify(hook, events.Settled, "ann", 1)
		}, []history.Kind{outcome.KindInvented}},
		"after the end": {func(s *story) {
			s.push(7, "ann", outcome.Ask{Level: events.LevelSettled})
			s.received(7, "ann", "phone", "laptop")
			s.notify(hook, events.Settled, "ann", 7)
			s.notify(hook, events.Expired, "ann", 7, waits("phone"))
			s.notify(follower, events.Settled, "ann", 7)
		}, []history.Kind{outcome.KindOrder}},
		"the ids go back": {func(s *story) {
			s.push(7, "ann", outcome.Ask{})
			s.received(7, "ann", "phone", "laptop")
			s.notify(hook, events.Delivered, "ann", 7, by("phone"), id("0-92.0"))
			s.notify(hook, events.Delivered, "ann", 7, by("laptop"), id("0-91.0"))
			s.notify(hook, events.Settled, "ann", 7, id("0-93.0"))
			s.notify(follower, events.Delivered, "ann", 7, by("phone"))
			s.notify(follower, events.Delivered, "ann", 7, by("laptop"))
			s.notify(follower, events.Settled, "ann", 7)
		}, []history.Kind{outcome.KindOrder}},
		"a deadline of none": {func(s *story) {
			s.push(7, "ann", outcome.Ask{Level: events.LevelSettled})
			s.notify(hook, events.Undelivered, "ann", 7, waits("laptop", "phone"))
			s.received(7, "ann", "phone", "laptop")
			s.notifyBoth(events.Settled, "ann", 7)
		}, []history.Kind{outcome.KindInvented}},
		"a deadline twice": {func(s *story) {
			s.push(7, "ann", outcome.Ask{Deadline: time.Second, DeadlineAny: true})
			s.notifyBoth(events.Undelivered, "ann", 7, waits("laptop", "phone"))
			s.notify(hook, events.Undelivered, "ann", 7, waits("laptop", "phone"))
			s.notifyBoth(events.Expired, "ann", 7, waits("laptop", "phone"))
		}, []history.Kind{outcome.KindDeadline}},
		"a deadline after an acknowledgement": {func(s *story) {
			s.push(7, "ann", outcome.Ask{Deadline: time.Second})
			s.received(7, "ann", "phone", "laptop")
			s.notifyBoth(events.Delivered, "ann", 7, by("phone"))
			s.notify(hook, events.Undelivered, "ann", 7, waits("laptop"))
			s.notify(follower, events.Delivered, "ann", 7, by("laptop"))
			s.notify(follower, events.Settled, "ann", 7)
			s.notify(hook, events.Delivered, "ann", 7, by("laptop"))
			s.notify(hook, events.Settled, "ann", 7)
		}, []history.Kind{outcome.KindDeadline, outcome.KindMissing}},
		"a deadline too early": {func(s *story) {
			s.push(7, "ann", outcome.Ask{Deadline: far})
			s.notifyBoth(events.Undelivered, "ann", 7, waits("laptop", "phone"))
			s.notifyBoth(events.Expired, "ann", 7, waits("laptop", "phone"))
		}, []history.Kind{outcome.KindDeadline, outcome.KindDeadline}},
		"a deadline that names a device that has it": {func(s *story) {
			s.push(7, "ann", outcome.Ask{Deadline: time.Second, DeadlineAny: true})
			s.received(7, "ann", "phone")
			s.notifyBoth(events.Delivered, "ann", 7, by("phone"))
			s.notify(follower, events.Undelivered, "ann", 7, waits("laptop"))
			s.notify(hook, events.Undelivered, "ann", 7, waits("laptop", "phone"))
			s.notifyBoth(events.Expired, "ann", 7, waits("laptop"))
		}, []history.Kind{outcome.KindInvented}},
		"the end of nothing": {func(s *story) {
			s.push(7, "ann", outcome.Ask{Level: events.LevelSettled})
			s.notify(hook, events.Expired, "ann", 7)
			s.notify(follower, events.Expired, "ann", 7, waits("phone"))
		}, []history.Kind{outcome.KindInvented}},
		"a deadline that passed in silence": {func(s *story) {
			s.push(7, "ann", outcome.Ask{Deadline: time.Second, Held: true})
			s.notify(hook, events.Undelivered, "ann", 7, waits("laptop", "phone"))
			s.received(7, "ann", "phone", "laptop")
			s.notify(hook, events.Delivered, "ann", 7, by("phone"))
			s.notify(follower, events.Delivered, "ann", 7, by("phone"))
		}, []history.Kind{outcome.KindDeadline, outcome.KindMissing, outcome.KindMissing, outcome.KindMissing}},
		"a deadline that is still silent": {func(s *story) {
			s.push(7, "ann", outcome.Ask{Level: events.LevelSettled, Deadline: time.Second, Held: true})
			s.notify(hook, events.Undelivered, "ann", 7, waits("laptop", "phone"))
			s.received(7, "ann", "phone", "laptop")
			s.notify(hook, events.Settled, "ann", 7)
		}, []history.Kind{outcome.KindMissing, outcome.KindMissing}},
	} {
		t.Run(name, func(t *testing.T) {
			s := good()
			c.spoil(s)
			var found []history.Kind
			all := slices.Concat(s.found, s.Missing())
			for _, v := range all {
				found = append(found, v.Kind)
				if v.User == "" || v.Detail == "" {
					t.Errorf("%+v does not say what is wrong", v)
				}
			}
			if !slices.Equal(found, c.want) {
				t.Errorf("found %q, want %q: %v", found, c.want, all)
			}
		})
	}
}

// What is held is not acknowledged before a stream has told of the deadline.
func TestHeld(t *testing.T) {
	s := begin()
	s.push(1, "ann", outcome.Ask{Deadline: 2 * time.Second, Held: true})
	s.push(2, "ann", outcome.Ask{Deadline: 2 * time.Second})
	if !s.Held("ann", 101) || s.Held("ann", 102) || s.Held("ann", 103) || s.Held("cleo", 101) {
		t.Error("another message than the first is held")
	}
	s.notify(hook, events.Undelivered, "ann", 1, waits("laptop", "phone"))
	if s.Held("ann", 101) {
		t.Error("it is held after its deadline was told")
	}
	if !s.KnowsAcks("ann") || s.KnowsAcks("ann", "bob") || s.KnowsAcks("cleo") {
		t.Error("the acknowledgements of ann alone are known")
	}
}

// Repetitions of long ago are told from a wrong order, and the memory stays bounded.
func TestManyEvents(t *testing.T) {
	s := begin()
	for n := uint64(1); n <= 3000; n++ {
		s.push(n, "ann", outcome.Ask{Level: events.LevelSettled})
		s.received(n, "ann", "phone", "laptop")
		s.notifyBoth(events.Settled, "ann", n)
	}
	s.notify(hook, events.Settled, "ann", 1, id("0-1.0"))
	s.notify(hook, events.Settled, "ann", 2990, id("0-2990.0"))
	if got := s.Stats(); len(s.found) > 0 || got.Repeated[hook] != 2 || got.Open != 0 {
		t.Errorf("%v, the counters are %+v", s.found, got)
	}
	s.notify(follower, events.Settled, "ann", 1, id("0-1.0"))
	if len(s.found) != 1 || s.found[0].Kind != outcome.KindTwice || !strings.Contains(s.found[0].String(), "GET /v1/events") {
		t.Errorf("found %v", s.found)
	}
}

// TestSideBySide calls all methods concurrently, for the race detector.
func TestSideBySide(t *testing.T) {
	j := outcome.New(outcome.Stream{Name: "follower"})
	for g := range 4 {
		j.Device(fmt.Sprint(g), "phone", outcome.AcksKnown)
	}
	var all sync.WaitGroup
	for g := range uint64(4) {
		user := fmt.Sprint(g)
		all.Go(func() {
			for n := g*1000 + 1; n <= g*1000+200; n++ {
				j.Tried(n, outcome.Ask{Level: events.LevelSettled}, 0, user)
				j.Received(n, user, "phone", n, 1)
				j.Held(user, n)
				j.Acknowledging(user, "phone", []uint64{n}, 1)
				j.Accepted(n, user, n)
				j.Add(0, event(fmt.Sprintf("0-%d.0", n), events.Settled, user, n))
				j.Stats()
				j.Missing()
				j.Stats()
			}
		})
	}
	all.Wait()
	if got := j.Stats(); got.Open != 0 || got.Asked != 800 {
		t.Errorf("the counters are %+v", got)
	}
}
