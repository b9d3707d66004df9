package comet

import "time"

// catchUpState is where a session's catch-up is.
type catchUpState uint8

const (
	catchUpNone   catchUpState = iota
	catchUpQueued              // waits for a goroutine to call logic
	catchUpSent                // logic was called, the answer comes as a delivery
)

// Pauses before a catch-up that follows one without progress: the owner's
// mailbox is not as far as what passed by, or logic failed.
const (
	firstCatchUpPause = 20 * time.Millisecond
	lastCatchUpPause  = time.Second
)

// catchUp is how a session that is behind asks for what it misses, one backlog at
// a time. Times are on comet's clock. A session that is not behind has none.
type catchUp struct {
	state      catchUpState
	fruitless  uint8         // catch-ups in a row that failed, or that brought nothing
	unanswered uint8         // catch-ups in a row that got no answer
	seen       uint64        // highest kept id that passed by
	after      uint64        // the session's last when the catch-up under way was sent
	notBefore  time.Duration // when the next one may be sent
	sentAt     time.Duration
}

// saw notes a kept id that passed by.
func (c *catchUp) saw(id uint64) { c.seen = max(c.seen, id) }

// due reports whether the next catch-up may be queued.
func (c *catchUp) due(now time.Duration) bool {
	return c.state == catchUpNone && now >= c.notBefore
}

func (c *catchUp) sent(now time.Duration, after uint64) {
	c.state, c.sentAt, c.after = catchUpSent, now, after
}

func (c *catchUp) answered(progress bool, now time.Duration) {
	c.unanswered = 0
	c.end(progress, now)
}

// failed ends a catch-up whose call failed. The next one is never sent at once.
func (c *catchUp) failed(now time.Duration) {
	c.fruitless = max(c.fruitless, 1)
	c.end(false, now)
}

// end ends a catch-up and sets when the next one may be sent: at once after one
// that made progress and after the first that made none, then ever later.
func (c *catchUp) end(progress bool, now time.Duration) {
	c.state = catchUpNone
	if progress {
		c.fruitless, c.notBefore = 0, 0
		return
	}
	if c.fruitless > 0 {
		c.notBefore = now + min(firstCatchUpPause<<min(c.fruitless-1, 6), lastCatchUpPause)
	}
	c.fruitless = min(c.fruitless+1, 10)
}

// expire ends a catch-up whose answer has not come in time, so that it is sent
// again. It reports whether it did. Each time in a row the answer may take longer.
func (c *catchUp) expire(now, timeout time.Duration) bool {
	if c.state != catchUpSent || now-c.sentAt < timeout<<min(c.unanswered, 2) {
		return false
	}
	c.state = catchUpNone
	c.unanswered = min(c.unanswered+1, 10)
	return true
}
