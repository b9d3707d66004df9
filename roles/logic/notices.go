package logic

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxNotices is how many notices are held; the oldest is dropped first.
	maxNotices = 1000
	// maxKinds bounds the kinds that are counted by name.
	maxKinds = 32
	// maxDetail bounds a notice's detail, in bytes.
	maxDetail = 512
)

// Notice is something that happened to a user's data or sessions that an
// operator may want to know: GET /v1/notices. It is of this process, and gone when that ends.
type Notice struct {
	Seq    uint64 `json:"seq"`
	TimeMS int64  `json:"time_ms"`
	Kind   string `json:"kind"` // such as "mailbox_dropped"
	User   string `json:"user,omitempty"`
	Detail string `json:"detail,omitempty"`
	// Count is how often it happened, as one event; 0 for one that stands by itself.
	Count int `json:"count,omitempty"`
}

// noticeLog holds the newest notices. Safe for concurrent use.
type noticeLog struct {
	count *prometheus.CounterVec // by kind
	warn  *warnings
	now   clock

	mu    sync.Mutex
	last  uint64              // the newest notice's Seq
	held  []Notice            // the newest maxNotices, oldest first
	kinds map[string]struct{} // that are counted by name
}

// newNoticeLog starts the numbers at the time in milliseconds, so that they grow
// over restarts as long as there is less than one notice a millisecond. A
// caller that asks for notices after the last number it saw misses none of those
// after a restart.
func newNoticeLog(count *prometheus.CounterVec, warn *warnings, now clock) *noticeLog {
	return &noticeLog{
		count: count, warn: warn, now: now,
		last: uint64(max(0, now.ms())), kinds: make(map[string]struct{}),
	}
}

// Report adds a notice of a kind, such as "mailbox_dropped". It concerns a user, or
// nobody if user is empty. Report never blocks. Every notice is counted, and a few a
// second are logged. n is how often it happened, for what may happen to a user again and
// again. Such notices within mergeFor become one. It has the sum, the newest detail, and
// a new number each time. n is 0 for all other notices.
func (l *noticeLog) Report(kind, user string, n int, detail string) {
	if len(detail) > maxDetail {
		detail = detail[:maxDetail]
	}
	e := Notice{TimeMS: l.now.ms(), Kind: kind, User: user, Detail: detail, Count: n}
	kind, first := l.add(e)
	l.count.WithLabelValues(kind).Inc()
	if first {
		l.warn.event(e.Kind, user, detail)
	}
}

// mergeFor is for how long after a notice a similar one is added to it.
const mergeFor = time.Hour

// add numbers a notice and holds it. It returns the kind that it counts as, and
// whether it was not added to an earlier one.
func (l *noticeLog) add(e Notice) (kind string, first bool) {
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
	if len(l.held) == maxNotices {
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

// Notices returns those with a Seq above after, oldest first, at most max (0 or
// less: all that are held). Numbers grow, also over a restart. A gap between
// after and the first one may mean that older ones were dropped.
func (l *noticeLog) Notices(after uint64, max int) []Notice {
	if max <= 0 {
		max = maxNotices
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	list := []Notice{}
	for _, e := range l.held {
		if e.Seq > after && len(list) < max {
			list = append(list, e)
		}
	}
	return list
}
