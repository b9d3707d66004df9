package router

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// sampleTime is how long a comparison of the clocks counts at least.
const sampleTime = 10 * time.Minute

// logClock tells the time by the kept log's clock, which stamps its records. In a cluster the clocks of nodes differ,
// and the log's is the one that all routers share. So it is the clock of every time that is in a record or a mailbox,
// or is compared with one. Examples are a message's ttl, when a device was seen, and when a user has gone. A time
// that a router only measures for itself, such as a pause, and the expiry in the store go by the node's clock.
//
// A record is read at some time after its stamp. logClock keeps the least difference between this node's clock and a
// stamp over the last minutes. That is how far this clock is ahead, plus the shortest delay between a stamp and its
// reading. The delay makes messages expire late, for example after a cluster was at rest, and never early. The
// node's clock may be set meanwhile: logClock measures by the monotonic clock, which goes on. Before the first
// stamp, and for a log without a clock of its own, the node's clock counts as it is. It is safe for concurrent use.
type logClock struct {
	now   func() time.Time
	start time.Time // by the node's clock, with the reading of its monotonic clock
	// ahead is how far the node's clock is ahead, in milliseconds, or noSample. A connect reads it: it needs no lock.
	ahead atomic.Int64

	mu           sync.Mutex
	least, older int64 // least differences of this and the last sampleTime, in milliseconds
	since        time.Time
}

// noSample is a difference before the first comparison.
const noSample = math.MaxInt64

func newLogClock(now func() time.Time) *logClock {
	c := &logClock{now: now, start: now(), least: noSample, older: noSample}
	c.ahead.Store(noSample)
	return c
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
		c.older, c.least, c.since = c.least, noSample, now
	}
	c.least = min(c.least, c.unset(now).UnixMilli()-stampMS)
	c.ahead.Store(min(c.least, c.older))
}

// Now returns the time by the log's clock.
func (c *logClock) Now() time.Time { return c.At(c.now()) }

// At returns the time by the log's clock when it is t by the node's.
func (c *logClock) At(t time.Time) time.Time {
	ahead := c.ahead.Load()
	if ahead == noSample {
		return t
	}
	return c.unset(t).Add(-time.Duration(ahead) * time.Millisecond)
}

// unset returns the time t as the node's clock would have it if nobody had set that clock since the start.
func (c *logClock) unset(t time.Time) time.Time { return c.start.Add(t.Sub(c.start)) }
