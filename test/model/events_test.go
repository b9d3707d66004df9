package model_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/roles/router"
	"imgo/store"
)

// faultyTopic is the events topic whose appends fail, or fail and land all the same, now or later.
type faultyTopic struct {
	*store.Log
	w *world
}

func (l faultyTopic) AppendMany(ctx context.Context, entries []envelope.Entry) error {
	f := l.w.f
	if !f.hit(f.topic) {
		return l.Log.AppendMany(ctx, entries)
	}
	switch again := append([]envelope.Entry(nil), entries...); f.dice.n(3) {
	case 0: // it fails
	case 1:
		_ = l.Log.AppendMany(ctx, entries)
	default:
		pause := time.Duration(f.dice.n(int(20 * time.Millisecond)))
		l.w.late.Go(func() {
			time.Sleep(pause)
			_ = l.Log.AppendMany(context.Background(), again)
		})
	}
	return envelope.Errorf(envelope.CodeUnavailable, "the topic did not answer")
}

// readOnlyLog is the kept log for a router that must not change it.
type readOnlyLog struct{ *store.Log }

func (readOnlyLog) AppendEssential(context.Context, int32, []byte) (int64, error) {
	return 0, envelope.ErrUnavailable
}

// judgeEvents compares what a reader of the topic gets with what a router without faults derives from the log.
func (w *world) judgeEvents() error {
	// Appends that had failed land, deadlines are decided, and the routers emit what they have.
	w.late.Wait()
	time.Sleep(5 * time.Second)
	want, err := w.derive()
	if err != nil {
		return err
	}
	got, err := w.eventsOf(w.topic, !w.p.noSkip)
	if err != nil {
		return err
	}
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			return fmt.Errorf("%d events, want %d: %s is missing", len(got), len(want), want[i])
		case i >= len(want):
			return fmt.Errorf("%d events, want %d: %s is too much", len(got), len(want), got[i])
		case got[i] != want[i]:
			return fmt.Errorf("event %d of %d is %s, want %s", i, len(want), got[i], want[i])
		}
	}
	w.told0 = len(got)
	if err := w.judgeUpstream(got); err != nil {
		return err
	}
	if err := w.judgePresence(got); err != nil {
		return err
	}
	return w.judgeDeadlines(got)
}

// judgeDeadlines returns an error if a deadline was decided twice, or after an acknowledgement, or never. A message that
// was read, and so is settled, has met its deadline.
func (w *world) judgeDeadlines(list []string) error {
	delivered, missed, settled := make(map[string]bool), make(map[string]bool), make(map[string]bool)
	for _, text := range list {
		var e struct {
			Type string
			Data struct{ ID string }
		}
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			return err
		}
		switch id := e.Data.ID; events.Type(e.Type) {
		case events.Delivered:
			delivered[id] = true
		case events.Undelivered:
			if delivered[id] || missed[id] {
				return fmt.Errorf("the deadline of %s was decided again, or after an acknowledgement", id)
			}
			if settled[id] {
				return fmt.Errorf("the deadline of %s was missed after its end", id)
			}
			missed[id] = true
		case events.Settled:
			settled[id] = true
		case events.Read:
			w.reads++
		}
	}
	for _, id := range w.reported {
		if !delivered[id] && !missed[id] && !settled[id] {
			return fmt.Errorf("the deadline of message %s was never decided", id)
		}
	}
	return nil
}

// derive returns the events of the log, as a router derives them that has a disk and a topic of its own.
func (w *world) derive() ([]string, error) {
	db, err := store.Open(store.Options{Dir: filepath.Join(w.dir, "reference"), Log: zerolog.Nop()})
	w.must(err)
	defer func() { w.must(db.Close()) }()
	topic, err := store.OpenLog(db, store.LogOptions{Events: true, Partitions: 2})
	w.must(err)
	stopTopic := w.spawn(topic.Run)
	defer stopTopic()
	cfg := router.DefaultConfig()
	cfg.Repeats = time.Minute
	r, err := router.New(cfg, router.Deps{
		Kept: readOnlyLog{w.kept.Log}, Live: w.live, Topic: topic, Store: store.NewMailboxes(db), Log: zerolog.Nop(),
	})
	w.must(err)
	stop := w.spawn(r.Run)
	for r.Ready() != nil {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(time.Second) // its events are in the topic
	stop()
	return w.eventsOf(topic, true)
}

// eventsOf returns the events of a topic, partition by partition. With skip a reader drops repetitions.
func (w *world) eventsOf(topic envelope.Log, skip bool) (list []string, err error) {
	for p := range topic.Partitions() {
		_, end, err := topic.Bounds(w.ctx, p)
		w.must(err)
		var last events.ID
		for from := int64(0); from < end; {
			entries, err := topic.Read(w.ctx, p, from, 1<<20)
			if err != nil {
				return nil, err
			}
			for _, e := range entries {
				from = e.Offset + 1
				h, err := events.ParseHeader(e.Value)
				if err != nil {
					return nil, err
				}
				if skip && !h.ID.After(last) {
					continue
				}
				last = h.ID
				list = append(list, string(e.Value))
			}
		}
	}
	return list, nil
}

// With all rules in place, whatever fails, the topic has the events of the log.
func TestEventsHold(t *testing.T) {
	for seed := range runs(t, 6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := everything
				r.topic = 0.3
				w := newWorld(t, plan{seed: uint64(seed), rates: r, length: time.Second, reports: true})
				if err := w.run(); err != nil {
					t.Fatal(err)
				}
				if w.told0 == 0 || len(w.outgoing) == 0 || len(w.reported) == 0 || w.reads == 0 {
					t.Errorf("nothing was told: %d events, %d of them of reads, %d reports", w.told0, w.reads, len(w.reported))
				}
				t.Logf("%d pushes, %d events, %d of them of reads", w.n, w.told0, w.reads)
			})
		})
	}
}

// Each rule of events is needed: without it, schedules that the rules withstand break what a reader is told.
// The rule that a router begins at the topic's tail saves work only: see TestTailSavesWork in package router.
func TestEachRuleOfEventsIsNeeded(t *testing.T) {
	for _, c := range []struct {
		rule string
		plan plan
	}{
		{"emit-before-flush", plan{routerFaults: router.Faults{FlushBeforeEvents: true}, rates: rates{topic: 0.9}}},
		{"one-append", plan{
			routerFaults: router.Faults{EventsOverlap: true}, rates: rates{topic: 0.6, lag: 0.5, lateMax: 20 * time.Millisecond},
		}},
		{"reader-skips", plan{noSkip: true, rates: rates{topic: 0.3}}},
		{"presence-by-log", plan{
			routerFaults: router.Faults{PresenceByClock: true}, presence: true, rates: rates{lag: 0.3, lateMax: 20 * time.Millisecond},
		}},
		{"due-by-log", plan{routerFaults: router.Faults{DueByClock: true}, rates: rates{lag: 0.3, lateMax: 20 * time.Millisecond}}},
	} {
		t.Run(c.rule, func(t *testing.T) {
			t.Parallel()
			const tries = 20
			for seed := range tries {
				p := c.plan
				p.seed, p.length, p.reports = uint64(seed), 700*time.Millisecond, true
				var err error
				t.Run(fmt.Sprint(seed), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { err = newWorld(t, p).run() })
				})
				if err != nil && !errors.Is(err, errLost) {
					t.Logf("found in run %d: %.300v", seed, err)
					return
				}
			}
			t.Fatalf("%d runs without the rule broke nothing: either it is not needed or the test cannot see it", tries)
		})
	}
}
