package router

import (
	"cmp"
	"context"
	"time"

	"imgo/envelope"
	"imgo/roles/router/mailbox"
	"imgo/store"
)

// idleRecords is how far the stored position may lag while nothing else is to
// be written. After a restart it is quicker to apply records again than it is
// to pay a synced commit for each flush.
const idleRecords = 10_000

// writeBehind writes a partition's changes to the store, some time after they
// were made. Most messages are acknowledged by then and never touch the disk.
type writeBehind struct {
	p *partition
	// slot makes one flush at a time: it has room for one. It is a channel because a flush may wait.
	// It is taken before the partition's mu, which guards the rest.
	slot  chan struct{}
	dirty map[*account]struct{}
	// whole is set if the next flush writes everything. A record that removes something must
	// not be applied again over what later records did, so the stored position may not
	// be before it.
	whole bool
	// bytes is about how much the next flush writes. Changes that are being written count
	// until the store has them.
	bytes int
	// failing is since when flushes fail. It is zero if the last one did not.
	failing time.Time
	// seenNext is the position as the last flush saw it: what is before it has had an
	// interval to be acknowledged, and may be written. storedNext is the position that
	// the store has.
	seenNext, storedNext int64
}

// addLocked notes that an account has changed, by about size bytes.
func (w *writeBehind) addLocked(a *account, size int) {
	w.dirty[a] = struct{}{}
	w.oweLocked(size)
}

func (w *writeBehind) hasLocked(a *account) bool {
	_, ok := w.dirty[a]
	return ok
}

// oweLocked notes that so many bytes more are to be written.
func (w *writeBehind) oweLocked(bytes int) {
	w.bytes += bytes
	w.p.unflushed.Add(int64(bytes))
}

// unreadyAfter is how long flushes may fail until the router says that it is not
// ready. Accepted pushes are in the log all the same.
const unreadyAfter = 30 * time.Second

// errLocked returns an error if the store has taken nothing for too long.
func (w *writeBehind) errLocked() error {
	if w.failing.IsZero() || w.p.now().Sub(w.failing) < unreadyAfter {
		return nil
	}
	return envelope.Errorf(envelope.CodeUnavailable, "mailboxes cannot be written since %s", w.failing.UTC().Format(time.RFC3339))
}

// dropLocked forgets what is to be written.
func (w *writeBehind) dropLocked() {
	w.dirty = nil
	w.oweLocked(-w.bytes)
}

// full reports whether more than FlushBytes are to be written, and whether the
// last flush failed.
func (w *writeBehind) full() (full, failing bool) {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	return w.bytes > w.p.cfg.FlushBytes, !w.failing.IsZero()
}

// taken is what a flush takes from one account. It stays in memory until the
// store has it.
type taken struct {
	a       *account
	changes mailbox.Changes
}

// flush writes what has changed. Messages that came after the flush before are
// left for the next one, and the position stays before them, unless everything
// is asked for.
//
// The effect of a record is written with the entries that it changed, though the
// position may still be before that record. After a restart it is applied again
// and changes nothing (see package mailbox).
func (w *writeBehind) flush(everything bool) error {
	w.slot <- struct{}{}
	defer func() { <-w.slot }()
	p := w.p

	p.mu.Lock()
	release := func() {}
	if w.dueLocked(everything) && p.events.unsentLocked() && !p.cfg.Faults.FlushBeforeEvents {
		p.mu.Unlock()
		var err error
		if release, err = p.events.pauseWhenSent(everything); release == nil {
			return err
		}
		p.mu.Lock()
	}
	if !w.dueLocked(everything) {
		p.mu.Unlock()
		release()
		return nil
	}
	upTo, ok := w.upToLocked(everything)
	if !ok {
		p.accounts.evictLocked()
		p.mu.Unlock()
		release()
		return nil
	}
	position := envelope.ID(p.position.generation, upTo-1)
	b := p.store.Batch(p.index)
	now, owed := p.now(), w.bytes
	batch, due := w.collectLocked(b, position, now)
	claims := p.claims.collect()
	p.rebuild.claimsStored = p.rebuild.claimsStored || len(claims) > 0
	p.mu.Unlock()
	release()

	for key, c := range claims {
		b.Claim(key, c, now.Add(p.cfg.IdempotencyTTL))
	}
	err := b.Commit(position)

	p.mu.Lock()
	defer p.mu.Unlock()
	p.claims.written(err)
	if err != nil {
		for i := range batch {
			batch[i].a.Undo(&batch[i].changes)
			w.dirty[batch[i].a] = struct{}{}
		}
		w.whole = true
		if w.failing.IsZero() {
			w.failing = now
		}
		return err
	}
	w.oweLocked(-owed)
	w.failing = time.Time{}
	w.storedNext = upTo
	p.dues.storedLocked(due)
	for i := range batch {
		w.writtenLocked(&batch[i])
	}
	p.cache.trim()
	p.accounts.evictLocked()
	return nil
}

// dueLocked reports whether it is time for a flush. It is not while the log is
// read back: most of that was acknowledged later in the log.
func (w *writeBehind) dueLocked(everything bool) bool {
	p := w.p
	if p.accounts.byUser == nil {
		return false // what it had was written, or is read from the log again
	}
	return everything || p.gone || p.isUp() || w.bytes > p.cfg.FlushBytes
}

// upToLocked returns the position up to which a flush writes. ok is false if
// there is too little to write. Usually that is seenNext, the position at the flush
// before: newer messages get an interval more to be acknowledged. It is the present
// position if everything is asked for, if whole is set, or if too much waits. It is
// compared with storedNext, so that a flush that would only move the stored position a
// little is left out.
func (w *writeBehind) upToLocked(everything bool) (upTo int64, ok bool) {
	p := w.p
	upTo = w.seenNext
	if everything || w.whole || w.bytes > p.cfg.FlushBytes {
		upTo = p.position.next
	}
	w.whole = false
	if p.position.fenced() {
		upTo = min(upTo, p.position.fence)
	}
	w.seenNext = p.position.next
	clean := len(w.dirty) == 0 && len(p.claims.pending) == 0
	if upTo == 0 || clean && (upTo == w.storedNext || !everything && upTo-w.storedNext < idleRecords) {
		return 0, false
	}
	return upTo, true
}

// collectLocked puts the changes up to the position into the batch. due is the earliest time of a step among them, or noDue.
func (w *writeBehind) collectLocked(b *store.MailboxBatch, position uint64, now time.Time) (out []taken, due int64) {
	out, due = make([]taken, 0, len(w.dirty)), noDue
	later := make(map[*account]struct{})
	shared := make(map[uint64]bool)
	for a := range w.dirty {
		c, more := a.CollectChanges(position)
		if more {
			later[a] = struct{}{}
		}
		for _, e := range c.Entries {
			b.PutEntry(a.User(), &e.MailboxEntry)
		}
		for _, e := range c.Fresh {
			if e.Reports() {
				b.PutDue(a.User(), &e.MailboxEntry)
				due = min(due, e.ExpiresMS, cmp.Or(e.Tracked.DeadlineMS, e.ExpiresMS))
			}
			if !e.Shared || !shared[e.ID] {
				b.PutBody(a.User(), &e.MailboxEntry, store.MailboxBody{Op: e.Message.Op, Body: e.Message.Body})
				shared[e.ID] = e.Shared
			}
		}
		for _, e := range c.Gone {
			b.Delete(a.User(), &e.MailboxEntry)
		}
		for key, id := range c.Used {
			b.Use(a.User(), key, id, now.Add(w.p.cfg.IdempotencyTTL))
		}
		if c.Erased > 0 {
			b.EraseKeys(a.User(), c.Erased)
		}
		if c.Told {
			b.PutOnline(a.User(), a.Presence().Online())
		}
		switch {
		case !c.Meta:
		case a.Blank():
			b.DeleteMeta(a.User())
		default:
			meta := a.Meta()
			b.PutMeta(a.User(), &meta, a.MetaExpiry(now.Add(w.p.cfg.DeviceExpiry)))
		}
		out = append(out, taken{a, c})
	}
	w.dirty = later
	return out, due
}

// writtenLocked drops from memory what the store has now, but for bodies of
// messages that still wait: their client may be back in a moment.
func (w *writeBehind) writtenLocked(t *taken) {
	t.a.Written(&t.changes, func(e *mailbox.Entry, message *envelope.Kept) { w.p.cache.add(t.a, e, message) })
	w.p.cache.use(t.a)
}

// backpressureFactor is how many times FlushBytes may wait to be written, of
// all partitions, before a goroutine that applies records has to write first.
const backpressureFactor = 16

// backpressure bounds what waits to be written when the flushes do not keep up.
func (w *writeBehind) backpressure() error {
	p := w.p
	if p.unflushed.Load() < backpressureFactor*int64(p.cfg.FlushBytes) {
		return nil
	}
	if full, _ := w.full(); !full {
		return nil
	}
	return w.flush(true)
}

// flushLoop flushes all partitions at intervals, and those that are full when
// one asks for it.
func (r *Router) flushLoop(ctx context.Context) error {
	tick := time.NewTicker(r.cfg.FlushInterval)
	defer tick.Stop()
	for {
		urgent := false
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-r.flushNow:
			urgent = true
		}
		for _, p := range r.parts.local() {
			// A store that refuses is asked again at the next tick, not for each record.
			if full, failing := p.writes.full(); urgent && (!full || failing) {
				continue
			}
			begin := time.Now()
			err := p.writes.flush(false)
			r.metrics.flush.Observe(time.Since(begin).Seconds())
			if err != nil {
				r.log.Error().Err(err).Int32("partition", p.index).Msg("mailboxes were not written; trying again")
			}
		}
	}
}
