package sparememory

import (
	"testing"
	"time"
)

// TestDue checks that memory is given back in quiet times only, and at most once a minute.
func TestDue(t *testing.T) {
	const mb = 1 << 20
	var w watcher
	now, allocated := time.Unix(1_000_000, 0), uint64(0)
	for i, step := range []struct {
		grow, held, live uint64 // MB
		pause            time.Duration
		want             bool
	}{
		{grow: 3, held: 6, live: 4}, {grow: 3, held: 7, live: 4}, // quiet, little to return
		{grow: 60, held: 70, live: 20}, {grow: 4, held: 74, live: 20}, // busy
		{grow: 3, held: 77, live: 20},                                              // quiet, for one interval
		{grow: 3, held: 80, live: 20, want: true},                                  // quiet for two
		{grow: 60, held: 90, live: 20}, {held: 90, live: 20}, {held: 90, live: 20}, // the next one waits for the minute
		{held: 90, live: 20, pause: minPause, want: true},
		{held: 999, live: 800, pause: minPause}, // less than a quarter of the live heap
		{held: 1001, live: 800, pause: minPause, want: true},
		{held: 30, live: 40, pause: minPause}, // less than was live: the collection freed it
	} {
		allocated += step.grow * mb
		now = now.Add(interval + step.pause)
		if got := w.due(sample{held: step.held * mb, live: step.live * mb, allocated: allocated}, now); got != step.want {
			t.Errorf("step %d: %v", i, got)
		}
	}
}
