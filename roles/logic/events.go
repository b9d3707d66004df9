package logic

import (
	"sync"

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
}

// eventLog holds the newest events. Safe for concurrent use.
type eventLog struct {
	count *prometheus.CounterVec // by kind
	warn  *warnings
	now   clock

	mu    sync.Mutex
	last  uint64  // the newest event's Seq
	ring  []Event // the newest maxEvents; the oldest is at head
	head  int
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
// second are logged.
func (l *eventLog) Report(kind, user, detail string) {
	if len(detail) > maxDetail {
		detail = detail[:maxDetail]
	}
	l.count.WithLabelValues(l.add(Event{TimeMS: l.now.ms(), Kind: kind, User: user, Detail: detail})).Inc()
	l.warn.event(kind, user, detail)
}

// add numbers an event, holds it, and returns the kind that it counts as.
func (l *eventLog) add(e Event) (kind string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	e.Seq = l.last
	if len(l.ring) < maxEvents {
		l.ring = append(l.ring, e)
	} else {
		l.ring[l.head] = e
		l.head = (l.head + 1) % maxEvents
	}
	if _, known := l.kinds[e.Kind]; !known {
		if len(l.kinds) == maxKinds {
			return "other"
		}
		l.kinds[e.Kind] = struct{}{}
	}
	return e.Kind
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
	for i := range l.ring {
		e := l.ring[(l.head+i)%len(l.ring)]
		if e.Seq > after && len(events) < max {
			events = append(events, e)
		}
	}
	return events
}
