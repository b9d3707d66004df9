package comet

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"imgo/envelope"
	"imgo/internal/wait"
)

// Pauses between tries of a call that failed.
const (
	minCallPause = 50 * time.Millisecond
	maxCallPause = 2 * time.Second
)

// batcher gathers items and sends them to logic in one call, in order. It repeats
// a call until it succeeds. Items of a partition that fails are set aside, so that they
// do not delay the others (see failingItems). The queue is bounded: over the bound the oldest items
// are dropped and counted, of those users that have more than their share. Safe for
// concurrent use.
type batcher[T any] struct {
	comet  *Comet
	name   string // of the call, for the log and the metrics
	weight func(T) int
	user   func(T) string
	shares bool // each user has a share of the queue
	send   func(context.Context, []T) (*envelope.PartsReply, error)

	mu      sync.Mutex
	items   []T
	total   int // weight of items
	failing failingItems[T]

	some  wait.Signal // something is queued
	hurry wait.Signal // do not gather any longer
	fails wait.Signal // a partition fails
}

func newBatcher[T any](
	c *Comet, name string, weight func(T) int, user func(T) string, send func(context.Context, []T) (*envelope.PartsReply, error),
) *batcher[T] {
	return &batcher[T]{
		comet: c, name: name, weight: weight, user: user, send: send,
		some: wait.NewSignal(), hurry: wait.NewSignal(), fails: wait.NewSignal(),
	}
}

// add queues an item. It never blocks.
func (b *batcher[T]) add(item T) {
	b.mu.Lock()
	if b.failing.has(b.user(item)) {
		b.setAsideLocked(item)
		b.mu.Unlock()
		return
	}
	b.items = append(b.items, item)
	b.total += b.weight(item)
	b.trimLocked()
	full := b.total >= b.comet.cfg.AckBatch
	b.mu.Unlock()
	b.some.Set()
	if full {
		b.hurry.Set()
	}
}

// flush makes the batcher send what is queued without waiting for the interval.
func (b *batcher[T]) flush() { b.hurry.Set() }

// queued returns the weight of the queue.
func (b *batcher[T]) queued() float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return float64(b.total + b.failing.total)
}

// trimLocked drops the oldest items that are over the bound.
func (b *batcher[T]) trimLocked() {
	if bound := b.comet.cfg.AckQueue; b.total > bound {
		b.items, b.total = b.trimmed(b.items, b.total, bound)
	}
}

// trimmed returns what is left of items, which have a weight over the bound, without the oldest that are over most.
func (b *batcher[T]) trimmed(items []T, weight, most int) (left []T, leftWeight int) {
	before := weight
	if b.shares {
		items, weight = b.trimmedToShares(items, weight)
	}
	for weight > most && len(items) > 1 {
		weight -= b.weight(items[0])
		items = items[1:]
	}
	b.countLost(before - weight)
	return items, weight
}

// trimmedToShares makes room for an eighth of the bound: it drops the oldest items of
// each user that has more than the others. If there is not space for one item of each user,
// it drops the oldest of all.
func (b *batcher[T]) trimmedToShares(items []T, weight int) (left []T, leftWeight int) {
	weights := make(map[string]int)
	for _, item := range items {
		weights[b.user(item)] += b.weight(item)
	}
	room := b.comet.cfg.AckQueue - b.comet.cfg.AckQueue/8
	share := fairShare(slices.Collect(maps.Values(weights)), room)
	items = slices.DeleteFunc(items, func(item T) bool {
		user, w := b.user(item), b.weight(item)
		if weight <= room || weights[user] <= share {
			return false
		}
		weights[user] -= w
		weight -= w
		return true
	})
	return items, weight
}

// countLost counts a weight that is dropped.
func (b *batcher[T]) countLost(n int) {
	if n > 0 {
		b.comet.metrics.lost.WithLabelValues(b.name).Add(float64(n))
	}
}

// fairShare returns the most that each user may have of a room, so that all together
// fit. A user with less than that loses nothing.
func fairShare(weights []int, room int) int {
	slices.Sort(weights)
	for i, w := range weights {
		if left := len(weights) - i; w > room/left {
			return room / left
		}
		room -= w
	}
	return math.MaxInt
}

// run sends until stop is closed, and then what is left. It returns at the latest
// when ctx is done, which bounds the calls too. Acknowledgements that are left then are counted as lost.
func (b *batcher[T]) run(ctx context.Context, stop <-chan struct{}) {
	trying, stopTrying := context.WithCancel(ctx)
	defer stopTrying()
	tried := make(chan struct{})
	go func() {
		defer close(tried)
		b.runFailing(ctx, trying)
	}()
	for stopped := false; !stopped; {
		select {
		case <-b.some:
			stopped = !b.gather(stop)
		case <-stop:
			stopped = true
		}
		b.sendAll(ctx)
	}
	stopTrying()
	<-tried
	// A partition may fail again while its items are sent. So both are done in turn from here on.
	pause := wait.Backoff{Min: minCallPause, Max: maxCallPause}
	for b.sendAll(ctx); b.queued() > 0 && pause.Sleep(ctx) == nil; b.sendAll(ctx) {
		b.tryFailing(ctx)
	}
	b.giveUp()
}

// giveUp drops and counts what is queued.
func (b *batcher[T]) giveUp() {
	b.mu.Lock()
	lost := b.total + b.failing.total
	b.items, b.total, b.failing = nil, 0, failingItems[T]{}
	b.mu.Unlock()
	b.countLost(lost)
	if lost > 0 {
		b.comet.log.Error().Str("call", b.name).Int("lost", lost).Msg("logic did not take all before the stop, dropped the rest")
	}
}

// gather waits for the interval, or less for a full batch or a flush. It returns
// false if stop is closed.
func (b *batcher[T]) gather(stop <-chan struct{}) bool {
	timer := time.NewTimer(b.comet.cfg.AckInterval)
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
	pause := wait.Backoff{Min: minCallPause, Max: maxCallPause}
	failing := false
	for ctx.Err() == nil {
		items := b.dequeue()
		if len(items) == 0 {
			return
		}
		err := b.call(ctx, items)
		if refusedForGood(err) {
			items, err = b.sendSingly(ctx, items, err)
		}
		if err == nil {
			if failing {
				b.comet.log.Info().Str("call", b.name).Msg("logic takes calls again")
			}
			failing = false
			pause.Reset()
			continue
		}
		if !failing {
			b.comet.log.Warn().Err(err).Str("call", b.name).Msg("logic does not take a call, trying again until it does")
		}
		failing = true
		b.putBack(items)
		_ = pause.Sleep(ctx) // the loop ends when ctx is done
	}
}

// refusedForGood reports whether logic refused a call, so that no other try would change that.
func refusedForGood(err error) bool {
	return errors.Is(err, envelope.ErrInvalid) || errors.Is(err, envelope.ErrTooLarge)
}

// sendSingly sends each item of a batch that logic refused for good with err. In this way what one client sent does not
// cost the other clients in the batch. It drops the items that are refused again. It returns the items that are still to
// be sent, and why, if a call fails.
func (b *batcher[T]) sendSingly(ctx context.Context, items []T, err error) (rest []T, failure error) {
	lost, single := 0, len(items) == 1 // a single item was refused already
	var refusal error
	for len(items) > 0 {
		if !single {
			err = b.call(ctx, items[:1])
		}
		if err != nil && !refusedForGood(err) {
			failure = err
			break
		}
		if err != nil {
			lost += b.weight(items[0])
			refusal = cmp.Or(refusal, err)
		}
		items = items[1:]
	}
	if lost > 0 {
		b.countLost(lost)
		b.comet.log.Error().Err(refusal).Str("call", b.name).Int("lost", lost).Msg("logic refuses a call for good, dropped it")
	}
	return items, failure
}

// call sends items. It sets those aside whose partition fails.
func (b *batcher[T]) call(ctx context.Context, items []T) error {
	reply, err := b.sendOnce(ctx, items)
	if err == nil && len(reply.GetFailed()) > 0 {
		b.setAside(items, reply)
	}
	return err
}

func (b *batcher[T]) sendOnce(ctx context.Context, items []T) (*envelope.PartsReply, error) {
	ctx, cancel := context.WithTimeout(ctx, b.comet.cfg.CallTimeout)
	defer cancel()
	reply, err := b.send(ctx, items)
	if err != nil || len(reply.GetFailed()) > 0 {
		b.comet.metrics.callErrors.WithLabelValues(b.name).Inc()
	}
	return reply, err
}

// dequeue removes the next batch: at least one item, and at most the weight of a full
// batch.
func (b *batcher[T]) dequeue() []T {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, weight := 0, 0
	for n < len(b.items) {
		w := b.weight(b.items[n])
		if n > 0 && weight+w > b.comet.cfg.AckBatch {
			break
		}
		n, weight = n+1, weight+w
	}
	items := b.items[:n:n]
	b.items = b.items[n:]
	b.total -= weight
	if len(b.items) == 0 {
		b.items = nil // free what was sent
	}
	return items
}

// putBack queues items before all others, after a call that failed.
func (b *batcher[T]) putBack(items []T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, item := range items {
		b.total += b.weight(item)
	}
	b.items = append(items, b.items...)
	b.trimLocked()
}
