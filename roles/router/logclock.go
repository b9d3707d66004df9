package router

import (
	"math"
	"sync"
	"time"
)

// sampleTime is how long a comparison of the clocks counts at least.
const sampleTime = 10 * time.Minute

// logClock tells the time by the kept log's clock, which stamps its records. In a cluster the
// clocks of nodes differ, and the log's is the one that all routers share. So a message's ttl is
// counted by it.
//
// A record is read at some time after its stamp. The least difference between this node's clock and
// a stamp, over the last minutes, is how far this clock is ahead, plus the shortest delay between a
// stamp and its reading. That delay makes messages expire late, for example after a cluster was at
// rest, and never early. Before the first stamp, and for a log without a clock of its own, the node's clock
// counts. It is safe for concurrent use.
type logClock struct {
	now func() time.Time

	mu           sync.Mutex
	ahead, older int64 // least differences of this and the last sampleTime, in milliseconds
	since        time.Time
}

// noSample is a difference before the first comparison.
const noSample = math.MaxInt64

func newLogClock(now func() time.Time) *logClock {
	return &logClock{now: now, ahead: noSample, older: noSample}
}

// saw notes that a record with a stamp, in Unix milliseconds, was read. 0 is no stamp.
func (c *logClock) saw(stampMS int64) {
	if stampMS == 0 {
		return
	}
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.since) > sampleTime {
		c.older, c.ahead, c.since = c.ahead, noSample, now
	}
	c.ahead = min(c.ahead, now.UnixMilli()-stampMS)
}

// Now returns the time by the log's clock.
func (c *logClock) Now() time.Time {
	c.mu.Lock()
	ahead := min(c.ahead, c.older)
	c.mu.Unlock()
	now := c.now()
	if ahead == noSample {
		return now
	}
	return now.Add(-time.Duration(ahead) * time.Millisecond)
}
