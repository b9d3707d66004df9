package comet

import (
	"context"
	"maps"
	"slices"

	"imgo/envelope"
	"imgo/internal/wait"
)

// failingItems has the items of the partitions that fail: logic could not append to them, or not reach their owner. They
// have calls of their own, because a partition that hangs delays the answer to a call. Each of these calls carries one
// item of each failing partition, which is enough to find out which partitions have recovered. The items of those
// go back to the others. The lock of the batcher guards it.
type failingItems[T any] struct {
	partitions int           // how many the kept topic has
	items      map[int32][]T // by failing partition; empty lists stand for partitions that are being tried
	total      int           // weight of items
}

// partition returns the partition of a user.
func (f *failingItems[T]) partition(user string) int32 { return envelope.Partition(user, f.partitions) }

// has reports whether the partition of a user fails.
func (f *failingItems[T]) has(user string) bool {
	if len(f.items) == 0 { // as nearly always
		return false
	}
	_, fails := f.items[f.partition(user)]
	return fails
}

// setAside takes note of the partitions that failed in a call, and keeps the items of the call that are theirs.
func (b *batcher[T]) setAside(items []T, reply *envelope.PartsReply) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := &b.failing
	if f.partitions != int(reply.GetPartitions()) {
		b.releaseAllLocked()
		f.partitions = int(reply.GetPartitions())
	}
	if len(f.items) == 0 {
		f.items = make(map[int32][]T)
		b.comet.log.Warn().Str("call", b.name).Ints32("partitions", reply.GetFailed()).
			Msg("partitions fail, trying them again until they do not")
	}
	for _, p := range reply.GetFailed() {
		if _, known := f.items[p]; !known {
			f.items[p] = nil
		}
	}
	for _, item := range items {
		if f.has(b.user(item)) {
			b.setAsideLocked(item)
		}
	}
	b.fails.Set()
}

// setAsideLocked queues an item of a failing partition.
func (b *batcher[T]) setAsideLocked(item T) {
	f := &b.failing
	p := f.partition(b.user(item))
	f.items[p] = append(f.items[p], item)
	bound := b.comet.cfg.AckQueue
	if f.total += b.weight(item); f.total <= bound {
		return
	}
	var all []T
	for p, items := range f.items {
		all, f.items[p] = append(all, items...), nil
	}
	all, f.total = b.trimmed(all, f.total, bound-bound/8) // so that not each further item costs this
	for _, item := range all {
		p := f.partition(b.user(item))
		f.items[p] = append(f.items[p], item)
	}
}

// runFailing sends the items of failing partitions until trying is done. ctx bounds the calls.
func (b *batcher[T]) runFailing(ctx, trying context.Context) {
	for trying.Err() == nil {
		select {
		case <-b.fails:
		case <-trying.Done():
		}
		pause := wait.Backoff{Min: minCallPause, Max: maxCallPause}
		for trying.Err() == nil && b.tryFailing(ctx) && pause.Sleep(trying) == nil { // until none fails
		}
	}
}

// tryFailing sends the oldest item of each failing partition. It reports whether partitions fail.
func (b *batcher[T]) tryFailing(ctx context.Context) bool {
	items := b.dequeueFailing()
	if len(items) == 0 {
		return false
	}
	reply, err := b.sendOnce(ctx, items)
	b.mu.Lock()
	defer b.mu.Unlock()
	f := &b.failing
	grown := len(reply.GetFailed()) > 0 && int(reply.GetPartitions()) != f.partitions
	again := err != nil || grown // the items are to be sent again
	if grown || refusedForGood(err) {
		b.releaseAllLocked() // the others' calls find out what became of them
	}
	for _, item := range items {
		p := f.partition(b.user(item))
		_, fails := f.items[p]
		switch {
		case fails && (again || slices.Contains(reply.GetFailed(), p)):
			b.setAsideLocked(item)
		case fails:
			b.releaseLocked(p)
		case again || slices.Contains(reply.GetFailed(), p): // the topic has grown, or another call said so
			b.requeueLocked(item)
		}
	}
	if len(f.items) == 0 {
		b.comet.log.Info().Str("call", b.name).Msg("no partition fails any more")
	}
	return len(f.items) > 0
}

// dequeueFailing removes the oldest item of each failing partition. A partition without one, because it was trimmed, does
// not count as failing any more.
func (b *batcher[T]) dequeueFailing() (oldest []T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := &b.failing
	for p, items := range f.items {
		if len(items) == 0 {
			delete(f.items, p)
			continue
		}
		oldest = append(oldest, items[0])
		f.total -= b.weight(items[0])
		f.items[p] = items[1:]
	}
	return oldest
}

// releaseLocked queues the items of a partition that does not fail any more with the others.
func (b *batcher[T]) releaseLocked(p int32) {
	items := b.failing.items[p]
	delete(b.failing.items, p)
	for _, item := range items {
		b.failing.total -= b.weight(item)
	}
	b.requeueLocked(items...)
}

func (b *batcher[T]) releaseAllLocked() {
	for _, p := range slices.Collect(maps.Keys(b.failing.items)) {
		b.releaseLocked(p)
	}
}

// requeueLocked queues items with those whose partitions do not fail.
func (b *batcher[T]) requeueLocked(items ...T) {
	for _, item := range items {
		b.total += b.weight(item)
	}
	b.items = append(b.items, items...)
	b.trimLocked()
	b.some.Set()
}
