// Package wait is the one place where imgo's goroutines wait: for a time, for
// longer and longer times between tries, or for another goroutine's signal.
//
// Every wait ends when its context is done. Every backoff has jitter, so that
// many clients of one server do not come back at the same moment. The package
// starts no goroutine and imports no other package of imgo.
package wait

import (
	"context"
	"math/rand/v2"
	"time"
)

// Sleep waits for d, or until ctx is done. It returns ctx.Err() if ctx was done
// first, and nil at once for a d of 0 or less.
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

// Backoff gives the pauses between tries. The first is about Min, each next one
// about twice as long, up to Max. Each pause is between a half and the whole of
// that, at random. The zero Backoff is of no use: set Min and Max. A Backoff is
// for one goroutine.
type Backoff struct {
	Min, Max time.Duration

	next time.Duration // the longest that the next pause may be; 0: Min
}

// Next returns the next pause, and makes the one after it longer.
func (b *Backoff) Next() time.Duration {
	d := max(b.next, b.Min)
	b.next = min(2*d, b.Max)
	return d/2 + rand.N(d/2+1)
}

// Reset makes the next pause the shortest again, after a try that worked.
func (b *Backoff) Reset() { b.next = 0 }

// Sleep waits for the next pause, or until ctx is done. It returns ctx.Err() if
// ctx was done first.
func (b *Backoff) Sleep(ctx context.Context) error { return Sleep(ctx, b.Next()) }

// Signal wakes one waiting goroutine. Signals that nobody has taken yet count
// as one. Make it with NewSignal.
type Signal chan struct{}

// NewSignal makes a Signal that is not set.
func NewSignal() Signal { return make(Signal, 1) }

// Set wakes the goroutine that receives from s, or the next one that does. It
// never blocks and is safe for concurrent use.
func (s Signal) Set() {
	select {
	case s <- struct{}{}:
	default:
	}
}
