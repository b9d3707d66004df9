// Package lazyctx provides contexts whose deadline costs nothing until a goroutine
// waits for it. Many calls of imgo have one or two deadlines and end without waiting
// for either. A push that is not kept is an example.
//
// Such a context starts its timer and registers with its parent at the first call of
// Done. Otherwise it behaves as package context describes. Done is closed when the
// context, its parent or its deadline ends, and Err returns the reason. The package
// starts no goroutine.
package lazyctx

import (
	"context"
	"sync"
	"time"
)

// Timeout is like context.WithTimeout, but it starts no timer until Done is called.
//
// The context is safe for concurrent use. The caller must call cancel, and may call it
// more than once. cancel also ends the contexts that are derived from ctx.
func Timeout(parent context.Context, d time.Duration) (ctx context.Context, cancel func()) {
	c := &lazy{parent: parent, deadline: time.Now().Add(d)}
	if by, ok := parent.Deadline(); ok && by.Before(c.deadline) {
		c.deadline = by
	}
	return c, c.cancel
}

type lazy struct {
	parent   context.Context
	deadline time.Time

	mu sync.Mutex
	// real has the timer. It is nil until the first call of Done.
	real context.Context
	// ends cancels real. It also cancels the real contexts of derived contexts that were
	// made while real was nil.
	ends []context.CancelFunc
	err  error // why the context ended; only used while real is nil
}

// Deadline returns the earlier one of the context's own deadline and its parent's.
func (c *lazy) Deadline() (time.Time, bool) { return c.deadline, true }

// Value returns the value of the parent. It asks the real context first. Through that
// value, package context recognizes that it needs no goroutine to watch Done.
func (c *lazy) Value(key any) any {
	c.mu.Lock()
	real := c.real
	c.mu.Unlock()
	if real != nil {
		return real.Value(key)
	}
	return c.parent.Value(key)
}

// Err returns nil until the context has ended, and the reason afterwards.
func (c *lazy) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.errLocked()
}

func (c *lazy) errLocked() error {
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

// Done creates the real context with its timer at the first call.
func (c *lazy) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.real == nil {
		err := c.errLocked()
		var end context.CancelFunc
		c.real, end = c.makeReal()
		c.ends = append(c.ends, end)
		if err != nil {
			end() // a deadline that has passed already ended it, with its own error
		}
	}
	return c.real.Done()
}

// makeReal derives the real context from the nearest ancestor that is not lazy or
// already has a real context. So a chain of lazy contexts needs only one timer.
func (c *lazy) makeReal() (context.Context, context.CancelFunc) {
	parent, isLazy := c.parent.(*lazy)
	if !isLazy {
		return context.WithDeadline(c.parent, c.deadline)
	}
	parent.mu.Lock()
	defer parent.mu.Unlock()
	if parent.real != nil {
		return context.WithDeadline(parent.real, c.deadline)
	}
	err := parent.errLocked()
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
	if c.real == nil && c.errLocked() == nil {
		c.err = context.Canceled
	}
	for _, end := range c.ends {
		end()
	}
	c.ends = nil
}
