package hooks

import (
	"testing"
	"time"
)

// An address that fails many calls at the same moment is asked again soon: the calls that were under way are one failure,
// and not a long row of them.
func TestManyFailuresAtOnce(t *testing.T) {
	h, now := newHealth(), time.Unix(1_000_000, 0)
	for range 50 {
		if ok, probe, _ := h.enter(now); !ok || probe {
			t.Fatal("a call is not allowed, although none has failed")
		}
	}
	for range 50 {
		h.leave(now, false, false, false)
	}
	if ok, _, until := h.enter(now); ok || until.Sub(now) > minRetry {
		t.Errorf("after failures at one moment a call is allowed: %t, or it waits for %s", ok, until.Sub(now))
	}
	// One probe at a time. A call that was under way before does not end it.
	now = now.Add(minRetry)
	if ok, probe, _ := h.enter(now); !ok || !probe {
		t.Error("no probe is allowed")
	}
	h.leave(now, false, false, false)
	if ok, _, _ := h.enter(now.Add(maxProbe)); ok {
		t.Error("a second probe is allowed beside the first")
	}
	// Each failed probe makes the next pause longer, up to a bound.
	longest := time.Duration(0)
	for range 50 {
		h.leave(now, false, false, true)
		_, _, until := h.enter(now)
		longest = max(longest, until.Sub(now))
		if now = now.Add(maxProbe); longest > maxProbe {
			t.Fatalf("the pause is %s", longest)
		}
		if ok, probe, _ := h.enter(now); !ok || !probe {
			t.Fatal("no probe is allowed after the pause")
		}
	}
	if longest < maxProbe/4 {
		t.Errorf("after 50 failed probes the longest pause was %s", longest)
	}
	h.leave(now, true, false, true)
	if ok, probe, _ := h.enter(now); !ok || probe || h.view().recoveries != 1 {
		t.Error("after a success a call is not allowed, or it is a probe")
	}
	// A probe that was cancelled lets another one begin.
	for range downAfter {
		h.leave(now, false, false, false)
	}
	now = now.Add(minRetry)
	h.enter(now)
	h.leave(now, false, true, true)
	if ok, probe, _ := h.enter(now); !ok || !probe {
		t.Error("no probe is allowed after one that was cancelled")
	}
}
