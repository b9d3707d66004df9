package verify

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"imgo/internal/events"
	"imgo/internal/loopback"
	"imgo/internal/wait"
	"imgo/verify/history"
	"imgo/verify/outcome"
)

// Events has the pushes of a run ask for events, and judges the events (package outcome).
type Events struct {
	// Share is the share of the kept pushes that ask for events, more than 0 and up to 1. A part of them has a
	// deadline.
	Share float64
	// Hook is the address (host:port) at which the run serves a receiver of a hook. Empty: no receiver. HookSecret
	// is the secret of the hook (whsec_…). The server has to have a hook with the name HookName that posts there.
	Hook, HookSecret string
	// Upstream has the devices without an SDK send messages for the backend, some of them twice. The server has to have
	// a rule of [[upstream]] that makes events of op 4.
	Upstream bool
	// Presence judges who is told to be online. The server has to have presence.events, with a presence.grace of at most
	// 10 s.
	Presence bool
	// CalmHook has the receiver answer every call at once. Otherwise it answers some with 500 or 429, some
	// slowly, and some not at all, and is away at times.
	CalmHook bool
}

const (
	// HookName is the name of the hook that posts to the receiver of a run.
	HookName = "verify"
	// KnownSecret is a secret of the hook for tests: whoever reaches the receiver can only spoil a run.
	KnownSecret = "whsec_dmVyaWZ5IGhhcyBubyBzZWNyZXQgdGhhdCBhbnlvbmUgcHJvdGVjdHM="
)

// DefaultEvents returns the default configuration of Events, without a hook.
func DefaultEvents() *Events { return &Events{Share: 0.8} }

// check returns an error that names the first wrong field, or nil.
func (e *Events) check(bad func(field, format string, args ...any) error) error {
	switch {
	case e == nil:
		return nil
	case !(e.Share > 0 && e.Share <= 1):
		return bad("Events.Share", "must be more than 0 and at most 1")
	case e.Hook == "":
		return nil
	}
	if _, _, err := net.SplitHostPort(e.Hook); err != nil {
		return bad("Events.Hook", "is %q, must be host:port", e.Hook)
	}
	if _, err := newReceiver(e, nil, nil); err != nil {
		return bad("Events.HookSecret", "%v", err)
	}
	return nil
}

// The parts of the pushes that ask for events.
const (
	settledShare  = 0.1  // ask for the end only
	refShare      = 0.5  // have a ref
	deadlineShare = 0.15 // have a deadline
	// heldShare is the part of those with a deadline that no device acknowledges before the deadline was told.
	heldShare                = 0.3
	minDeadline, maxDeadline = 1500 * time.Millisecond, 5 * time.Second
)

const (
	// followWait is the longest time for which one call of GET /v1/events waits.
	followWait = 5 * time.Second
	// followLimit is the number of events of one call.
	followLimit = 1000
)

// The streams of events.
const (
	streamFollower = 0
	streamHook     = 1
)

// observer follows the events of a run. Its methods may be called while Config.Events is nil: they do nothing then.
type observer struct {
	v        *Verifier
	judge    *outcome.Judge // without Config.Events it knows no device, and judges nothing
	receiver *receiver      // nil without a hook
	cursor   string

	mu     sync.Mutex
	delays [2]delays
	// falsifier changes what the follower brings. Nil means nothing.
	falsifier *eventFalsifier
	// presenceViolations are wrong presence events of users at the end.
	presenceViolations history.Violations
}

func newObserver(v *Verifier) (*observer, error) {
	o := &observer{v: v, judge: outcome.New()}
	cfg := v.cfg.Events
	if cfg == nil {
		return o, nil
	}
	streams := []outcome.Stream{{Name: "GET /v1/events"}}
	if cfg.Hook != "" {
		streams = append(streams, outcome.Stream{Name: "the hook", Repeats: true})
		var err error
		if o.receiver, err = newReceiver(cfg, v, func(list []events.Document) { o.add(streamHook, list) }); err != nil {
			return nil, err
		}
	}
	o.judge = outcome.New(streams...)
	o.judge.Watch(v.onViolation, func(stream int, took time.Duration) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.delays[stream].add(took)
	})
	if v.cfg.Falsify.ofEvents() {
		o.falsifier = &eventFalsifier{how: v.cfg.Falsify, run: v.prefix}
	}
	return o, nil
}

// begin finds the end of the events, and checks that there is a hook. It starts the receiver, which stop ends.
func (o *observer) begin(ctx context.Context) (stop func(), err error) {
	stop = func() {}
	if o.v.cfg.Events == nil {
		return stop, nil
	}
	page, err := o.page(ctx, o.v.api.Next(), "now", 0)
	if err != nil {
		return stop, fmt.Errorf("ask for events: %w", err)
	}
	o.cursor = page.Next
	if o.receiver == nil {
		return stop, nil
	}
	var answer struct{ Hooks []struct{ Name string } }
	if err := o.v.api.Call(ctx, o.v.api.Next(), http.MethodGet, "/v1/hooks", nil, &answer); err != nil {
		return stop, fmt.Errorf("ask for hooks: %w", err)
	}
	for _, h := range answer.Hooks {
		if h.Name == HookName {
			return o.receiver.start(ctx)
		}
	}
	return stop, fmt.Errorf("the server has no hook with the name %q; add it to the settings of every node that runs job or logic:\n\n%s",
		HookName, HookSettings(o.v.cfg.Events.Hook, o.v.cfg.Events.HookSecret))
}

// HookSettings returns the settings of the hook that posts to the receiver at an address. A server on another machine
// needs an address with TLS: that of a proxy before the receiver.
func HookSettings(address, secret string) string {
	to := "http://" + address + "/"
	if host, _, _ := net.SplitHostPort(address); !loopback.Host(host) {
		to = "https://… (of a proxy that passes calls to " + address + ")"
	}
	return fmt.Sprintf("[[hooks]]\nname = %q\nurl = %q\nsecrets = [%q]\ntimeout = \"2s\"\nbatch = 20\n", HookName, to, secret)
}

// eventPage is an answer of GET /v1/events.
type eventPage struct {
	Events  []json.RawMessage
	Next    string
	Skipped int64
}

// page asks a server for the events after a cursor.
func (o *observer) page(ctx context.Context, base, after string, wait time.Duration) (p eventPage, err error) {
	q := url.Values{
		"after": {after}, "limit": {strconv.Itoa(followLimit)}, "wait": {strconv.Itoa(int(wait.Seconds())) + "s"},
	}
	err = o.v.api.Call(ctx, base, http.MethodGet, "/v1/events?"+q.Encode(), nil, &p)
	return p, err
}

// follow brings the events by GET /v1/events until ctx is done. After a failed call it asks another server with the
// same cursor.
func (o *observer) follow(ctx context.Context) {
	if o.v.cfg.Events == nil {
		return
	}
	waits := max(time.Second, min(followWait, o.v.cfg.CallTimeout/2).Truncate(time.Second)) // the API wants whole seconds
	pause := wait.Backoff{Min: 15 * time.Millisecond, Max: 750 * time.Millisecond}
	for base := o.v.api.Next(); ctx.Err() == nil; {
		page, err := o.page(ctx, base, o.cursor, waits)
		if err != nil {
			base = o.v.api.After(base)
			_ = pause.Sleep(ctx) // the loop checks ctx
			continue
		}
		pause.Reset()
		if page.Skipped > 0 {
			o.v.problem("GET /v1/events at %s skipped %d events", base, page.Skipped)
		}
		list, err := parseEvents(page.Events)
		if err != nil {
			o.v.problem("GET /v1/events at %s: %v", base, err)
		}
		if o.falsifier != nil {
			list = o.falsifier.change(list)
		}
		o.add(streamFollower, list)
		o.cursor = page.Next
	}
}

// parseEvents reads events. It leaves out those that it cannot read, and returns an error that describes the first.
func parseEvents(list []json.RawMessage) (all []events.Document, err error) {
	for _, raw := range list {
		var e events.Document
		bad := json.Unmarshal(raw, &e)
		if bad == nil && (e.SpecVersion != "1.0" || e.Source == "" || e.Time.IsZero() || e.Subject != e.Data.User) {
			bad = fmt.Errorf("no CloudEvent of a user")
		}
		if bad != nil {
			if err == nil {
				err = fmt.Errorf("event %.300s: %w", raw, bad)
			}
			continue
		}
		var m upstreamMessage
		if json.Unmarshal(e.Data.Body, &m) != nil || m.ID != e.Data.ClientID {
			e.Data.ClientID = 0 // a message of somebody else
		}
		all = append(all, e)
	}
	return all, err
}

// add passes events of a stream to the judge.
func (o *observer) add(stream int, list []events.Document) {
	for _, e := range list {
		o.judge.Add(stream, outcome.Event{Document: e, Received: o.v.now()})
	}
}

// device adds a device, before the first push.
func (o *observer) device(d *device) {
	if o.v.cfg.Events == nil {
		return
	}
	acks := outcome.AcksKnown
	switch {
	case d.kind == DeviceNoAck:
		acks = outcome.AcksAuto
	case d.kind.sdk() || d.kind == DeviceDriver:
		acks = outcome.AcksAll
	}
	o.judge.Device(d.account.name, d.name, acks)
}

// ask has some of the kept pushes ask for events.
func (c *caller) ask(p *push) {
	cfg, judge := c.v.cfg.Events, c.v.events.judge
	if cfg == nil {
		return
	}
	p.body.Report = "none" // whatever the server does by default
	if !c.hit(cfg.Share) {
		return
	}
	ask := outcome.Ask{Level: events.LevelEach}
	if c.hit(settledShare) {
		ask.Level = events.LevelSettled
	}
	p.body.Report = ask.Level.String()
	if c.hit(refShare) {
		ask.Ref = outcome.Ref(p.number)
		p.body.Ref = ask.Ref
	}
	if c.hit(deadlineShare) {
		ask.Deadline = minDeadline + time.Duration(c.dice.Int64N(int64(maxDeadline-minDeadline))).Truncate(time.Millisecond)
		ask.Held = c.hit(heldShare) && judge.KnowsAcks(p.users...)
		p.body.Deadline = ask.Deadline.String()
		if ask.DeadlineAny = c.hit(0.5); ask.DeadlineAny {
			p.body.DeadlineIf = "any"
		}
	}
	judge.Tried(p.number, ask, c.v.now(), p.users...)
}

// awaitEvents waits until all events have come, for at most Config.ArrivalTimeout. complete reports whether every mailbox was
// empty: then all events are due, and what is missing is a violation.
func (o *observer) awaitEvents(ctx context.Context, complete bool) {
	if o.receiver != nil {
		o.receiver.calm.Store(true)
	}
	if !complete {
		return
	}
	due := func() bool { return o.judge.Stats().Open > 0 || o.unanswered() > 0 || o.judge.Unpublished() > 0 }
	for limit := o.v.now() + o.v.cfg.ArrivalTimeout; due() && o.v.now() < limit; {
		if wait.Sleep(ctx, 20*time.Millisecond) != nil {
			return
		}
	}
}

// missing returns the violations that only the end shows.
func (o *observer) missing() history.Violations {
	if o.v.cfg.Events == nil || !o.v.emptied.Load() {
		return nil
	}
	missing := append(o.judge.Missing(), o.presenceViolations...)
	if n := o.unanswered(); n > 0 {
		o.v.problem("the messages of %d devices for the backend were not answered", n)
	}
	if s := o.judge.Stats(); o.receiver != nil && s.Received[streamHook] == 0 && s.Asked > 0 {
		o.v.problem("the hook brought no event: its url must lead to %s",
			o.v.cfg.Events.Hook)
	}
	return missing
}

// EventCounts has the events of a run.
type EventCounts struct {
	// Asked counts the messages of pushes that asked for events: a push to three users counts three.
	Asked   int64          `json:"asked"`
	Streams []StreamCounts `json:"streams"`
	Hook    *HookCounts    `json:"hook,omitempty"`
}

// StreamCounts has the events of one way of getting them.
type StreamCounts struct {
	Name string `json:"name"`
	// Received counts the judged events, Repeated those of them that came again under their ids.
	Received int64 `json:"received"`
	Repeated int64 `json:"repeated"`
	// The time from the last acknowledgement of a message to the event of its end.
	P50 Millis `json:"p50_ms"`
	P99 Millis `json:"p99_ms"`
	Max Millis `json:"max_ms"`
}

// HookCounts counts the calls of the hook, and those that the receiver failed on purpose.
type HookCounts struct {
	Calls     int64 `json:"calls"`
	Failed    int64 `json:"failed"`    // answered 500
	Throttled int64 `json:"throttled"` // answered 429
	Slow      int64 `json:"slow"`
	Mute      int64 `json:"mute"` // not answered
	Away      int64 `json:"away"` // answered 500 while the receiver was away
}

// counts returns the counters of the run, or nil without Config.Events.
func (o *observer) counts() *EventCounts {
	if o.v.cfg.Events == nil {
		return nil
	}
	s := o.judge.Stats()
	c := &EventCounts{Asked: s.Asked}
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range s.Received {
		d := &o.delays[i]
		c.Streams = append(c.Streams, StreamCounts{
			Name: []string{"GET /v1/events", "hook"}[i], Received: s.Received[i], Repeated: s.Repeated[i],
			P50: d.quantile(0.5), P99: d.quantile(0.99), Max: Millis(d.longest),
		})
	}
	if r := o.receiver; r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		n := r.calls
		c.Hook = &HookCounts{
			Calls: r.all, Failed: n[hookFails], Throttled: n[hookThrottles], Slow: n[hookSlow], Mute: n[hookMute], Away: n[hookAway],
		}
	}
	return c
}

// write writes the counters as text for a person.
func (c *EventCounts) write(b *strings.Builder) {
	if c == nil {
		return
	}
	fmt.Fprintf(b, "events       %d messages asked for them\n", c.Asked)
	for _, s := range c.Streams {
		fmt.Fprintf(b, "  %-14s  %d events, and %d again; told after p50 %s, p99 %s, longest %s\n", s.Name, s.Received-s.Repeated, s.Repeated,
			s.P50, s.P99, s.Max)
	}
	if h := c.Hook; h != nil {
		fmt.Fprintf(b, "  the receiver    %d calls: answered %d with 500, %d with 429, %d slowly, %d not at all, %d while it was away\n",
			h.Calls, h.Failed, h.Throttled, h.Slow, h.Mute, h.Away)
	}
}
