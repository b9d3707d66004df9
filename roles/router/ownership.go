package router

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"imgo/envelope"
	"imgo/internal/wait"
)

// ownership has the partitions that are here, and makes them those that are
// owned. It is safe for concurrent use.
type ownership struct {
	*resources
	owned func() ([]int32, <-chan struct{})
	table atomic.Pointer[[]*partition]
	// ready is closed once it is known which partitions are owned.
	ready chan struct{}

	// gains counts how often each partition was gained. lost is since when a
	// partition that is still here is not owned. Only run uses them.
	gains []uint64
	lost  map[int32]time.Time

	mu sync.Mutex
	// busy has a channel for a partition whose predecessor, or deletion, may
	// still use the store. It is closed when that is over.
	busy map[int32]<-chan struct{}
	// leftover is since when a partition that may be in the store is not owned.
	leftover map[int32]time.Time
}

func newOwnership(res *resources, owned func() ([]int32, <-chan struct{})) *ownership {
	n := res.kept.Partitions()
	if owned == nil {
		all := make([]int32, n)
		for i := range all {
			all[i] = int32(i)
		}
		owned = func() ([]int32, <-chan struct{}) { return all, nil }
	}
	o := &ownership{
		resources: res, owned: owned, ready: make(chan struct{}), gains: make([]uint64, n),
		lost: make(map[int32]time.Time), busy: make(map[int32]<-chan struct{}), leftover: make(map[int32]time.Time),
	}
	none := make([]*partition, n)
	o.table.Store(&none)
	return o
}

func notOwned(index int32) error {
	return envelope.Errorf(envelope.CodeUnavailable, "partition %d is not owned by this router", index)
}

// at returns a partition that is owned here, once it has caught up with the
// log.
func (o *ownership) at(ctx context.Context, index int32) (*partition, error) {
	if err := o.waitReady(ctx); err != nil {
		return nil, err
	}
	p := (*o.table.Load())[index]
	if p == nil {
		return nil, notOwned(index)
	}
	if p.isUp() {
		return p, nil
	}
	select {
	case <-p.up:
		return p, nil
	case <-p.left:
		return nil, notOwned(index)
	case <-ctx.Done():
		return nil, envelope.Errorf(envelope.CodeNotReady, "router reads the log back, %s: %v", p.progress(), ctx.Err())
	}
}

// of returns the partition of a user: see at.
func (o *ownership) of(ctx context.Context, user string) (*partition, error) {
	return o.at(ctx, o.index(user))
}

func (o *ownership) index(user string) int32 { return envelope.Partition(user, len(*o.table.Load())) }

// peek returns the partition of a user if it is here, or nil. It does not wait.
func (o *ownership) peek(user string) *partition { return (*o.table.Load())[o.index(user)] }

// local returns the partitions that are here: owned, or lost a moment ago.
func (o *ownership) local() []*partition {
	var list []*partition
	for _, p := range *o.table.Load() {
		if p != nil {
			list = append(list, p)
		}
	}
	return list
}

// serving returns the partitions that are owned and have caught up.
func (o *ownership) serving() []*partition {
	return slices.DeleteFunc(o.local(), func(p *partition) bool { return !p.owned.Load() || !p.isUp() })
}

// waitReady waits until it is known which partitions are owned.
func (o *ownership) waitReady(ctx context.Context) error {
	if isClosed(o.ready) {
		return nil
	}
	select {
	case <-o.ready:
		return nil
	case <-ctx.Done():
		return envelope.Errorf(envelope.CodeUnavailable, "router is still starting: %v", ctx.Err())
	}
}

// run follows what is owned until ctx is done. The partitions run in g.
func (o *ownership) run(ctx context.Context, g *errgroup.Group) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for first := true; ctx.Err() == nil; first = false {
		owned, changed := o.owned()
		next := o.adjust(ctx, g, owned)
		if first {
			if err := o.findLeftovers(); err != nil {
				return err
			}
			g.Go(func() error { return o.cleanLoop(ctx) })
			close(o.ready)
		}
		timer.Reset(next)
		select {
		case <-changed:
		case <-o.ended:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return nil
}

// adjust gains and loses partitions until they are those that are owned. It
// returns in how long it is to be called again.
func (o *ownership) adjust(ctx context.Context, g *errgroup.Group, owned []int32) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	table := slices.Clone(*o.table.Load())
	next := time.Hour
	for i, p := range table {
		index := int32(i)
		switch own := slices.Contains(owned, index); {
		case own && (p == nil || isClosed(p.left)):
			if p != nil { // see partition.run
				o.busy[index] = p.done
				p.stop()
			}
			o.gains[i]++
			p := newPartition(o.resources, index, o.gains[i], o.busy[index])
			delete(o.leftover, index)
			delete(o.lost, index)
			pctx, stop := context.WithCancel(ctx)
			p.stop = stop
			table[i] = p
			g.Go(func() error { return p.run(pctx) })
			o.log.Debug().Int32("partition", index).Msg("partition gained")
		case own && !p.owned.Load():
			o.gains[i]++
			p.regain(o.gains[i])
			delete(o.lost, index)
		case !own && p != nil:
			if p.owned.Swap(false) {
				o.lost[index] = time.Now()
			}
			if left := o.cfg.LoseAfter - time.Since(o.lost[index]); left > 0 {
				next = min(next, left)
				continue
			}
			delete(o.lost, index)
			o.busy[index], o.leftover[index] = p.done, o.now()
			table[i] = nil
			p.stop()
			o.log.Info().Int32("partition", index).Msg("partition lost: another router owns it")
		}
	}
	o.table.Store(&table)
	o.cacheShare.Store(int64(o.cfg.CacheBytes / max(1, len(o.local()))))
	return next
}

// findLeftovers notes which partitions are in the store and not owned.
func (o *ownership) findLeftovers() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, p := range *o.table.Load() {
		if p != nil {
			continue
		}
		empty, err := o.store.Empty(int32(i))
		if err != nil {
			return err
		}
		if !empty {
			o.leftover[int32(i)] = o.now()
		}
	}
	return nil
}

// cleanLoop deletes from the store the partitions that were not owned for
// CleanAfter.
func (o *ownership) cleanLoop(ctx context.Context) error {
	wait.Every(ctx, max(min(o.cfg.CleanAfter/10, time.Minute), 10*time.Millisecond), func() {
		o.mu.Lock()
		leftover := slices.Collect(maps.Keys(o.leftover))
		o.mu.Unlock()
		for _, index := range leftover {
			o.clean(ctx, index)
		}
		o.cleanEarlier(ctx)
	})
	return nil
}

// cleanEarlier deletes from the store what earlier generations of the log had.
// When there is a router of this one, all of it has moved.
func (o *ownership) cleanEarlier(ctx context.Context) {
	begin := time.Now()
	dropped, err := o.store.DropOlder(ctx)
	switch {
	case err != nil && ctx.Err() == nil && !errors.Is(err, envelope.ErrClosed):
		o.log.Error().Err(err).Msg("the mailboxes of an earlier generation of the log were not deleted; trying again")
	case dropped:
		o.log.Info().Dur("took", time.Since(begin)).Msg("the mailboxes of an earlier generation of the log were deleted")
	}
}

// clean deletes a partition from the store if it is time. One that is gained
// meanwhile starts when that is done.
func (o *ownership) clean(ctx context.Context, index int32) {
	o.mu.Lock()
	since, ok := o.leftover[index]
	if !ok || o.now().Sub(since) < o.cfg.CleanAfter || !isClosed(o.busy[index]) {
		o.mu.Unlock()
		return
	}
	done := make(chan struct{})
	defer close(done)
	delete(o.leftover, index)
	o.busy[index] = done
	o.mu.Unlock()

	begin := time.Now()
	err := o.store.DropPartition(ctx, index)
	switch {
	case err == nil:
		o.log.Info().Int32("partition", index).Dur("took", time.Since(begin)).
			Msg("the mailboxes of a partition that another router owns were deleted")
	case ctx.Err() == nil:
		o.log.Error().Err(err).Int32("partition", index).
			Msg("the mailboxes of a partition that another router owns were not deleted; trying again")
	}
	if err != nil && !errors.Is(err, envelope.ErrClosed) {
		o.mu.Lock()
		// A partition that was gained meanwhile is not another router's.
		if (*o.table.Load())[index] == nil {
			o.leftover[index] = since
		}
		o.mu.Unlock()
	}
}

// isClosed reports whether a channel is closed; nil counts as closed.
func isClosed(ch <-chan struct{}) bool {
	if ch == nil {
		return true
	}
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
