package transport

import (
	"container/list"
	"sync"
	"time"
)

// expired is a read deadline that has passed whatever the clock says.
var expired = time.Unix(1, 0)

// SharedDeadline gives every connection the same time for what is expected of
// it, such as to authenticate. When the time is over, the connection's read
// deadline passes. One timer serves all connections, because the one that
// started first expires first. It is safe for concurrent use.
type SharedDeadline struct {
	timeout time.Duration

	mu      sync.Mutex
	slots   list.List // of *DeadlineSlot, ordered by due
	timer   *time.Timer
	ticking bool
	stopped bool
}

// DeadlineSlot is the place of one connection in a SharedDeadline, from Start to
// Cancel. It lives in the connection's own struct.
type DeadlineSlot struct {
	conn    readDeadliner
	due     time.Time
	place   *list.Element // nil: it is not in the list
	expired bool
}

type readDeadliner interface{ SetReadDeadline(time.Time) error }

// NewSharedDeadline makes a SharedDeadline that gives each connection timeout.
func NewSharedDeadline(timeout time.Duration) *SharedDeadline {
	return &SharedDeadline{timeout: timeout}
}

// Start starts the time of a connection. After Stop it expires at once.
func (d *SharedDeadline) Start(s *DeadlineSlot, conn readDeadliner) {
	d.mu.Lock()
	if d.stopped {
		s.expired = true
		d.mu.Unlock()
		_ = conn.SetReadDeadline(expired)
		return
	}
	defer d.mu.Unlock()
	s.conn, s.due = conn, time.Now().Add(d.timeout)
	s.place = d.slots.PushBack(s)
	switch {
	case d.ticking:
		return
	case d.timer == nil:
		d.timer = time.AfterFunc(d.timeout, d.expire)
	default:
		d.timer.Reset(d.timeout)
	}
	d.ticking = true
}

// Cancel ends the time of a connection and reports whether it had expired. The
// read deadline of an expired connection has passed or passes in a moment, so
// the connection is of no more use. A second call does nothing.
func (d *SharedDeadline) Cancel(s *DeadlineSlot) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.removeLocked(s)
	return s.expired || d.stopped
}

// Stop expires all connections, and those that start later.
func (d *SharedDeadline) Stop() {
	d.mu.Lock()
	d.stopped = true
	slots := d.removeFirstLocked(func(*DeadlineSlot) bool { return true })
	d.mu.Unlock()
	expireReads(slots)
}

// expire runs when the timer fires.
func (d *SharedDeadline) expire() {
	d.mu.Lock()
	now := time.Now()
	slots := d.removeFirstLocked(func(s *DeadlineSlot) bool { return !s.due.After(now) })
	if d.ticking = d.slots.Len() > 0; d.ticking {
		d.timer.Reset(time.Until(d.firstLocked().due))
	}
	d.mu.Unlock()
	expireReads(slots)
}

func (d *SharedDeadline) firstLocked() *DeadlineSlot { return d.slots.Front().Value.(*DeadlineSlot) }

// removeFirstLocked removes the slots from the first on for as long as they are
// over, and marks them as expired.
func (d *SharedDeadline) removeFirstLocked(over func(*DeadlineSlot) bool) (removed []*DeadlineSlot) {
	for d.slots.Len() > 0 && over(d.firstLocked()) {
		s := d.firstLocked()
		s.expired = true
		d.removeLocked(s)
		removed = append(removed, s)
	}
	return removed
}

// removeLocked removes a slot from the list, if it is listed.
func (d *SharedDeadline) removeLocked(s *DeadlineSlot) {
	if s.place != nil {
		d.slots.Remove(s.place)
		s.place = nil
	}
}

// expireReads lets the read deadlines pass. No lock is held, because the reader
// may be called from SetReadDeadline and may call Cancel.
func expireReads(slots []*DeadlineSlot) {
	for _, s := range slots {
		_ = s.conn.SetReadDeadline(expired)
	}
}
