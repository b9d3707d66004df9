package roles

import (
	"testing"
	"time"
)

// Memory is given back once after a burst, when it has passed, and not again
// within the minute.
func TestMemoryWatch(t *testing.T) {
	const mb = 1 << 20
	w := memoryWatch{}
	start := time.Unix(1_000_000, 0)
	allocated, ticks := uint64(0), 0
	step := func(n uint64, want bool) {
		t.Helper()
		allocated += n
		ticks++
		if got := w.tick(allocated, start.Add(time.Duration(ticks)*memoryTick)); got != want {
			t.Errorf("tick %d, %d MB more: %v", ticks, n/mb, got)
		}
	}
	for range 10 { // no burst
		step(10*mb, false)
	}
	step(40*mb, false)
	step(60*mb, false)
	for range 10 { // goes on, if slower
		step(16*mb-1, false)
	}
	step(15*mb, false)
	step(50*mb, false)
	step(2*mb, false)
	step(2*mb, true)
	for range 10 {
		step(2*mb, false)
	}
	step(100*mb, false) // the next one waits for the minute to be over
	given := 0
	for range int(memoryEvery/memoryTick) + 2 {
		allocated += mb
		ticks++
		if w.tick(allocated, start.Add(time.Duration(ticks)*memoryTick)) {
			given++
		}
	}
	if given != 1 {
		t.Errorf("given back %d times for a burst within the minute", given)
	}
}
