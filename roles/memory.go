package roles

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// What memoryWatch goes by. A burst is what makes a heap grow for good: all
// clients connecting at once allocate some 50 MB a second. The steady work of
// a busy node allocates as much and never comes to its end.
const (
	memoryTick  = 500 * time.Millisecond
	burstBytes  = 16 << 20    // allocated within a tick: a burst
	calmShare   = 4           // a quarter of the burst's most: it has passed
	calmTicks   = 2           // for so long
	memoryEvery = time.Minute // at most so often
)

// memoryWatch gives memory back to the system once a burst of work has passed.
//
// Go collects when the heap has doubled, or after two minutes, and keeps a
// tenth more than that needs: what ten thousand clients that came at once left
// behind was as much again as they need. A collection costs CPU in proportion
// to what is alive, and so it is made when there is little else to do, and
// rarely. Nothing is done while the work goes on.
type memoryWatch struct {
	before uint64 // bytes allocated since the start, at the last tick
	most   uint64 // of a tick in the burst; 0: there was none
	calm   int
	last   time.Time // when memory was given back
}

// tick is told every memoryTick how many bytes were allocated since the start;
// true: memory is to be given back now.
func (w *memoryWatch) tick(allocated uint64, now time.Time) bool {
	n := allocated - w.before
	w.before = allocated
	if n >= burstBytes {
		w.most, w.calm = max(w.most, n), 0
		return false
	}
	if w.most == 0 {
		return false
	}
	if n > w.most/calmShare {
		w.calm = 0
		return false
	}
	if w.calm++; w.calm < calmTicks || now.Sub(w.last) < memoryEvery {
		return false
	}
	w.most, w.calm, w.last = 0, 0, now
	return true
}

// watchMemory is memoryWatch at work, until ctx is done.
func watchMemory(ctx context.Context) error {
	tick := time.NewTicker(memoryTick)
	defer tick.Stop()
	allocated := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	read := func() uint64 {
		metrics.Read(allocated)
		return allocated[0].Value.Uint64()
	}
	w := memoryWatch{before: read()} // the start is no burst
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			if w.tick(read(), now) {
				debug.FreeOSMemory()
			}
		}
	}
}
