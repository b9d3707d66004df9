package router

import (
	"context"
	"maps"
	"time"

	"imgo/envelope"
	"imgo/store"
)

// flushSoon asks for a flush before the interval is over.
func (r *Router) flushSoon() {
	select {
	case r.flushNow <- struct{}{}:
	default:
	}
}

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
		for _, p := range r.local() {
			if urgent && !p.full() {
				continue
			}
			begin := time.Now()
			err := p.flush(false)
			r.metrics.flush.Observe(time.Since(begin).Seconds())
			if err != nil {
				r.log.Error().Err(err).Int32("partition", p.index).Msg("mailboxes were not written; trying again")
			}
		}
	}
}

// full says whether more than FlushBytes wait to be written.
func (p *partition) full() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dirtyBytes > p.r.cfg.FlushBytes
}

// owe notes that so many bytes more wait to be written. The caller holds mu.
func (p *partition) owe(bytes int) {
	p.dirtyBytes += bytes
	p.r.unflushed.Add(int64(bytes))
}

// idleRecords is how far the stored position may lag while nothing else is to
// be written: applying them again after a restart is quicker than a synced
// commit for each flush.
const idleRecords = 10_000

// flush writes behind what changed. Messages that came after the flush before
// are left for the next one unless everything is asked for, and the position
// stays before them: most of them are acknowledged by then and never touch
// the disk. What a record did is written at once with the entries that it
// changed, though the position may still be before that record: it is applied
// again after a restart and changes nothing (see mailbox).
func (p *partition) flush(everything bool) error {
	p.flushMu.Lock()
	defer p.flushMu.Unlock()

	p.mu.Lock()
	if p.users == nil {
		// Gone, and what it had was written, or is read from the log again.
		p.mu.Unlock()
		return nil
	}
	if !everything && !p.gone && !p.isUp() && p.dirtyBytes <= p.r.cfg.FlushBytes {
		// Most of what the log is read back for was acknowledged later in it.
		p.mu.Unlock()
		return nil
	}
	upTo := p.seenNext
	if everything || p.dirtyBytes > p.r.cfg.FlushBytes {
		upTo = p.next
	}
	if p.fenced() {
		upTo = min(upTo, p.fence)
	}
	p.seenNext = p.next
	clean := len(p.dirty) == 0 && len(p.claims) == 0
	if upTo == 0 || upTo == p.storedNext && clean || clean && !everything && upTo-p.storedNext < idleRecords {
		p.evict()
		p.mu.Unlock()
		return nil
	}
	position := envelope.ID(p.r.kept.Generation(), upTo-1)
	b := p.r.store.Batch(p.index)
	now := p.r.now()
	written, rest := p.gather(b, position, now)
	claims := p.claims
	p.claims = make(map[string]store.MailboxClaim)
	p.rebuild.claims = p.rebuild.claims || len(claims) > 0
	p.flushing = claims
	p.dirty = rest
	p.owe(-p.dirtyBytes)
	p.mu.Unlock()

	for key, c := range claims {
		b.Claim(key, c, now.Add(p.r.cfg.IdempotencyTTL))
	}
	err := b.Commit(position)

	p.mu.Lock()
	defer p.mu.Unlock()
	p.flushing = nil
	if err != nil {
		for _, w := range written {
			w.undo()
			p.dirty[w.m] = struct{}{}
		}
		for key, c := range claims {
			p.claims[key] = c
		}
		return err
	}
	p.storedNext = upTo
	for _, w := range written {
		p.written(&w)
	}
	p.trim()
	p.evict()
	return nil
}

// written is what a flush took from one mailbox, to be kept in memory until
// the store has it.
type written struct {
	m       *mailbox
	fresh   []*entry // bodies that the store has after the flush
	changed []*entry
	gone    []*entry
	used    map[string]uint64
	meta    bool
}

// gather puts the changes up to the position into the batch; rest are the
// mailboxes that stay dirty. The caller holds mu.
func (p *partition) gather(b *store.MailboxBatch, position uint64, now time.Time) (out []written, rest map[*mailbox]struct{}) {
	rest = make(map[*mailbox]struct{})
	shared := make(map[uint64]bool)
	for m := range p.dirty {
		// A copy: keys that are used while this is written are for the next flush.
		w := written{m: m, gone: m.gone, used: maps.Clone(m.used), meta: m.metaChanged}
		later := false
		for _, e := range m.entries {
			switch {
			case !e.changed:
				continue
			case !e.stored && e.ID > position:
				later = true
				continue
			}
			b.PutEntry(m.user, &e.MailboxEntry)
			if !e.stored {
				if !e.Shared || !shared[e.ID] {
					b.PutBody(m.user, &e.MailboxEntry, store.MailboxBody{Op: e.message.Op, Body: e.message.Body})
					shared[e.ID] = e.Shared
				}
				w.fresh = append(w.fresh, e)
				w.meta = true
				e.stored = true
			}
			e.changed = false
			w.changed = append(w.changed, e)
		}
		for _, e := range m.gone {
			b.Delete(m.user, &e.MailboxEntry)
		}
		if len(m.used) > 0 {
			m.keyless = false
		}
		for key, id := range m.used {
			b.Use(m.user, key, id, now.Add(p.r.cfg.IdempotencyTTL))
		}
		if w.meta {
			b.PutMeta(m.user, &m.meta, m.lasts(now.Add(p.r.cfg.DeviceExpiry)).Add(24*time.Hour))
		}
		m.gone, m.metaChanged, m.dirty = nil, false, later
		if later {
			rest[m] = struct{}{}
		}
		out = append(out, w)
	}
	return out, rest
}

// lasts is when the last of the mailbox's messages expires, at least until.
func (m *mailbox) lasts(until time.Time) time.Time {
	for _, e := range m.entries {
		if t := time.UnixMilli(e.ExpiresMS); t.After(until) {
			until = t
		}
	}
	return until
}

// written lets go of what the store has now, but for bodies of messages that
// still wait: the client that they wait for may be back in a moment. The caller
// holds mu.
func (p *partition) written(w *written) {
	caches := p.r.cfg.CacheBytes > 0
	for _, e := range w.fresh {
		message := e.message
		e.message = nil
		if caches && w.m.find(e.ID) == e {
			p.hold(w.m, e, message)
		}
	}
	p.cache.use(w.m)
	for key := range w.used {
		delete(w.m.used, key)
	}
}

// undo marks everything as not written.
func (w *written) undo() {
	for _, e := range w.fresh {
		e.stored = false
	}
	for _, e := range w.changed {
		e.changed = true
	}
	w.m.gone = append(w.gone, w.m.gone...)
	w.m.metaChanged = w.m.metaChanged || w.meta
	w.m.dirty = true
}

// evict lets go of mailboxes that nobody uses. The caller holds mu.
func (p *partition) evict() {
	over := len(p.users) - p.online - p.r.cfg.IdleMailboxes
	if over <= 0 || !p.isUp() && len(p.users) < rebuildUsers && p.rebuild.pushed < rebuildPushes {
		return
	}
	p.rebuild.pushed = 0
	for user, m := range p.users {
		if over <= 0 {
			return
		}
		if _, dirty := p.dirty[m]; dirty || len(m.sessions) > 0 || m.dirty || len(m.used) > 0 {
			continue
		}
		p.release(m)
		delete(p.users, user)
		delete(p.watching, m)
		if p.rebuild.blank {
			p.rebuild.stored[user] = struct{}{}
		}
		over--
	}
}
