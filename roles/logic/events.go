package logic

import (
	"sync"
	"time"
)

const (
	// maxEvents is how many events are held; the oldest goes first.
	maxEvents = 1000
	// maxKinds bounds the kinds that are counted by name.
	maxKinds = 32
	// maxDetail bounds an event's detail, in bytes.
	maxDetail = 512
)

// eventRing holds the newest events. Safe for concurrent use.
type eventRing struct {
	mu    sync.Mutex
	last  uint64  // the newest event's Seq
	ring  []Event // the newest maxEvents, from head on
	head  int
	kinds map[string]struct{}
}

// newEventRing starts its numbers at the time, so that they grow over restarts
// (as long as there is less than one event a millisecond) and who follows with
// the last number that he saw misses nothing after one.
func newEventRing(start time.Time) *eventRing {
	return &eventRing{last: uint64(max(0, start.UnixMilli())), kinds: make(map[string]struct{})}
}

func (r *eventRing) add(e Event) (counted string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	e.Seq = r.last
	if len(r.ring) < maxEvents {
		r.ring = append(r.ring, e)
	} else {
		r.ring[r.head] = e
		r.head = (r.head + 1) % maxEvents
	}
	if _, known := r.kinds[e.Kind]; !known {
		if len(r.kinds) == maxKinds {
			return "other"
		}
		r.kinds[e.Kind] = struct{}{}
	}
	return e.Kind
}

func (r *eventRing) after(seq uint64, limit int) []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := []Event{}
	for i := range r.ring {
		e := r.ring[(r.head+i)%len(r.ring)]
		if e.Seq > seq && len(out) < limit {
			out = append(out, e)
		}
	}
	return out
}

// Report takes an event of a kind ("mailbox_dropped", …) that concerns a user
// (or nobody: empty). It never blocks: the newest 1,000 are held, all are
// counted, and the log gets some lines a second.
func (l *Logic) Report(kind, user, detail string) {
	if len(detail) > maxDetail {
		detail = detail[:maxDetail]
	}
	counted := l.events.add(Event{TimeMS: l.nowMS(), Kind: kind, User: user, Detail: detail})
	l.metrics.events.WithLabelValues(counted).Inc()
	if l.warn.Allow() {
		l.log.Warn().Str("user", user).Str("event", kind).Str("detail", detail).Msg("event")
	}
}

// Events are those with a Seq above after, oldest first, at most max (0 or
// less: all that are held). Numbers grow, also over a restart; a gap between
// after and the first one may mean that events were lost to the ring's bound.
func (l *Logic) Events(after uint64, max int) []Event {
	if max <= 0 {
		max = maxEvents
	}
	return l.events.after(after, max)
}
