package comet

import (
	"context"
	"sync"
	"time"

	"imgo/transport"
)

// brief is the context of a question that is asked by the goroutine which tells
// all connections what happens on them. Logic mostly answers out of memory,
// without waiting for anything. Who does have to wait, for the log, a disk or
// another node, asks for Done first: that is when the goroutine's other work
// becomes somebody else's, and when there is a timer.
//
// It may be used by many goroutines at once; end must be called.
type brief struct {
	parent   context.Context
	deadline time.Time
	conn     transport.Pollable // which the goroutine is telling

	mu    sync.Mutex
	real  context.Context // has the timer; nil: nobody has asked for it
	stop  context.CancelFunc
	ended bool
}

// Deadline is when the question ends.
func (b *brief) Deadline() (time.Time, bool) { return b.deadline, true }

// Done is for who is going to wait.
func (b *brief) Done() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.real == nil {
		if !b.ended {
			b.conn.Leave()
		}
		b.real, b.stop = context.WithDeadline(b.parent, b.deadline)
		if b.ended {
			b.stop()
		}
	}
	return b.real.Done()
}

// Err says why it ended.
func (b *brief) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.real != nil:
		return b.real.Err()
	case b.ended:
		return context.Canceled
	case b.parent.Err() != nil:
		return b.parent.Err()
	case !time.Now().Before(b.deadline):
		return context.DeadlineExceeded
	}
	return nil
}

// Value is the parent's. The real context's comes first: package context finds
// by it that it need not watch Done with a goroutine.
func (b *brief) Value(key any) any {
	b.mu.Lock()
	real := b.real
	b.mu.Unlock()
	if real != nil {
		return real.Value(key)
	}
	return b.parent.Value(key)
}

// end ends it, and what was derived from it.
func (b *brief) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	if b.stop != nil {
		b.stop()
	}
}
