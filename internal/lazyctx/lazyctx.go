// Package lazyctx has contexts with a deadline for what mostly ends without ever
// waiting: a push that is not kept has two bounds and waits for neither, a
// client that comes alone is let in out of memory. The timer, and the place in
// the parent's list, are made once somebody asks for Done.
//
// It guarantees what package context does: who waits for Done is woken when
// the context, its parent or its deadline ends, and Err says why. It does not
// start goroutines, and does not say why somebody waits.
package lazyctx

import (
	"context"
	"sync"
	"time"
)

// Timeout is context.WithTimeout, with a timer only once somebody asks for Done.
//
// The context may be used by many goroutines at once; cancel must be called,
// may be called twice, and ends what was derived from it.
func Timeout(parent context.Context, d time.Duration) (ctx context.Context, cancel func()) {
	return Deadline(parent, time.Now().Add(d), nil)
}

// Deadline is Timeout until a time. waits, unless nil, is called once, before
// the context has a timer, by who asks first for its Done or for that of one
// that was derived from it: whoever does is going to wait. It must not use the
// context, and is not called once the context has ended.
func Deadline(parent context.Context, deadline time.Time, waits func()) (ctx context.Context, cancel func()) {
	c := &lazy{parent: parent, deadline: deadline, waits: waits}
	if by, ok := parent.Deadline(); ok && by.Before(c.deadline) {
		c.deadline = by
	}
	return c, c.cancel
}

type lazy struct {
	parent   context.Context
	deadline time.Time

	mu sync.Mutex
	// waits is called before there is a timer; nil: nobody wants to know.
	waits func()
	// real has the timer; nil: nobody has asked for it.
	real context.Context
	// ends end real, and those of contexts that were derived from this one
	// before it had one.
	ends []context.CancelFunc
	err  error // of the time before real
}

// Deadline is the sooner of its own and the parent's.
func (c *lazy) Deadline() (time.Time, bool) { return c.deadline, true }

// Value is the parent's. The real context's comes first: package context finds
// by it that it need not watch Done with a goroutine.
func (c *lazy) Value(key any) any {
	c.mu.Lock()
	real := c.real
	c.mu.Unlock()
	if real != nil {
		return real.Value(key)
	}
	return c.parent.Value(key)
}

// Err says why it ended.
func (c *lazy) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended()
}

// ended is Err; mu must be held.
func (c *lazy) ended() error {
	if c.real != nil {
		return c.real.Err()
	}
	if c.err == nil {
		if c.err = c.parent.Err(); c.err == nil && !time.Now().Before(c.deadline) {
			c.err = context.DeadlineExceeded
		}
	}
	return c.err
}

// Done starts the timer.
func (c *lazy) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.real == nil {
		err := c.ended()
		c.wait(err)
		var end context.CancelFunc
		c.real, end = c.begin()
		c.ends = append(c.ends, end)
		if err != nil {
			end() // a deadline that passed has ended it already, and says so
		}
	}
	return c.real.Done()
}

// wait says that somebody is going to; err is what ended says. mu must be held.
func (c *lazy) wait(err error) {
	if c.waits != nil && err == nil {
		c.waits()
	}
	c.waits = nil
}

// begin makes the real context: of the nearest ancestor that has, or is, one,
// so that a chain of these has one timer.
func (c *lazy) begin() (context.Context, context.CancelFunc) {
	parent, isLazy := c.parent.(*lazy)
	if !isLazy {
		return context.WithDeadline(c.parent, c.deadline)
	}
	parent.mu.Lock()
	defer parent.mu.Unlock()
	if parent.real != nil {
		return context.WithDeadline(parent.real, c.deadline)
	}
	err := parent.ended()
	parent.wait(err)
	real, end := context.WithDeadline(parent.parent, c.deadline)
	if err != nil {
		end()
	}
	parent.ends = append(parent.ends, end)
	return real, end
}

func (c *lazy) cancel() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.real == nil && c.ended() == nil {
		c.err = context.Canceled
	}
	for _, end := range c.ends {
		end()
	}
	c.ends = nil
}
