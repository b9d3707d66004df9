package transport

import (
	"sync"
	"time"
)

// Patience gives connections the same time each to do what is expected of them,
// such as to authenticate: then their read deadline passes. In place of a timer
// for each there is one for all, since whoever began first is the first whose
// time is over. Safe for concurrent use.
type Patience struct {
	timeout time.Duration

	mu          sync.Mutex
	first, last *Turn // in the order of due
	timer       *time.Timer
	ticking     bool
	stopped     bool
}

// Turn is one connection's part in a Patience, from Begin to End.
type Turn struct {
	conn       interface{ SetReadDeadline(time.Time) error }
	due        time.Time
	prev, next *Turn
	here       bool // is in the list
	over       bool // its time is over
}

// NewPatience gives each connection so much time.
func NewPatience(timeout time.Duration) *Patience { return &Patience{timeout: timeout} }

// Begin begins conn's time. After Stop it is over at once.
func (p *Patience) Begin(t *Turn, conn interface{ SetReadDeadline(time.Time) error }) {
	p.mu.Lock()
	if p.stopped {
		t.over = true
		p.mu.Unlock()
		_ = conn.SetReadDeadline(time.Unix(1, 0))
		return
	}
	defer p.mu.Unlock()
	t.conn, t.due = conn, time.Now().Add(p.timeout)
	t.here, t.prev = true, p.last
	if p.last != nil {
		p.last.next = t
	} else {
		p.first = t
	}
	p.last = t
	switch {
	case p.ticking:
		return
	case p.timer == nil:
		p.timer = time.AfterFunc(p.timeout, p.expire)
	default:
		p.timer.Reset(p.timeout)
	}
	p.ticking = true
}

// End ends it; twice does nothing more. over: it has passed, and the read
// deadline with it, now or in a moment: the connection is of no more use.
func (p *Patience) End(t *Turn) (over bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(t)
	return t.over || p.stopped
}

// Stop ends everybody's time.
func (p *Patience) Stop() {
	p.mu.Lock()
	p.stopped = true
	waiting := p.take(func(*Turn) bool { return true })
	p.mu.Unlock()
	end(waiting)
}

func (p *Patience) expire() {
	p.mu.Lock()
	now := time.Now()
	waiting := p.take(func(t *Turn) bool { return !t.due.After(now) })
	if p.ticking = p.first != nil; p.ticking {
		p.timer.Reset(time.Until(p.first.due))
	}
	p.mu.Unlock()
	end(waiting)
}

// take takes out those from the first on who are over. Holds mu.
func (p *Patience) take(over func(*Turn) bool) (taken []*Turn) {
	for t := p.first; t != nil && over(t); t = p.first {
		t.over = true
		p.remove(t)
		taken = append(taken, t)
	}
	return taken
}

// remove takes t out of the list, if it is there. Holds mu.
func (p *Patience) remove(t *Turn) {
	if !t.here {
		return
	}
	t.here = false
	if t.prev != nil {
		t.prev.next = t.next
	} else {
		p.first = t.next
	}
	if t.next != nil {
		t.next.prev = t.prev
	} else {
		p.last = t.prev
	}
	t.prev, t.next = nil, nil
}

// end lets deadlines pass. No lock is held: whoever reads may be told in this
// very call, and call End.
func end(turns []*Turn) {
	for _, t := range turns {
		_ = t.conn.SetReadDeadline(time.Unix(1, 0))
	}
}
