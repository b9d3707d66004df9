package roles

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// The rules of spareMemory.
const (
	memoryInterval = 500 * time.Millisecond // between two samples
	memorySpare    = 4 << 20                // bytes of spare memory that are worth a collection, if they are also
	memoryShare    = 4                      // more than 1/memoryShare of the live heap
	memoryQuiet    = 4 << 20                // fewer bytes allocated in an interval are a quiet interval
	memoryRuns     = 2                      // as many quiet intervals in a row must pass first
	memoryPause    = time.Minute            // the shortest time between two collections
)

// memorySample has the figures of runtime/metrics that decide, in bytes.
type memorySample struct {
	held      uint64 // by the heap, not given back to the system
	live      uint64 // of that, in use at the last collection
	allocated uint64 // since the start of the process
}

// spareMemory decides when memory is given back to the system.
//
// Go collects when the heap has doubled, or after two minutes. Until then a process to which 10,000
// clients connected at once holds nearly twice the memory that it needs. A collection costs CPU in
// proportion to the live heap. So it runs in quiet times only, and rarely.
type spareMemory struct {
	allocated uint64 // at the last sample
	quiet     int    // quiet intervals in a row
	returned  time.Time
}

// due reports whether to give memory back now.
func (m *spareMemory) due(s memorySample, now time.Time) bool {
	n := s.allocated - m.allocated
	m.allocated = s.allocated
	if n >= memoryQuiet {
		m.quiet = 0
		return false
	}
	m.quiet++
	spare := s.held - min(s.live, s.held)
	if m.quiet < memoryRuns || spare < max(memorySpare, s.live/memoryShare) || now.Sub(m.returned) < memoryPause {
		return false
	}
	m.returned = now
	return true
}

// returnMemory gives spare memory back to the system in quiet times, until ctx is done.
func returnMemory(ctx context.Context) error {
	tick := time.NewTicker(memoryInterval)
	defer tick.Stop()
	samples := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}, {Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/allocs:bytes"},
	}
	var m spareMemory
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			metrics.Read(samples)
			s := memorySample{
				held: samples[0].Value.Uint64() + samples[1].Value.Uint64() + samples[2].Value.Uint64(),
				live: samples[3].Value.Uint64(), allocated: samples[4].Value.Uint64(),
			}
			if m.due(s, now) {
				debug.FreeOSMemory()
			}
		}
	}
}
