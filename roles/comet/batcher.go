package comet

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"imgo/envelope"
)

// Pauses between the attempts of a call that failed.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
)

// batcher gathers items for an interval, or until there is a batch of them,
// and sends them in one call, in order, again and again until it is taken. Its
// queue is bounded: over the bound the oldest are lost and counted. add never
// blocks; it is safe for concurrent use.
type batcher[T any] struct {
	name     string // of the call, for the log
	interval time.Duration
	timeout  time.Duration // of one call
	batch    int           // weight of a full batch
	bound    int           // weight of a full queue
	weight   func(T) int
	send     func(context.Context, []T) error
	failed   func() // counts a failed call
	lost     func(n int)
	log      zerolog.Logger

	mu    sync.Mutex
	items []T
	total int // weight of items
	some  chan struct{}
	hurry chan struct{}
}

// newBatcher makes b, whose settings are filled in, usable.
func newBatcher[T any](b *batcher[T]) *batcher[T] {
	b.some = make(chan struct{}, 1)
	b.hurry = make(chan struct{}, 1)
	return b
}

// add queues an item; now asks not to wait for the interval.
func (b *batcher[T]) add(item T, now bool) {
	b.mu.Lock()
	b.items = append(b.items, item)
	b.total += b.weight(item)
	b.trim()
	now = now || b.total >= b.batch
	b.mu.Unlock()
	signal(b.some)
	if now {
		signal(b.hurry)
	}
}

// flush asks for what is queued to be sent without waiting for the interval.
func (b *batcher[T]) flush() { signal(b.hurry) }

func (b *batcher[T]) queued() float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return float64(b.total)
}

// trim loses the oldest items that are over the bound. Holds mu.
func (b *batcher[T]) trim() {
	lost := 0
	for b.total > b.bound && len(b.items) > 1 {
		w := b.weight(b.items[0])
		b.items = b.items[1:]
		b.total -= w
		lost += w
	}
	if lost > 0 {
		b.lost(lost)
	}
}

// run sends until stop is closed and then what is left, at most until ctx,
// which bounds the calls too, is done.
func (b *batcher[T]) run(ctx context.Context, stop <-chan struct{}) {
	for stopped := false; !stopped; {
		select {
		case <-b.some:
			stopped = !b.gather(stop)
		case <-stop:
			stopped = true
		}
		b.sendAll(ctx)
	}
}

// gather waits for the interval to pass or a reason not to; false: stop.
func (b *batcher[T]) gather(stop <-chan struct{}) bool {
	timer := time.NewTimer(b.interval)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-b.hurry:
	case <-stop:
		return false
	}
	return true
}

// sendAll sends batch after batch until nothing is queued or ctx is done.
func (b *batcher[T]) sendAll(ctx context.Context) {
	pause := firstPause
	for ctx.Err() == nil {
		items := b.take()
		if len(items) == 0 {
			return
		}
		err := b.call(ctx, items)
		switch {
		case err == nil:
			if pause != firstPause {
				b.log.Info().Str("call", b.name).Msg("logic takes calls again")
			}
			pause = firstPause
			continue
		case errors.Is(err, envelope.ErrInvalid) || errors.Is(err, envelope.ErrTooLarge):
			b.sendSingly(ctx, items, err)
			continue
		case pause == firstPause:
			b.log.Warn().Err(err).Str("call", b.name).Msg("logic does not take a call, trying again until it does")
		}
		b.putBack(items)
		b.wait(ctx, pause)
		pause = min(2*pause, lastPause)
	}
}

// sendSingly is for a batch that no attempt will ever get taken: what one
// client sent must not cost the others in its batch, so each item is sent by
// itself once and only those that are refused again are lost.
func (b *batcher[T]) sendSingly(ctx context.Context, items []T, err error) {
	lost := 0
	for _, item := range items {
		if len(items) > 1 {
			err = b.call(ctx, []T{item})
		}
		if err != nil {
			lost += b.weight(item)
		}
	}
	if lost > 0 {
		b.lost(lost)
		b.log.Error().Err(err).Str("call", b.name).Int("lost", lost).Msg("logic refuses a call for good, dropped it")
	}
}

func (b *batcher[T]) call(ctx context.Context, items []T) error {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	err := b.send(ctx, items)
	if err != nil {
		b.failed()
	}
	return err
}

func (b *batcher[T]) wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// take removes the next batch: at least one item, at most batch by weight.
func (b *batcher[T]) take() []T {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, weight := 0, 0
	for n < len(b.items) {
		w := b.weight(b.items[n])
		if n > 0 && weight+w > b.batch {
			break
		}
		n, weight = n+1, weight+w
	}
	items := b.items[:n:n]
	b.items = b.items[n:]
	b.total -= weight
	if len(b.items) == 0 {
		b.items = nil // let go of what was sent
	}
	return items
}

// putBack queues items that were not taken again, before all others.
func (b *batcher[T]) putBack(items []T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, item := range items {
		b.total += b.weight(item)
	}
	b.items = append(items, b.items...)
	b.trim()
}

// signal wakes the one who waits on c, or who will.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
