//go:build linux

package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"imgo/bench/load"
)

const (
	// hookSecret signs the events of the measured server.
	hookSecret = "whsec_b25seS1mb3ItYS1tZWFzdXJlbWVudC1vbi1sb29wYmFjaw=="
	// hookCallers is the number of calls of a hook that a process makes at once.
	hookCallers = 16
	// hookBatch is the number of events in a call, in the measurement with batches.
	hookBatch = 100
	// eventsOfPush is the number of events of a push with the report "each" to one device: delivered and settled.
	eventsOfPush = 2
	// hookLimit bounds the posting of all events.
	hookLimit = 2 * time.Minute
)

// events measures what reports cost. It compares the CPU time of a kept push with the report "each" with that of a
// push without. It counts the events that the server publishes a second, and those that a hook takes a second, one
// in a call and in batches.
func events(ctx context.Context, t *trial) error {
	settings, err := exec.CommandContext(ctx, t.imgo, "config", "init").Output()
	if err != nil {
		return fmt.Errorf("ask %s for its settings: %w", t.imgo, err)
	}
	if !bytes.Contains(settings, []byte("[[hooks]]")) {
		t.note("this version of imgo has no hooks: not measured")
		return nil
	}
	if err := t.connected(ctx, serverOptions{}, t.receivers(), func(f *fleet) error { return f.reports(ctx) }); err != nil {
		return err
	}
	for _, batch := range []int{1, hookBatch} {
		if err := hook(ctx, t, batch); err != nil {
			return fmt.Errorf("a hook with %d events a call: %w", batch, err)
		}
	}
	return t.listening(childHTTP, func(_ *child, addr string) error {
		l, err := load.Flood(ctx, addr, load.PushCall(true), hookCallers, t.users, min(warmLoad, t.duration), t.duration, nothing)
		if err != nil {
			return fmt.Errorf("bare HTTP: %w", err)
		}
		t.limit(fmt.Sprintf("bare HTTP server, %d callers, calls", hookCallers), "1/s", float64(l.Accepted)/l.Seconds)
		return nil
	})
}

// nothing is the mark of a flood whose warm-up needs none.
func nothing() error { return nil }

// reports measures kept pushes with and without a report.
func (f *fleet) reports(ctx context.Context) error {
	none, err := f.reported(ctx, "no report", load.PushCall(true))
	if err != nil {
		return fmt.Errorf("no report: %w", err)
	}
	each, err := f.reported(ctx, "report each", load.ReportCall())
	if err != nil {
		return fmt.Errorf("report each: %w", err)
	}
	f.add("report each over no report, CPU", "", ratio(each, none))
	return nil
}

// reported floods with kept pushes until they are acknowledged and their events are told. It returns the CPU time of the
// server for each push, in µs.
func (f *fleet) reported(ctx context.Context, name string, call load.Call) (float64, error) {
	if _, err := load.Flood(ctx, f.HTTP, call, f.callers, f.users, 0, min(warmLoad, f.duration), nothing); err != nil {
		return 0, fmt.Errorf("warm up: %w", err)
	}
	was, err := f.awaitQuiet()
	if err != nil {
		return 0, err
	}
	cursor, _, err := f.events(ctx, "now")
	if err != nil {
		return 0, err
	}
	var l *load.Flooded
	var got load.Stats
	cpu, err := cpuOf(f.pid(), func() (err error) {
		wait := f.profileCPU(ctx, f.profile, "events-"+name, f.duration)
		l, err = load.Flood(ctx, f.HTTP, call, f.callers, f.users, 0, f.duration, nothing)
		if err = errors.Join(err, wait()); err != nil {
			return err
		}
		// The calls that were under way at the end count too: take the number from the clients.
		got, err = f.awaitQuiet()
		return err
	})
	if err != nil {
		return 0, err
	}
	if l.Refused > 0 {
		f.note("%s: %d pushes were refused, the first with %s", name, l.Refused, l.Why)
	}
	pushes := float64(got.Packets - was.Packets)
	cost := us(cpu) / pushes
	f.add(name+", accepted", "pushes/s", float64(l.Accepted)/l.Seconds)
	f.add(name+", server CPU a push", "µs", cost)
	counted, err := f.countEvents(ctx, cursor)
	if err != nil {
		return 0, err
	}
	want := 0
	if call.Reports() {
		want = int(pushes) * eventsOfPush
		f.add("events told", "1/s", float64(counted.count)/counted.last.Sub(counted.first).Seconds())
	}
	if counted.count != want {
		f.note("%s: %d events of %.0f pushes, not %d", name, counted.count, pushes, want)
	}
	return cost, nil
}

// hook measures how fast a hook posts what the topic has.
func hook(ctx context.Context, t *trial, batch int) error {
	return t.listening(childHook, func(c *child, addr string) error {
		settings := filepath.Join(t.tmp, fmt.Sprintf("hook-%d.toml", batch))
		text := fmt.Sprintf("[[hooks]]\nname = \"bench\"\nurl = \"http://%s/\"\nsecrets = [%q]\nbatch = %d\n", addr, hookSecret, batch)
		if err := os.WriteFile(settings, []byte(text), 0o600); err != nil {
			return fmt.Errorf("write the settings of the hook: %w", err)
		}
		o := serverOptions{env: []string{"IMGO_CONFIG=" + settings}}
		return t.connected(ctx, o, t.receivers(), func(f *fleet) error { return f.replayHook(ctx, c, batch) })
	})
}

// replayHook has the hook post everything a second time, so that the server does nothing else meanwhile.
func (f *fleet) replayHook(ctx context.Context, c *child, batch int) error {
	l, err := load.Flood(ctx, f.HTTP, load.ReportCall(), f.callers, f.users, 0, f.duration, nothing)
	if err != nil {
		return err
	}
	once, err := posted(ctx, c, l.Accepted*eventsOfPush)
	if err != nil {
		return err
	}
	if err := f.post(ctx, "/v1/hooks/bench/replay", `{"from_ms":1}`); err != nil {
		return err
	}
	var again load.HookCounts
	cpu, err := cpuOf(f.pid(), func() (err error) {
		again, err = posted(ctx, c, once.Events)
		return err
	})
	if err != nil {
		return err
	}
	name := "hook, one event a call"
	if batch > 1 {
		name = fmt.Sprintf("hook, up to %d events a call", batch)
	}
	f.add(name+", deliveries", "events/s", float64(again.Events)/again.Last.Sub(again.First).Seconds())
	f.add(name+", server CPU an event", "µs", us(cpu)/float64(again.Events))
	if batch > 1 {
		f.add(name+", events a call", "", float64(again.Events)/float64(again.Calls))
	}
	if once.Disordered+again.Disordered > 0 {
		f.note("%s: %d events came out of order", name, once.Disordered+again.Disordered)
	}
	return nil
}

// posted waits until a hook has posted all events, at least want, and nothing comes any more.
func posted(ctx context.Context, c *child, want int64) (all load.HookCounts, err error) {
	for until := time.Now().Add(hookLimit); ; load.Sleep(ctx, quiet) {
		var t load.HookCounts
		if err := c.ask(statsTimeout, struct{}{}, &t); err != nil {
			return all, err
		}
		if all.Calls == 0 {
			all.First = t.First
		}
		if t.Calls > 0 {
			all.Last = t.Last
		}
		all.Calls, all.Events, all.Disordered = all.Calls+t.Calls, all.Events+t.Events, all.Disordered+t.Disordered
		switch {
		case ctx.Err() != nil:
			return all, ctx.Err()
		case all.Events >= want && t.Calls == 0:
			return all, nil
		case time.Now().After(until):
			return all, fmt.Errorf("the hook posted %d events of %d within %s", all.Events, want, hookLimit)
		}
	}
}

// eventPage is an answer of GET /v1/events.
type eventPage struct {
	Events []struct{ Time time.Time }
	Next   string
	More   bool
}

// events returns the events after a cursor, and the next cursor.
func (s *server) events(ctx context.Context, after string) (next string, page eventPage, err error) {
	data, err := s.get(ctx, "/v1/events?limit=1000&after="+url.QueryEscape(after))
	if err != nil {
		return "", page, err
	}
	if err := json.Unmarshal(data, &page); err != nil {
		return "", page, fmt.Errorf("read events: %w", err)
	}
	return page.Next, page, nil
}

// eventCount counts the events behind a cursor. first and last are the times of the records that caused them.
type eventCount struct {
	count       int
	first, last time.Time
}

// countEvents reads all events behind a cursor.
func (s *server) countEvents(ctx context.Context, after string) (t eventCount, err error) {
	for {
		var page eventPage
		if after, page, err = s.events(ctx, after); err != nil {
			return t, err
		}
		for _, e := range page.Events {
			if t.count++; t.first.IsZero() || e.Time.Before(t.first) {
				t.first = e.Time
			}
			if e.Time.After(t.last) {
				t.last = e.Time
			}
		}
		if len(page.Events) == 0 && !page.More {
			return t, nil
		}
	}
}
