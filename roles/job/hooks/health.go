package hooks

import (
	"math/rand/v2"
	"sync"
	"time"
)

// health is what a process knows about the address of a hook. All carriers of the hook share it. It is
// safe for concurrent use.
type health struct {
	mu          sync.Mutex
	failures    int // calls in a row
	probing     bool
	probeAt     time.Time // while the address is away
	lastSuccess time.Time
	recoveries  int
	changed     chan struct{} // closed at each change
}

func newHealth() *health { return &health{changed: make(chan struct{})} }

func (h *health) downLocked() bool { return h.failures >= downAfter }

// enter reports whether a call may be made now. If not, until is when to ask again at the latest; zero:
// after the next change.
func (h *health) enter(now time.Time) (ok bool, until time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case !h.downLocked():
		return true, time.Time{}
	case h.probing:
		return false, time.Time{}
	case now.Before(h.probeAt):
		return false, h.probeAt
	}
	h.probing = true
	return true, time.Time{}
}

// leave records the end of a call that enter allowed. cancelled calls say nothing about the address.
func (h *health) leave(now time.Time, answered, cancelled bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	down := h.downLocked()
	switch {
	case cancelled:
	case answered:
		if down {
			h.recoveries++
		}
		h.failures, h.lastSuccess = 0, now
	default:
		h.failures++
		h.probeAt = now.Add(pause(h.failures-downAfter, maxProbe))
	}
	if down || h.downLocked() {
		h.probing = false
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
