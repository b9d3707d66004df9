// Package sparememory gives memory back to the system in quiet times.
//
// Go collects when the heap has doubled, or after two minutes. Until then a process to which 10,000
// clients connected at once holds nearly twice the memory that it needs. A collection costs CPU in
// proportion to the live heap. So it runs in quiet times only, and rarely.
package sparememory

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	interval   = 500 * time.Millisecond // between two samples
	minSpare   = 4 << 20                // bytes of spare memory that are worth a collection, if they are also
	spareShare = 4                      // more than 1/spareShare of the live heap
	quietBytes = 4 << 20                // fewer bytes allocated in an interval are a quiet interval
	quietRuns  = 2                      // as many quiet intervals in a row must pass first
	minPause   = time.Minute            // the shortest time between two collections
)

// sample has the figures of runtime/metrics that decide, in bytes.
type sample struct {
	held      uint64 // by the heap, not given back to the system
	live      uint64 // of that, in use at the last collection
	allocated uint64 // since the start of the process
}

// watcher decides when memory is given back.
type watcher struct {
	allocated uint64 // at the last sample
	quiet     int    // quiet intervals in a row
	returned  time.Time
}

// due reports whether to give memory back now.
func (w *watcher) due(s sample, now time.Time) bool {
	n := s.allocated - w.allocated
	w.allocated = s.allocated
	if n >= quietBytes {
		w.quiet = 0
		return false
	}
	w.quiet++
	spare := s.held - min(s.live, s.held)
	if w.quiet < quietRuns || spare < max(minSpare, s.live/spareShare) || now.Sub(w.returned) < minPause {
		return false
	}
	w.returned = now
	return true
}

// Return gives spare memory back in quiet times, until ctx is done.
func Return(ctx context.Context) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	samples := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}, {Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/allocs:bytes"},
	}
	var w watcher
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			metrics.Read(samples)
			got := sample{
				held: samples[0].Value.Uint64() + samples[1].Value.Uint64() + samples[2].Value.Uint64(),
				live: samples[3].Value.Uint64(), allocated: samples[4].Value.Uint64(),
			}
			if w.due(got, now) {
				debug.FreeOSMemory()
			}
		}
	}
}
