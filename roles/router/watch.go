package router

import (
	"context"
	"time"

	"imgo/envelope"
	"imgo/internal/wait"
)

// nudgesPerEnvelope bounds the sessions that one envelope of the watch names.
const nudgesPerEnvelope = 500

// watchLoop tells comets what their sessions may have missed, until ctx is done. It waits for the live log.
func (r *Router) watchLoop(ctx context.Context) error {
	if r.cfg.Faults.NoWatch {
		return nil
	}
	wait.Every(ctx, r.cfg.WatchInterval, func() {
		r.watch(ctx, r.now())
		r.notifyRooms(ctx, r.now())
	})
	return nil
}

// watch tells comets the newest message that is still pending a while after
// its push, for every session that should have it. Whatever was dropped on the
// way is found here: by a hung or skipped comet, a dead job, a wrong owner.
func (r *Router) watch(ctx context.Context, now time.Time) {
	byComet := make(map[string][]*envelope.NudgeTarget)
	for _, p := range r.parts.serving() {
		p.overdue(now, byComet)
	}
	for comet, targets := range byComet {
		for len(targets) > 0 {
			n := min(len(targets), nudgesPerEnvelope)
			r.publish(ctx, comet, &envelope.Envelope{TimeMs: now.UnixMilli(), Nudge: &envelope.Nudge{To: targets[:n]}})
			r.metrics.nudges.Add(float64(n))
			targets = targets[n:]
		}
	}
}

// overdue adds the partition's sessions that are to be told something to
// byComet, and notes that they were told.
func (p *partition) overdue(now time.Time, byComet map[string][]*envelope.NudgeTarget) {
	deadline := p.clock.At(now).Add(-p.cfg.WatchAfter).UnixMilli()
	p.mu.Lock()
	defer p.mu.Unlock()
	for a := range p.accounts.watched {
		if len(a.Messages.All()) == 0 || len(a.sessions) == 0 {
			delete(p.accounts.watched, a)
			continue
		}
		for _, s := range a.sessions {
			newest, ok := a.Messages.Newest(a.Devices().Mask(s.device), deadline)
			if ok && s.remind(newest, now, &p.cfg) {
				comet := s.kind.comet
				byComet[comet] = append(byComet[comet], &envelope.NudgeTarget{To: s.address().Address(), Newest: newest})
			}
		}
	}
}

// remind reports whether a session is to be told of newest now, and notes that
// it was: at once if it is new, the same again at growing intervals.
func (s *session) remind(newest uint64, now time.Time, cfg *Config) bool {
	if s.reminder == nil {
		s.reminder = &reminder{}
	}
	r := s.reminder
	if newest == r.newest {
		if now.Sub(r.at) < r.pause {
			return false
		}
		r.pause = min(2*r.pause, cfg.WatchMax)
	} else {
		r.newest, r.pause = newest, 2*cfg.WatchInterval
	}
	r.at = now
	return true
}

// publish puts an envelope on the live log. A failure is counted and not tried
// again: the next watch finds what is still pending.
func (r *Router) publish(ctx context.Context, key string, e *envelope.Envelope) {
	value, err := e.MarshalVT()
	if err == nil {
		_, err = r.live.Append(ctx, envelope.Partition(key, int(r.live.Partitions())), value)
	}
	if err != nil && ctx.Err() == nil {
		r.metrics.unpublished.Inc()
		r.log.Warn().Err(err).Msg("envelope was not published on the live log")
	}
}
