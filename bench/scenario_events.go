//go:build linux

package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"imgo/bench/load"
	"imgo/bench/process"
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

// events measures what reports cost: the CPU time of a kept push with the report "each" beside one without, how many
// events a second the server tells, and how many a second a hook takes, one in a call and in batches.
func (b *bench) events(ctx context.Context, r *recorder) error {
	if !strings.Contains(b.settings, "[[hooks]]") {
		r.note("this version of imgo has no hooks")
		return nil
	}
	if err := b.reports(ctx, r); err != nil {
		return err
	}
	for _, batch := range []int{1, hookBatch} {
		if err := b.hook(ctx, r, batch); err != nil {
			return fmt.Errorf("a hook with %d events a call: %w", batch, err)
		}
	}
	web, addr, err := limits{b}.limit(childHTTP)
	if err != nil {
		return err
	}
	nothing := func() error { return nil }
	l, err := load.Flood(ctx, addr, load.PushCall(true), hookCallers, b.users, min(warmLoad, b.duration), b.duration, nothing)
	if err = errors.Join(err, web.stop()); err != nil {
		return fmt.Errorf("bare HTTP: %w", err)
	}
	r.limit(fmt.Sprintf("bare HTTP server, %d callers, calls", hookCallers), "1/s", float64(l.Accepted)/l.Seconds)
	return nil
}

// reports measures kept pushes with and without a report.
func (b *bench) reports(ctx context.Context, r *recorder) (err error) {
	s, err := b.serve(ctx, serverOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	h, err := b.hold(load.HoldRequest{Addr: s.tcp, Kind: load.TCP, Count: b.users, Ack: true, Window: politeWindow})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	none, err := b.reported(ctx, r, s, h, "no report", load.PushCall(true))
	if err != nil {
		return fmt.Errorf("no report: %w", err)
	}
	each, err := b.reported(ctx, r, s, h, "report each", load.ReportCall())
	if err != nil {
		return fmt.Errorf("report each: %w", err)
	}
	r.add("report each over no report, CPU", "", ratio(each, none))
	return nil
}

// reported floods with kept pushes until they are acknowledged and their events are told. It returns the CPU time of the
// server for each push, in µs.
func (b *bench) reported(ctx context.Context, r *recorder, s *server, h *clients, name string, call load.Call) (float64, error) {
	nothing := func() error { return nil }
	if _, err := load.Flood(ctx, s.HTTP, call, b.callers, b.users, 0, min(warmLoad, b.duration), nothing); err != nil {
		return 0, fmt.Errorf("warm up: %w", err)
	}
	was, err := h.waitFor(quiet, func(load.Stats) bool { return false })
	if err != nil {
		return 0, err
	}
	cursor, _, err := s.events(ctx, "now")
	if err != nil {
		return 0, err
	}
	before, err := process.CPU(s.pid())
	if err != nil {
		return 0, err
	}
	wait := s.profileCPU(ctx, b.profile, "events-"+name, b.duration)
	l, err := load.Flood(ctx, s.HTTP, call, b.callers, b.users, 0, b.duration, nothing)
	if err = errors.Join(err, wait()); err != nil {
		return 0, err
	}
	if l.Refused > 0 {
		r.note("%s: %d pushes were refused, the first with %s", name, l.Refused, l.Why)
	}
	// The calls that were under way at the end count too: take the number from the clients.
	got, err := h.waitFor(quiet, func(load.Stats) bool { return false })
	if err != nil {
		return 0, err
	}
	after, err := process.CPU(s.pid())
	if err != nil {
		return 0, err
	}
	pushes := float64(got.Packets - was.Packets)
	cost := us(after-before) / pushes
	r.add(name+", accepted", "pushes/s", float64(l.Accepted)/l.Seconds)
	r.add(name+", server CPU a push", "µs", cost)
	told, err := s.told(ctx, cursor)
	if err != nil {
		return 0, err
	}
	want := 0
	if call.Reports() {
		want = int(pushes) * eventsOfPush
		r.add("events told", "1/s", float64(told.count)/told.last.Sub(told.first).Seconds())
	}
	if told.count != want {
		r.note("%s: %d events of %.0f pushes, not %d", name, told.count, pushes, want)
	}
	return cost, nil
}

// hook measures how fast a hook posts what the topic has. It has the hook post everything again, so that the server does
// nothing else meanwhile.
func (b *bench) hook(ctx context.Context, r *recorder, batch int) (err error) {
	c, err := b.spawn(childHook)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	var at load.Receiving
	if err := c.answer(statsTimeout, &at); err != nil {
		return err
	}
	settings := filepath.Join(b.tmp, fmt.Sprintf("hook-%d.toml", batch))
	text := fmt.Sprintf("[[hooks]]\nname = \"bench\"\nurl = \"http://%s/\"\nsecrets = [%q]\nbatch = %d\n", at.Addr, hookSecret, batch)
	if err := os.WriteFile(settings, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write the settings of the hook: %w", err)
	}
	s, err := b.serve(ctx, serverOptions{env: []string{"IMGO_CONFIG=" + settings}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	h, err := b.hold(load.HoldRequest{Addr: s.tcp, Kind: load.TCP, Count: b.users, Ack: true, Window: politeWindow})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	l, err := load.Flood(ctx, s.HTTP, load.ReportCall(), b.callers, b.users, 0, b.duration, func() error { return nil })
	if err != nil {
		return err
	}
	once, err := posted(ctx, c, l.Accepted*eventsOfPush)
	if err != nil {
		return err
	}
	if err := s.post(ctx, "/v1/hooks/bench/replay", `{"from_ms":1}`); err != nil {
		return err
	}
	before, err := process.CPU(s.pid())
	if err != nil {
		return err
	}
	again, err := posted(ctx, c, once.Events)
	if err != nil {
		return err
	}
	after, err := process.CPU(s.pid())
	if err != nil {
		return err
	}
	name := "hook, one event a call"
	if batch > 1 {
		name = fmt.Sprintf("hook, up to %d events a call", batch)
	}
	r.add(name+", deliveries", "events/s", float64(again.Events)/again.Last.Sub(again.First).Seconds())
	r.add(name+", server CPU an event", "µs", us(after-before)/float64(again.Events))
	if batch > 1 {
		r.add(name+", events a call", "", float64(again.Events)/float64(again.Calls))
	}
	if once.Disordered+again.Disordered > 0 {
		r.note("%s: %d events came out of order", name, once.Disordered+again.Disordered)
	}
	return nil
}

// posted waits until a hook has posted all events, at least want, and nothing comes any more.
func posted(ctx context.Context, c *child, want int64) (all load.Taken, err error) {
	for until := time.Now().Add(hookLimit); ; load.Sleep(ctx, quiet) {
		var t load.Taken
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

// told has the events behind a cursor. first and last are the times of the records that caused them.
type told struct {
	count       int
	first, last time.Time
}

// told reads all events behind a cursor.
func (s *server) told(ctx context.Context, after string) (t told, err error) {
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
