package hooks

import (
	"math/rand/v2"
	"sync"
	"time"
)

// health is what a process knows about the address of a hook. All carriers of the hook share it. It is
// safe for concurrent use.
type health struct {
	mu       sync.Mutex
	failures int // failed calls in a row, up to downAfter: then the address is down
	// While the address is down, one call at a time finds out whether it is back: a probe. probes counts those that
	// failed. Calls that were under way before say nothing new: only a failed probe makes the next pause longer.
	probes      int
	probing     bool
	probeAt     time.Time
	lastSuccess time.Time
	recoveries  int
	changed     chan struct{} // closed at each change
}

func newHealth() *health { return &health{changed: make(chan struct{})} }

func (h *health) downLocked() bool { return h.failures >= downAfter }

// enter reports whether a call may be made now, and whether it is a probe. If not, until is when to ask again at the
// latest. Zero means after the next change.
func (h *health) enter(now time.Time) (ok, probe bool, until time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case !h.downLocked():
		return true, false, time.Time{}
	case h.probing:
		return false, false, time.Time{}
	case now.Before(h.probeAt):
		return false, false, h.probeAt
	}
	h.probing = true
	return true, true, time.Time{}
}

// leave records the end of a call that enter allowed. probe is what enter said. cancelled calls say nothing about the
// address.
func (h *health) leave(now time.Time, answered, cancelled, probe bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	down := h.downLocked()
	switch {
	case cancelled:
	case answered:
		if down {
			h.recoveries++
		}
		h.failures, h.probes, h.lastSuccess = 0, 0, now
	case !down:
		if h.failures++; h.downLocked() {
			h.probeAt = now.Add(pause(0, maxProbe))
		}
	case probe:
		h.probes++
		h.probeAt = now.Add(pause(h.probes, maxProbe))
	}
	if probe {
		h.probing = false
	}
	if down || h.downLocked() {
		close(h.changed)
		h.changed = make(chan struct{})
	}
}

// view is a snapshot of a health.
type view struct {
	down        bool
	lastSuccess time.Time
	recoveries  int
	changed     <-chan struct{}
}

func (h *health) view() view {
	h.mu.Lock()
	defer h.mu.Unlock()
	return view{h.downLocked(), h.lastSuccess, h.recoveries, h.changed}
}

// pause returns a random part (full jitter) of a span that doubles with each try before, from minRetry
// to longest.
func pause(tries int, longest time.Duration) time.Duration {
	span := longest
	if tries < 20 {
		span = min(minRetry<<max(tries, 0), longest)
	}
	return rand.N(span) + 1
}
