package hooks_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"imgo/envelope"
	"imgo/roles/job/hooks"
)

func TestPosts(t *testing.T) {
	inWorld(t, func(w *world) {
		w.topic.add("1") // before the hook is there: not for it
		w.start()
		w.add(3, "1", "2")
		w.after(time.Second)
		w.checkAll()
		if n := w.to.count(); n != 6 {
			t.Errorf("%d calls for 6 events", n)
		}
		for _, c := range w.to.calls {
			if c.id != c.events[0].ID || c.contentType != "application/cloudevents+json" {
				t.Errorf("call %q of type %q has event %q", c.id, c.contentType, c.events[0].ID)
			}
		}
	})
}

func TestTypes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cfg.Types = []string{"user.*"}
		w.start()
		w.add(3, "1")             // message.delivered
		w.after(15 * time.Second) // the position is shown every ten
		if n := w.to.count(); n != 0 {
			t.Errorf("%d calls for events of other types", n)
		}
		if s := w.status(); s.Lag != 0 {
			t.Errorf("status %+v: events of other types are not behind", s)
		}
	})
}

func TestBatches(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cfg.Batch = 10
		w.to.takes = 100 * time.Millisecond
		w.start()
		w.add(20, "1", "2", "3")
		w.after(5 * time.Second)
		w.checkAll()
		if n := w.to.count(); n < 6 || n > 12 {
			t.Errorf("%d calls for 60 events in batches of 10", n)
		}
		for _, c := range w.to.calls {
			if len(c.events) > 10 || c.contentType != "application/cloudevents-batch+json" {
				t.Errorf("a call of type %q has %d events", c.contentType, len(c.events))
			}
		}
	})
}

// The events of a user are taken in their order, whatever the receiver answers.
func TestOrder(t *testing.T) {
	for _, batch := range []int{1, 7} {
		inWorld(t, func(w *world) {
			w.cfg.Batch = batch
			dice := rand.New(rand.NewPCG(1, uint64(batch)))
			w.to.answer = func(call) (int, http.Header) {
				answers := []int{200, 200, 204, 500, 429, 408, 503, 0}
				return answers[dice.IntN(len(answers))], nil
			}
			w.start()
			w.add(20, "1", "2", "3", "4", "5")
			w.after(12 * time.Hour)
			w.checkAll()
			byID := make(map[string]bool)
			for _, c := range w.to.calls {
				byID[c.id] = true
			}
			if batch == 1 && len(byID) != 100 {
				t.Errorf("100 events were posted under %d webhook-ids", len(byID))
			}
		})
	}
}

// An event that fails holds up the other users by one timeout at the most, and is set aside while they go on.
func TestPoisonedEvent(t *testing.T) {
	for _, batch := range []int{1, 10} {
		inWorld(t, func(w *world) {
			w.cfg.Batch, w.cfg.RetryFor = batch, time.Hour
			poison := ""
			w.to.answer = func(c call) (int, http.Header) {
				if slices.ContainsFunc(c.events, func(e event) bool { return e.ID == poison }) {
					return 0, nil
				}
				return http.StatusOK, nil
			}
			w.start()
			w.add(1, "poisoned")
			w.to.change(func() { poison = w.sent["poisoned"][0] })
			w.add(3, "poisoned", "1", "2", "3")
			w.after(11 * time.Second)
			for _, user := range []string{"1", "2", "3"} {
				if got := w.to.ids(user); !slices.Equal(got, w.sent[user]) {
					t.Errorf("batch %d: user %s has %v after one timeout, want %v", batch, user, got, w.sent[user])
				}
			}
			if got := w.to.ids("poisoned"); len(got) != 0 {
				t.Errorf("batch %d: %v were posted before the event that fails", batch, got)
			}
			for range 120 { // others succeed meanwhile
				w.add(1, "1")
				w.after(time.Minute)
			}
			s := w.status()
			if s.DeadLetters != 1 || s.Letters[0].Event != poison || !strings.Contains(s.Letters[0].Reason, "while others succeeded") {
				t.Errorf("batch %d: status %+v", batch, s)
			}
			w.sent["poisoned"] = w.sent["poisoned"][1:]
			w.checkAll()
			// The receiver is repaired, and the dead letters are replayed.
			w.to.change(func() { poison = "" })
			w.admin(func(ctx context.Context, a *hooks.Admin) error { return a.Retry(ctx, "orders") })
			w.after(time.Minute)
			if s := w.status(); s.DeadLetters != 0 || s.Waiting != 0 || s.DeadTotal != 1 {
				t.Errorf("batch %d: status after the replay %+v", batch, s)
			}
			if got := w.to.ids("poisoned"); len(got) != 4 {
				t.Errorf("batch %d: after the replay the receiver has %v", batch, got)
			}
		})
	}
}

// TestClockSetRight sets a clock right that was ahead when an event failed. The next try and the end of retry_for come
// as if the clock had been right, or at most the longest pause later.
func TestClockSetRight(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		inWorld(t, func(w *world) {
			w.cfg.RetryFor = time.Hour
			poison := ""
			w.to.answer = func(c call) (int, http.Header) {
				switch {
				case c.events[0].ID == poison: // seldom, so that the address is not taken for down
					return http.StatusInternalServerError, http.Header{"Retry-After": {"600"}}
				case len(w.to.calls) == 1:
					return http.StatusInternalServerError, nil
				}
				return http.StatusOK, nil
			}
			w.ahead.Store(int64(48 * time.Hour))
			w.start()
			w.add(1, "1")
			w.after(10 * time.Millisecond)
			w.add(1, "poisoned")
			w.to.change(func() { poison = w.sent["poisoned"][0] })
			w.after(10 * time.Millisecond)
			if restarted {
				w.stop()
			}
			w.ahead.Store(0)
			if restarted {
				w.start()
			}
			w.add(1, "1")
			w.after(time.Hour + time.Minute)
			if got := w.to.ids("1"); !slices.Equal(got, w.sent["1"]) {
				t.Errorf("restarted: %t, after an hour the receiver has %v, want %v", restarted, got, w.sent["1"])
			}
			for range 120 { // others succeed meanwhile
				w.add(1, "1")
				w.after(time.Minute)
			}
			if s := w.status(); s.DeadLetters != 1 {
				t.Errorf("restarted: %t, after three hours %+v", restarted, s)
			}
		})
	}
}

// TestClockBehindForAMoment sets a clock back and forth while an event waits for its next try. The event is not set aside before
// the end of retry_for.
func TestClockBehindForAMoment(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		inWorld(t, func(w *world) {
			w.cfg.RetryFor = 2 * time.Hour
			poison := ""
			w.to.answer = func(c call) (int, http.Header) {
				if c.events[0].ID == poison {
					return http.StatusInternalServerError, http.Header{"Retry-After": {"600"}}
				}
				return http.StatusOK, nil
			}
			w.start()
			w.add(1, "poisoned")
			w.to.change(func() { poison = w.sent["poisoned"][0] })
			w.after(time.Minute)
			if restarted {
				w.stop()
			}
			w.ahead.Store(int64(-48 * time.Hour))
			if restarted {
				w.start()
			}
			w.add(1, "1") // the job looks at what waits
			w.after(time.Minute)
			w.ahead.Store(0)
			for range 60 { // others succeed meanwhile
				w.add(1, "1")
				w.after(time.Minute)
			}
			if s := w.status(); s.DeadLetters != 0 || s.Waiting != 1 {
				t.Errorf("restarted: %t, after an hour %+v", restarted, s)
			}
			for range 90 {
				w.add(1, "1")
				w.after(time.Minute)
			}
			if s := w.status(); s.DeadLetters != 1 {
				t.Errorf("restarted: %t, after retry_for %+v", restarted, s)
			}
		})
	}
}

// An answer that says that the call is wrong is not asked for again.
func TestRefused(t *testing.T) {
	for _, status := range []int{301, 400, 401, 404, 422} {
		inWorld(t, func(w *world) {
			w.to.answer = func(c call) (int, http.Header) {
				if c.events[0].Subject == "1" {
					return status, nil
				}
				return http.StatusOK, nil
			}
			w.start()
			w.add(2, "1", "2")
			w.after(time.Hour)
			s := w.status()
			if s.DeadLetters != 2 || s.Waiting != 0 || w.to.count() != 4 {
				t.Errorf("%d: %d calls, status %+v", status, w.to.count(), s)
			}
		})
	}
}

// An address that is away loses nothing, and is asked seldom.
func TestAway(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cfg.RetryFor = time.Minute // shorter than the address is away
		w.to.always(http.StatusServiceUnavailable)
		w.start()
		for range 100 {
			w.add(20, "1", "2", "3")
			w.after(6 * time.Second)
		}
		if n := w.to.count(); n > 60 {
			t.Errorf("%d calls in ten minutes to an address that is away", n)
		}
		if s := w.status(); s.DeadLetters != 0 || s.Error == "" || s.Waiting == 0 {
			t.Errorf("status %+v", s)
		}
		w.to.always(http.StatusOK)
		w.to.change(func() { w.to.takes = 20 * time.Millisecond })
		w.after(10 * time.Minute)
		w.checkAll()
		if s := w.status(); s.DeadLetters != 0 || s.Waiting != 0 || s.Error != "" {
			t.Errorf("status after it came back %+v", s)
		}
	})
}

// The receiver says when to call again.
func TestRetryAfter(t *testing.T) {
	inWorld(t, func(w *world) {
		w.to.answer = func(call) (int, http.Header) {
			if len(w.to.calls) == 1 {
				return http.StatusTooManyRequests, http.Header{"Retry-After": {"120"}}
			}
			return http.StatusOK, nil
		}
		w.start()
		w.add(1, "1")
		w.after(119 * time.Second)
		if n := w.to.count(); n != 1 {
			t.Errorf("%d calls before the time", n)
		}
		w.after(2 * time.Second)
		w.checkAll()
	})
}

// 410 pauses the hook until a caller, or another address, lets it go on.
func TestPause(t *testing.T) {
	for _, fix := range []string{"resume", "another address"} {
		inWorld(t, func(w *world) {
			w.to.always(http.StatusGone)
			w.start()
			w.add(5, "1", "2")
			w.after(time.Hour)
			if s := w.status(); s.Paused == "" || w.to.count() > 4 {
				t.Errorf("%d calls, status %+v", w.to.count(), s)
			}
			w.to.always(http.StatusOK)
			w.stop()
			if fix != "resume" {
				w.cfg.URL = "https://backend.example/other"
			}
			w.start()
			w.after(time.Hour)
			if fix == "resume" {
				if got := w.to.ids("1"); len(got) != 0 {
					t.Errorf("a restart ended the pause: %v were posted", got)
				}
				w.admin(func(ctx context.Context, a *hooks.Admin) error { return a.Resume(ctx, "orders") })
				w.after(time.Second)
			}
			w.checkAll()
		})
	}
}

// A replay that a caller asks for while a job pauses the hook is not lost.
func TestReplayDuringPause(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.add(3, "1")
		w.after(time.Minute)
		w.table.mu.Lock()
		w.table.beforeControl = func() {
			w.admin(func(ctx context.Context, a *hooks.Admin) error { return a.Replay(ctx, "orders", time.UnixMilli(1)) })
		}
		w.table.mu.Unlock()
		w.to.always(http.StatusGone)
		w.add(1, "1")
		w.after(time.Minute)
		w.to.always(http.StatusOK)
		before := w.to.count()
		w.admin(func(ctx context.Context, a *hooks.Admin) error { return a.Resume(ctx, "orders") })
		w.after(time.Minute)
		if n := w.to.count() - before; n != 4 {
			t.Errorf("%d calls after the pause, want 4: the replay of 3 events, and a new one", n)
		}
	})
}

// A job that ends at any moment loses nothing, and its successor keeps the order.
func TestRestarts(t *testing.T) {
	inWorld(t, func(w *world) {
		dice, answers := rand.New(rand.NewPCG(2, 3)), rand.New(rand.NewPCG(4, 5))
		w.to.takes = 30 * time.Millisecond
		w.to.answer = func(c call) (int, http.Header) {
			if answers.IntN(4) == 0 {
				return http.StatusInternalServerError, nil
			}
			return http.StatusOK, nil
		}
		w.start()
		for round := range 40 {
			w.add(1+dice.IntN(5), "1", "2", "3")
			w.after(time.Duration(dice.IntN(4000)) * time.Millisecond)
			if round%10 == 5 {
				w.table.fail(round%20 == 5)
			}
			w.stop()
			w.start()
		}
		w.table.fail(false)
		w.after(time.Hour)
		w.checkAll()
	})
}

// A job that ends in order leaves nothing that its successor posts again, also if its state could not be stored for a while.
func TestRestartRepeatsNothing(t *testing.T) {
	for _, alone := range []bool{false, true} {
		inWorld(t, func(w *world) {
			w.alone = alone
			w.start()
			for range 3 {
				w.add(3, "1")
				w.after(2 * time.Second) // a position alone is stored every ten
			}
			w.stop()
			w.start()
			w.table.fail(true)
			w.add(3, "1")
			w.after(time.Minute)
			w.table.fail(false)
			w.after(time.Minute)
			w.stop()
			w.start()
			w.after(time.Minute)
			w.checkAll()
			if n := w.to.count(); n != 12 {
				t.Errorf("alone: %t, %d calls for 12 events", alone, n)
			}
		})
	}
}

// A job that has lost the partition stores its state late, over that of a later job. No event is lost by that, whether
// the later job is still there to store its own again or not.
func TestLateState(t *testing.T) {
	for _, ended := range []bool{false, true} {
		inWorld(t, func(w *world) {
			bad := true
			w.to.answer = func(c call) (int, http.Header) {
				if bad && c.events[0].Subject == "bad" {
					return http.StatusInternalServerError, nil
				}
				return http.StatusOK, nil
			}
			w.start()
			w.add(3, "good")
			w.after(time.Minute)
			key, late := w.table.state()
			w.add(1, "bad")
			w.after(time.Second)
			w.add(3, "good")
			w.after(10 * time.Minute)
			if ended {
				w.stop()
			}
			if _, err := w.table.Put(t.Context(), key, late); err != nil {
				t.Fatal(err)
			}
			if !ended {
				w.after(2 * time.Second)
				if s := w.status(); s.Waiting != 1 || s.Lag != 0 {
					t.Errorf("the state of the job that posts is not the newest one again: %+v", s)
				}
				w.stop()
			}
			w.to.change(func() { bad = false })
			w.start()
			w.after(time.Hour)
			w.checkAll()
			if s := w.status(); s.Waiting != 0 || s.DeadLetters != 0 || s.Lag != 0 {
				t.Errorf("ended: %t, status %+v", ended, s)
			}
		})
	}
}

// A hook whose position Kafka has forgotten goes on at the position of its stored state.
func TestForgottenPosition(t *testing.T) {
	inWorld(t, func(w *world) {
		w.to.answer = func(c call) (int, http.Header) {
			if c.events[0].Subject == "bad" {
				return http.StatusBadRequest, nil
			}
			return http.StatusOK, nil
		}
		w.start()
		w.add(3, "1")
		w.topic.add("bad")
		w.after(time.Minute)
		w.stop()
		calls := w.to.count()
		w.groups[1].change(func() { w.groups[1].next = -1 })
		w.add(3, "1")
		w.start()
		w.after(time.Minute)
		w.checkAll()
		if n := w.to.count() - calls; n != 3 {
			t.Errorf("%d calls, want 3: one for each new event", n)
		}
		if s := w.status(); s.DeadLetters != 1 || s.Lag != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

// A hook whose topic was deleted and made again posts all events of the new topic. Events of the old one that waited for
// another try, or were set aside, are not mistaken for those that have their offsets now.
func TestTopicMadeAgain(t *testing.T) {
	for _, c := range []struct {
		name string
		away bool // when the topic is made again, the hook does not run
		// forget is set if Kafka forgets the position with the topic.
		forget bool
	}{{name: "while it runs"}, {name: "while it is away", away: true}, {name: "with its position", away: true, forget: true}} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				answers := map[string]int{"waits": http.StatusServiceUnavailable, "bad": http.StatusBadRequest}
				w.to.answer = func(c call) (int, http.Header) {
					if status, ok := answers[c.events[0].Subject]; ok {
						return status, nil
					}
					return http.StatusOK, nil
				}
				w.start()
				w.topic.add("waits")
				w.topic.add("bad")
				w.add(5, "1")
				w.after(time.Minute)
				w.checkAll()
				if c.away {
					w.stop()
				}
				w.topic.makeAgain()
				if c.forget {
					w.groups[1].change(func() { w.groups[1].next = -1 })
				}
				if c.away {
					w.add(3, "1")
					w.start()
				}
				w.after(time.Minute)
				w.add(2, "1")
				w.after(time.Minute)
				w.checkAll()
				if s := w.status(); s.DeadLetters != 2 || s.Waiting != 0 || s.Lag != 0 {
					t.Errorf("status %+v", s)
				}
				// The dead letters have nothing in the topic, and no other event is posted for them.
				w.to.change(func() { clear(answers) })
				calls := w.to.count()
				w.admin(func(ctx context.Context, a *hooks.Admin) error { return a.Retry(ctx, "orders") })
				w.after(time.Minute)
				if s, n := w.status(), w.to.count()-calls; s.DeadLetters != 2 || s.Waiting != 0 || n != 0 {
					t.Errorf("status after the replay %+v, %d calls", s, n)
				}
				w.add(1, "1")
				w.after(time.Minute)
				w.checkAll()
			})
		})
	}
}

// Right after a change of leaders Kafka may say less than it has. The hook does not begin anew then, also if Kafka says more
// only when all tries are over.
func TestTopicThatIsShortForAMoment(t *testing.T) {
	for _, answers := range []int{3, 10} {
		inWorld(t, func(w *world) {
			w.to.answer = func(c call) (int, http.Header) {
				if c.events[0].Subject == "waits" {
					return http.StatusServiceUnavailable, nil
				}
				return http.StatusOK, nil
			}
			w.start()
			w.topic.add("waits")
			w.add(5, "1")
			w.after(time.Minute)
			w.stop()
			calls := w.to.count()
			w.topic.mu.Lock()
			w.topic.short = answers
			w.topic.mu.Unlock()
			w.start()
			w.after(20 * time.Second)
			if s := w.status(); s.DeadLetters != 0 || s.Waiting != 1 || s.Lag > 6 {
				t.Errorf("%d short answers: status %+v", answers, s)
			}
			if n := w.to.count() - calls; n > 3 {
				t.Errorf("%d short answers: %d calls, want those of the event that waits", answers, n)
			}
		})
	}
}

// Events that fail fill the bound. While others succeed, the oldest of them make room.
func TestManyPoisonedUsers(t *testing.T) {
	inWorld(t, func(w *world) {
		w.to.answer = func(c call) (int, http.Header) {
			if strings.HasPrefix(c.events[0].Subject, "bad") {
				return http.StatusInternalServerError, nil
			}
			return http.StatusOK, nil
		}
		w.start()
		for i := range 1500 {
			w.topic.add("bad" + string(rune('A'+i/60)) + string(rune('A'+i%60)))
			w.add(1, "good")
		}
		for range 200 {
			w.add(1, "good")
			if w.after(30 * time.Second); w.status().DeadLetters > 0 {
				break
			}
		}
		w.after(10 * time.Minute)
		w.checkAll()
		if s := w.status(); s.DeadLetters == 0 || s.Waiting == 0 || !strings.Contains(s.Letters[0].Reason, "waited while others") {
			t.Errorf("%d open and %d dead: %+v", s.Waiting, s.DeadLetters, s.Letters[:min(1, len(s.Letters))])
		}
	})
}

func TestReplayFromATime(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.add(5, "1")
		w.after(time.Minute)
		from := time.Now()
		w.add(5, "1")
		w.after(time.Minute)
		before := w.to.count()
		w.admin(func(ctx context.Context, a *hooks.Admin) error { return a.Replay(ctx, "orders", from) })
		w.after(time.Minute)
		again := w.to.calls[before:]
		if len(again) != 5 {
			t.Fatalf("%d events were posted again, want the last 5", len(again))
		}
		for i, c := range again {
			if c.id != w.sent["1"][5+i] {
				t.Errorf("event %d again is %s, want %s", i, c.id, w.sent["1"][5+i])
			}
		}
	})
}

// A replay whose state cannot be stored begins when it can be, and loses no dead letter.
func TestReplayWithoutState(t *testing.T) {
	inWorld(t, func(w *world) {
		w.to.always(http.StatusBadRequest)
		w.start()
		w.add(3, "1")
		w.after(time.Minute)
		w.to.always(http.StatusOK)
		w.stop()
		w.admin(func(ctx context.Context, a *hooks.Admin) error { return a.Replay(ctx, "orders", time.UnixMilli(1)) })
		w.table.fail(true)
		w.start()
		w.after(time.Minute)
		if s := w.status(); s.DeadLetters != 3 {
			t.Errorf("before the replay: status %+v", s)
		}
		w.table.fail(false)
		w.after(time.Hour)
		w.checkAll()
		if s := w.status(); s.DeadLetters != 0 || s.Waiting != 0 || s.Lag != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

// A replay from a time that the hook has not reached yet leaves nothing out.
func TestReplayFromATimeAhead(t *testing.T) {
	inWorld(t, func(w *world) {
		w.to.always(http.StatusInternalServerError)
		w.start()
		w.add(5, "1")
		w.after(time.Minute)
		w.add(5, "1")
		w.admin(func(ctx context.Context, a *hooks.Admin) error { return a.Replay(ctx, "orders", time.Now()) })
		w.after(time.Minute)
		w.to.always(http.StatusOK)
		w.after(time.Hour)
		w.checkAll()
	})
}

// The events of a generation of the topic are posted before those of the next one.
func TestGenerations(t *testing.T) {
	inWorld(t, func(w *world) {
		failing := true
		w.to.answer = func(c call) (int, http.Header) {
			if failing && c.events[0].Subject == "1" {
				return http.StatusInternalServerError, nil
			}
			return http.StatusOK, nil
		}
		w.start()
		w.add(5, "1", "2")
		w.topic = w.topics.grow()
		w.add(5, "1", "2", "3")
		w.after(time.Minute)
		if got := w.to.ids("3"); len(got) != 0 {
			t.Errorf("%v were posted before the end of the generation before", got)
		}
		w.stop()
		w.start()
		w.to.change(func() { failing = false })
		w.after(time.Hour)
		w.checkAll()
		if s := w.status(); s.Lag != 0 || s.Waiting != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

// Growth closes the log that a hook reads. The hook opens it again, posts the rest of it, and goes on with the next one.
func TestGrowth(t *testing.T) {
	inWorld(t, func(w *world) {
		w.to.always(http.StatusServiceUnavailable)
		w.start()
		w.add(5, "1", "2")
		w.after(time.Minute)
		w.topic = w.topics.grow()
		w.add(5, "1", "2", "3")
		w.after(time.Minute)
		w.to.always(http.StatusOK)
		w.after(time.Hour)
		w.checkAll()
		if s := w.status(); s.Lag != 0 || s.Waiting != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

// A hook that has not posted all events of a generation whose topic was deleted goes on with the next one. Its events that
// were tried are dead letters. A later retry does not look for the topic again.
func TestDeletedGeneration(t *testing.T) {
	inWorld(t, func(w *world) {
		w.to.always(http.StatusInternalServerError)
		w.start()
		w.add(3, "1", "2")
		w.after(time.Minute)
		w.stop()
		w.topic = w.topics.grow()
		w.topics.remove(1)
		w.add(2, "3")
		w.to.always(http.StatusOK)
		w.start()
		w.after(time.Hour)
		if got := w.to.ids("3"); !slices.Equal(got, w.sent["3"]) {
			t.Errorf("of the next generation the receiver has %v, want %v", got, w.sent["3"])
		}
		if s := w.status(); s.DeadLetters != 2 || s.Waiting != 0 || s.Lag != 0 { // the first of each user was tried
			t.Errorf("status %+v", s)
		}
		w.admin(func(ctx context.Context, a *hooks.Admin) error { return a.Retry(ctx, "orders") })
		w.add(1, "3")
		w.after(time.Hour)
		if got := w.to.ids("3"); !slices.Equal(got, w.sent["3"]) {
			t.Errorf("after a retry the receiver has %v, want %v", got, w.sent["3"])
		}
	})
}

// A replay begins in the generation that has the time, and goes on with the next ones, in the order of each user.
func TestReplayOfGenerations(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.add(3, "1", "2")
		w.after(time.Minute)
		from := time.Now()
		for range 2 {
			w.add(3, "1", "2")
			w.after(time.Minute)
			w.topic = w.topics.grow()
		}
		w.add(3, "1", "2")
		w.after(time.Minute)
		w.checkAll()
		for _, restart := range []bool{false, true} {
			before := w.to.count()
			w.admin(func(ctx context.Context, a *hooks.Admin) error { return a.Replay(ctx, "orders", from) })
			if restart {
				w.stop()
				w.start()
			}
			w.after(time.Minute)
			again := make(map[string][]string)
			for _, c := range w.to.calls[before:] {
				again[c.events[0].Subject] = append(again[c.events[0].Subject], c.id)
			}
			for user, sent := range w.sent {
				if !slices.Equal(again[user], sent[3:]) {
					t.Errorf("of %s the receiver has again %v, want %v", user, again[user], sent[3:])
				}
			}
			if s := w.status(); s.Lag != 0 || s.Waiting != 0 {
				t.Errorf("status %+v", s)
			}
		}
	})
}

// Dead letters of an older generation can be posted again.
func TestRetryOfAGeneration(t *testing.T) {
	inWorld(t, func(w *world) {
		w.to.always(http.StatusBadRequest)
		w.start()
		w.add(3, "1")
		w.after(time.Minute)
		w.topic = w.topics.grow()
		w.after(time.Minute)
		w.to.always(http.StatusOK)
		w.add(1, "1")
		w.after(time.Minute)
		if s := w.status(); s.DeadLetters != 3 {
			t.Errorf("status %+v", s)
		}
		w.admin(func(ctx context.Context, a *hooks.Admin) error { return a.Retry(ctx, "orders") })
		w.after(time.Minute)
		if s := w.status(); s.DeadLetters != 0 || s.Waiting != 0 || s.Lag != 0 {
			t.Errorf("status %+v", s)
		}
		if got := w.to.count(); got != 7 {
			t.Errorf("%d calls, want 3 refused, 1, and 3 again", got)
		}
	})
}

// An event that retention has taken while it waited is a dead letter: nothing is lost without a trace.
func TestRetention(t *testing.T) {
	inWorld(t, func(w *world) {
		w.to.always(http.StatusInternalServerError)
		w.start()
		w.add(2, "1")
		w.after(time.Second)
		w.topic.trim(1)
		w.to.always(http.StatusOK)
		w.after(time.Hour)
		s := w.status()
		if s.DeadLetters != 1 || !strings.Contains(s.Letters[0].Reason, "left the events topic") {
			t.Errorf("status %+v", s)
		}
		if got := w.to.ids("1"); !slices.Equal(got, w.sent["1"][1:]) {
			t.Errorf("the receiver has %v", got)
		}
	})
}

// Events that retention has taken before the hook read them are counted.
func TestRetentionWhileAway(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.add(1, "1")
		w.after(time.Minute)
		w.stop()
		w.add(5, "1")
		w.topic.trim(4)
		w.start()
		w.after(time.Minute)
		w.sent["1"] = slices.Delete(w.sent["1"], 1, 4)
		w.checkAll()
		if posted, skipped := w.counted("posted"), w.counted("skipped"); posted != 2 || skipped != 3 {
			t.Errorf("%v posted and %v skipped are counted, want 2 and 3", posted, skipped)
		}
	})
}

func TestAdminErrors(t *testing.T) {
	inWorld(t, func(w *world) {
		w.admin(func(ctx context.Context, a *hooks.Admin) error {
			if err := a.Replay(ctx, "others", time.Now()); envelope.CodeOf(err) != envelope.CodeNotFound {
				t.Errorf("replay of no hook: %v", err)
			}
			if err := a.Resume(ctx, "orders"); envelope.CodeOf(err) != envelope.CodeConflict {
				t.Errorf("resume of a hook that is not paused: %v", err)
			}
			return nil
		})
		for _, c := range []hooks.Config{
			{Name: "a", URL: "ftp://x", Secrets: []string{secret}}, {Name: "a", URL: "https://x"},
			{Name: "a", URL: "https://x", Secrets: []string{"whsec_short"}},
		} {
			if _, err := hooks.New([]hooks.Config{c}, hooks.Deps{}); err == nil || !strings.Contains(err.Error(), `hook "a"`) {
				t.Errorf("%+v: %v", c, err)
			}
		}
	})
}

// A replay from a time of which events are gone is refused, and changes nothing. So is one from a time to come.
func TestReplayOfWhatIsGone(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		replay := func(from time.Time) (err error) {
			w.admin(func(ctx context.Context, a *hooks.Admin) error {
				err = a.Replay(ctx, "orders", from)
				return nil
			})
			return err
		}
		refused := func(name string, err error) {
			t.Helper()
			if envelope.CodeOf(err) != envelope.CodeInvalid || !strings.HasPrefix(fmt.Sprint(err), "from_ms is ") {
				t.Errorf("%s: %v, want an error about from_ms", name, err)
			}
		}
		began := time.Now()
		w.add(3, "1")
		w.after(retention + time.Hour)
		if err := replay(began); err != nil {
			t.Errorf("nothing has left the topic yet: %v", err)
		}
		w.after(time.Minute)
		w.topic.trim(2)
		before := w.to.count()
		refused("gone", replay(began))
		refused("seconds instead of milliseconds", replay(time.UnixMilli(began.Unix())))
		refused("to come", replay(time.Now().Add(time.Minute)))
		w.topic = w.topics.grow()
		w.after(time.Minute)
		refused("gone in an older generation", replay(began))
		w.after(time.Minute)
		if n := w.to.count(); n != before {
			t.Errorf("%d calls after replays that were refused", n-before)
		}
		if err := replay(time.Now().Add(time.Minute - retention)); err != nil {
			t.Errorf("since a time of which nothing is gone: %v", err)
		}
	})
}

func TestReplayTwice(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start()
		w.add(5, "1")
		w.after(time.Minute)
		w.admin(func(ctx context.Context, a *hooks.Admin) error { return a.Retry(ctx, "orders") })
		w.after(time.Minute)
		w.admin(func(ctx context.Context, a *hooks.Admin) error {
			return a.Replay(ctx, "orders", time.UnixMilli(1))
		})
		w.after(time.Minute)
		if n := w.to.count(); n != 10 {
			t.Errorf("%d calls, want 10", n)
		}
	})
}
