package router

import (
	"context"
	"math/bits"
	"time"

	"imgo/envelope"
)

// nudgesPerEnvelope bounds the sessions that one envelope of the watch names.
const nudgesPerEnvelope = 500

// watch tells comets the newest message that is still pending a while after
// its push, for every session that should have it: whatever was dropped on
// the way (a hung or skipped comet, a dead job, a wrong owner) is found here.
func (r *Router) watch(ctx context.Context, now time.Time) {
	byComet := make(map[string][]*envelope.NudgeTarget)
	for _, p := range r.serving() {
		p.mu.Lock()
		for m := range p.watching {
			if len(m.entries) == 0 || len(m.sessions) == 0 {
				delete(p.watching, m)
				continue
			}
			deadline := now.Add(-r.cfg.WatchAfter).UnixMilli()
			for _, s := range m.sessions {
				d := m.device(s.device)
				if d == nil {
					continue
				}
				newest, ok := m.newest(1<<d.Bit, deadline)
				if !ok || !s.due(newest, now, r.cfg) {
					continue
				}
				byComet[s.comet()] = append(byComet[s.comet()], &envelope.NudgeTarget{To: s.address(), Newest: newest})
			}
		}
		p.mu.Unlock()
	}
	for comet, targets := range byComet {
		for len(targets) > 0 {
			n := min(len(targets), nudgesPerEnvelope)
			r.throw(ctx, comet, &envelope.Envelope{TimeMs: now.UnixMilli(), Nudge: &envelope.Nudge{To: targets[:n]}})
			r.metrics.nudges.Add(float64(n))
			targets = targets[n:]
		}
	}
}

// due says whether a session is to be told of newest now, and notes that it
// was: news at once, the same again at growing intervals.
func (s *session) due(newest uint64, now time.Time, cfg Config) bool {
	if s.nudge == nil {
		s.nudge = &nudged{}
	}
	n := s.nudge
	if newest == n.newest {
		if now.Sub(n.at) < n.backoff {
			return false
		}
		n.backoff = min(2*n.backoff, cfg.WatchMax)
	} else {
		n.newest, n.backoff = newest, 2*cfg.WatchInterval
	}
	n.at = now
	return true
}

// throw puts an envelope on the live topic. A failure is counted and not
// tried again: the next watch finds what is still pending.
func (r *Router) throw(ctx context.Context, key string, e *envelope.Envelope) {
	value, err := e.MarshalVT()
	if err == nil {
		_, err = r.live.Append(ctx, envelope.Partition(key, int(r.live.Partitions())), value)
	}
	if err != nil && ctx.Err() == nil {
		r.metrics.unthrown.Inc()
		r.log.Warn().Err(err).Msg("envelope was not thrown on the live log")
	}
}

// expire drops what is over from the mailboxes in memory; what is only on
// disk expires there.
func (p *partition) expire(now time.Time) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.users {
		n += m.expire(now, p.deviceExpiry())
		p.touch(m, 0)
	}
	return n
}

// seenEvery is how often a device that stays connected is noted as seen.
const seenEvery = 24 * time.Hour

// refresh notes devices that are connected for long as seen, in the log, so
// that every owner knows it.
func (r *Router) refresh(ctx context.Context, now time.Time) {
	limit := now.Add(-seenEvery).UnixMilli()
	for _, p := range r.serving() {
		var stale []*envelope.Device
		p.mu.Lock()
		for _, m := range p.users {
			var told uint64
			for _, s := range m.sessions {
				d := m.device(s.device)
				if d != nil && d.SeenMS < limit && bits.OnesCount64(told&(1<<d.Bit)) == 0 {
					told |= 1 << d.Bit
					stale = append(stale, &envelope.Device{User: m.user, Device: s.device, SeenMs: now.UnixMilli(), Since: d.Since})
				}
			}
		}
		p.mu.Unlock()
		for _, d := range stale {
			if _, err := p.appendDevice(ctx, d); err != nil {
				r.log.Warn().Err(err).Str("user", d.User).Msg("device was not noted as seen; trying again in a minute")
				return
			}
		}
	}
}
