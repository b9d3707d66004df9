package logic

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxEvents is how many events are held; the oldest is dropped first.
	maxEvents = 1000
	// maxKinds bounds the kinds that are counted by name.
	maxKinds = 32
	// maxDetail bounds an event's detail, in bytes.
	maxDetail = 512
)

// Event is something that happened to a user's data or sessions that an
// operator or a business system may want to know: GET /v1/events.
type Event struct {
	Seq    uint64 `json:"seq"`
	TimeMS int64  `json:"time_ms"`
	Kind   string `json:"kind"` // such as "mailbox_dropped"
	User   string `json:"user,omitempty"`
	Detail string `json:"detail,omitempty"`
	// Count is how often it happened, as one event; 0 for one that stands by itself.
	Count int `json:"count,omitempty"`
}

// eventLog holds the newest events. Safe for concurrent use.
type eventLog struct {
	count *prometheus.CounterVec // by kind
	warn  *warnings
	now   clock

	mu    sync.Mutex
	last  uint64              // the newest event's Seq
	held  []Event             // the newest maxEvents, oldest first
	kinds map[string]struct{} // that are counted by name
}

// newEventLog starts the numbers at the time in milliseconds, so that they grow
// over restarts as long as there is less than one event a millisecond. A
// caller that asks for events after the last number it saw misses none of those
// after a restart.
func newEventLog(count *prometheus.CounterVec, warn *warnings, now clock) *eventLog {
	return &eventLog{
		count: count, warn: warn, now: now,
		last: uint64(max(0, now.ms())), kinds: make(map[string]struct{}),
	}
}

// Report adds an event of a kind (such as "mailbox_dropped") that concerns a
// user (empty: nobody). It never blocks. Every event is counted, and a few a
// second are logged. An event that may happen to a user again and again has the
// number n of times: for mergeFor such events are one, which has the sum, the
// newest detail and a new number each time. n is 0 for all other events.
func (l *eventLog) Report(kind, user string, n int, detail string) {
	if len(detail) > maxDetail {
		detail = detail[:maxDetail]
	}
	e := Event{TimeMS: l.now.ms(), Kind: kind, User: user, Detail: detail, Count: n}
	kind, first := l.add(e)
	l.count.WithLabelValues(kind).Inc()
	if first {
		l.warn.event(e.Kind, user, detail)
	}
}

// mergeFor is for how long after an event a similar one is added to it.
const mergeFor = time.Hour

// add numbers an event and holds it. It returns the kind that it counts as, and
// whether it was not added to an earlier event.
func (l *eventLog) add(e Event) (kind string, first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	e.Seq = l.last
	first = true
	if e.Count > 0 {
		for i, old := range slices.Backward(l.held) {
			if old.Kind == e.Kind && old.User == e.User && e.TimeMS-old.TimeMS < mergeFor.Milliseconds() {
				e.Count += old.Count
				l.held = slices.Delete(l.held, i, i+1)
				first = false
				break
			}
		}
	}
	if len(l.held) == maxEvents {
		l.held = slices.Delete(l.held, 0, 1)
	}
	l.held = append(l.held, e)
	if _, known := l.kinds[e.Kind]; !known {
		if len(l.kinds) == maxKinds {
			return "other", first
		}
		l.kinds[e.Kind] = struct{}{}
	}
	return e.Kind, first
}

// Events returns those with a Seq above after, oldest first, at most max (0 or
// less: all that are held). Numbers grow, also over a restart. A gap between
// after and the first one may mean that older events were dropped.
func (l *eventLog) Events(after uint64, max int) []Event {
	if max <= 0 {
		max = maxEvents
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	events := []Event{}
	for _, e := range l.held {
		if e.Seq > after && len(events) < max {
			events = append(events, e)
		}
	}
	return events
}
