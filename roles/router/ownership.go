package router

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"imgo/envelope"
)

// keeper is what the router remembers about who owns what.
type keeper struct {
	// gains counts how often a partition was gained: it is part of the epoch.
	gains []uint64
	// lost is since when a partition that is still here is not owned.
	lost map[int32]time.Time

	mu sync.Mutex
	// busy: a partition of which the one before, or a clean-up, is not done
	// with the store until the channel is closed.
	busy map[int32]<-chan struct{}
	// strange is since when a partition that may be on the disk is not owned.
	strange map[int32]time.Time
}

func newKeeper(partitions int) keeper {
	return keeper{
		gains: make([]uint64, partitions), lost: make(map[int32]time.Time),
		busy: make(map[int32]<-chan struct{}), strange: make(map[int32]time.Time),
	}
}

func notOwned(index int32) error {
	return envelope.Errorf(envelope.CodeUnavailable, "partition %d is not owned by this router", index)
}

// keep follows what is owned until ctx is done. The partitions run in g.
func (r *Router) keep(ctx context.Context, g *errgroup.Group) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for first := true; ctx.Err() == nil; first = false {
		owned, changed := r.owned()
		next := r.adjust(ctx, g, owned)
		if first {
			if err := r.findStrange(); err != nil {
				return err
			}
			g.Go(func() error { return r.cleanLoop(ctx) })
			close(r.ready)
		}
		timer.Reset(next)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return nil
}

// adjust gains and loses partitions until they are those that are owned. It
// says in how long it is to be called again.
func (r *Router) adjust(ctx context.Context, g *errgroup.Group, owned []int32) time.Duration {
	k := &r.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	table := slices.Clone(*r.table.Load())
	next := time.Hour
	for i, p := range table {
		index := int32(i)
		switch own := slices.Contains(owned, index); {
		case own && p == nil:
			k.gains[i]++
			table[i] = newPartition(r, index, k.gains[i], k.busy[index])
			delete(k.strange, index)
			pctx, stop := context.WithCancel(ctx)
			table[i].stop = stop
			g.Go(func() error { return table[i].live(pctx) })
			r.log.Debug().Int32("partition", index).Msg("partition gained")
		case own && !p.owned.Load():
			// Others may have answered for it meanwhile: another epoch.
			k.gains[i]++
			p.gain.Store(k.gains[i])
			p.owned.Store(true)
			delete(k.lost, index)
		case !own && p != nil:
			if p.owned.Swap(false) {
				k.lost[index] = time.Now()
			}
			if left := r.cfg.LoseAfter - time.Since(k.lost[index]); left > 0 {
				next = min(next, left)
				continue
			}
			delete(k.lost, index)
			k.busy[index], k.strange[index] = p.done, r.now()
			table[i] = nil
			p.stop()
			r.log.Info().Int32("partition", index).Msg("partition lost: another router owns it")
		}
	}
	r.table.Store(&table)
	r.share.Store(int64(r.cfg.CacheBytes / max(1, len(r.local()))))
	return next
}

// findStrange notes what is on the disk of partitions that are not owned.
func (r *Router) findStrange() error {
	k := &r.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, p := range *r.table.Load() {
		if p != nil {
			continue
		}
		empty, err := r.store.Empty(int32(i))
		if err != nil {
			return err
		}
		if !empty {
			k.strange[int32(i)] = r.now()
		}
	}
	return nil
}

// cleanLoop deletes what is on the disk of partitions that were not owned for
// CleanAfter.
func (r *Router) cleanLoop(ctx context.Context) error {
	tick := time.NewTicker(max(min(r.cfg.CleanAfter/10, time.Minute), 10*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		k := &r.keeper
		k.mu.Lock()
		strange := slices.Collect(maps.Keys(k.strange))
		k.mu.Unlock()
		for _, index := range strange {
			r.clean(ctx, index)
		}
		r.cleanOlder(ctx)
	}
}

// cleanOlder deletes what is on the disk of earlier generations of the log:
// when there is a router of this one, all of it has moved.
func (r *Router) cleanOlder(ctx context.Context) {
	begin := time.Now()
	dropped, err := r.store.DropOlder(ctx)
	switch {
	case err != nil && ctx.Err() == nil && !errors.Is(err, envelope.ErrClosed):
		r.log.Error().Err(err).Msg("the mailboxes of an earlier generation of the log were not deleted; trying again")
	case dropped:
		r.log.Info().Dur("took", time.Since(begin)).Msg("the mailboxes of an earlier generation of the log were deleted")
	}
}

// clean deletes a partition from the disk if it is time. One that is gained
// meanwhile starts when that is done.
func (r *Router) clean(ctx context.Context, index int32) {
	k := &r.keeper
	k.mu.Lock()
	since, ok := k.strange[index]
	if !ok || r.now().Sub(since) < r.cfg.CleanAfter || !isClosed(k.busy[index]) {
		k.mu.Unlock()
		return
	}
	done := make(chan struct{})
	defer close(done)
	delete(k.strange, index)
	k.busy[index] = done
	k.mu.Unlock()

	begin := time.Now()
	err := r.store.DropPartition(ctx, index)
	switch {
	case err == nil:
		r.log.Info().Int32("partition", index).Dur("took", time.Since(begin)).Msg("the mailboxes of a partition that another router owns were deleted")
	case ctx.Err() == nil:
		r.log.Error().Err(err).Int32("partition", index).Msg("the mailboxes of a partition that another router owns were not deleted; trying again")
	}
	if err != nil && !errors.Is(err, envelope.ErrClosed) {
		k.mu.Lock()
		// A partition that was gained meanwhile is nobody else's.
		if (*r.table.Load())[index] == nil {
			k.strange[index] = since
		}
		k.mu.Unlock()
	}
}

// isClosed says whether a channel is closed; nil counts as closed.
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
