// Package wait holds the ways in which imgo's goroutines wait: for a time, for growing
// times between tries, or for the signal of another goroutine.
//
// Every wait ends when its context is done. Every backoff has jitter, so that the many
// clients of one server do not come back at the same moment. The package starts no
// goroutine and imports no other package of imgo.
package wait

import (
	"context"
	"math/rand/v2"
	"time"
)

// Sleep waits for d, or until ctx is done. It returns ctx.Err() if ctx was done
// first. If d is 0 or less, it returns at once.
func Sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Every calls do once in each interval, until ctx is done.
func Every(ctx context.Context, interval time.Duration, do func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			do()
		case <-ctx.Done():
			return
		}
	}
}

// Jitter returns a random time between half of d and d. d must not be negative.
func Jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

// Backoff computes the pauses between tries. The first pause is about Min, and each
// next one is about twice as long, up to Max. Each pause is random, between half of
// that time and all of it. Min and Max must be set. A Backoff is not safe for
// concurrent use.
type Backoff struct {
	Min, Max time.Duration

	next time.Duration // upper bound of the next pause; 0 means Min
}

// Next returns the next pause and doubles the one after it, up to Max.
func (b *Backoff) Next() time.Duration {
	d := max(b.next, b.Min)
	b.next = min(2*d, b.Max)
	return Jitter(d)
}

// Reset sets the next pause back to Min. Call it after a try that succeeded.
func (b *Backoff) Reset() { b.next = 0 }

// Sleep waits for the next pause, or until ctx is done. It returns ctx.Err() if
// ctx was done first.
func (b *Backoff) Sleep(ctx context.Context) error { return Sleep(ctx, b.Next()) }

// Signal wakes one waiting goroutine. Several calls of Set before a receive count as
// one. Make a Signal with NewSignal.
type Signal chan struct{}

// NewSignal returns a Signal that is not set.
func NewSignal() Signal { return make(Signal, 1) }

// Set wakes the goroutine that receives from s, or the next one that does. It never
// blocks. It is safe for concurrent use.
func (s Signal) Set() {
	select {
	case s <- struct{}{}:
	default:
	}
}
