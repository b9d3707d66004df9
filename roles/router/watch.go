package router

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"imgo/envelope"
	"imgo/internal/wait"
)

// nudgesPerEnvelope bounds the sessions that one envelope of the watch names.
const nudgesPerEnvelope = 500

// watchLoop tells comets what their sessions may have missed, until ctx is done.
func (r *Router) watchLoop(ctx context.Context) error {
	if r.cfg.Faults.NoWatch {
		return nil
	}
	w := watch{resources: r.resources, parts: r.parts, busy: make([]atomic.Bool, r.live.Partitions())}
	wait.Every(ctx, r.cfg.WatchInterval, func() { w.round(ctx, r.now()) })
	w.publishing.Wait()
	return nil
}

// watch tells comets, by the live log, what their sessions may have missed. A goroutine for each partition of that log
// publishes what a round has found. So a partition that takes no records delays no comet of the others.
type watch struct {
	*resources
	parts *ownership
	// busy is set for the partitions that are being published to. A round leaves the comets out that it would tell by them.
	busy       []atomic.Bool
	publishing sync.WaitGroup
}

// reminders is what the watch tells a comet. undo has its sessions told again, for what was not published.
type reminders struct {
	envelope *envelope.Envelope
	nudges   int
	undo     func()
}

// nudge tells a session of the newest message that it should have.
type nudge struct {
	p      *partition
	s      *session
	newest uint64
}

// round finds what is to be told, and has it published. That is the newest message that is still pending a while after its
// push, for every session that should have it: whatever was dropped on the way, by a hung or skipped comet, a dead job, or a
// wrong owner. Sessions are also told the memberships of their user, where these have changed a while ago.
func (w *watch) round(ctx context.Context, now time.Time) {
	byComet := make(map[string][]nudge)
	byPartition := make(map[int32][]reminders)
	partitions := make(map[string]int32) // by comet; each round takes others
	partitionOf := func(comet string) int32 {
		i, known := partitions[comet]
		if !known {
			i = envelope.Partition(envelope.RepeatKey(comet, now.UnixMilli()), len(w.busy))
			partitions[comet] = i
		}
		return i
	}
	isBusy := func(comet string) bool { return w.busy[partitionOf(comet)].Load() }
	add := func(comet string, r reminders) {
		i := partitionOf(comet)
		byPartition[i] = append(byPartition[i], r)
	}
	for _, p := range w.parts.serving() {
		p.overdue(now, isBusy, byComet)
		for _, due := range p.dueReminders(now, isBusy) {
			add(due.rooms.To[0].Comet, reminders{
				envelope: &envelope.Envelope{TimeMs: now.UnixMilli(), SessionRooms: due.rooms},
				undo:     due.undo,
			})
		}
	}
	for comet, all := range byComet {
		for nudges := range slices.Chunk(all, nudgesPerEnvelope) {
			add(comet, reminders{nudgeEnvelope(nudges, now), len(nudges), func() { forgetReminders(nudges) }})
		}
	}
	for i, list := range byPartition {
		w.busy[i].Store(true)
		w.publishing.Go(func() {
			w.publish(ctx, i, list)
			w.busy[i].Store(false)
		})
	}
}

// publish puts reminders on a partition of the live log, until one fails. The next round finds again what is left.
func (w *watch) publish(ctx context.Context, partition int32, list []reminders) {
	for i, r := range list {
		value, err := r.envelope.MarshalVT()
		if err == nil {
			_, err = w.live.Append(ctx, partition, value)
		}
		if err == nil {
			w.metrics.nudges.Add(float64(r.nudges))
			continue
		}
		if ctx.Err() == nil {
			w.metrics.unpublished.Add(float64(len(list) - i))
			w.log.Warn().Err(err).Int32("partition", partition).Int("envelopes", len(list)-i).
				Msg("envelopes were not published on the live log; trying again")
		}
		for _, left := range list[i:] {
			left.undo()
		}
		return
	}
}

func nudgeEnvelope(nudges []nudge, now time.Time) *envelope.Envelope {
	to := make([]*envelope.NudgeTarget, len(nudges))
	for i, n := range nudges {
		to[i] = &envelope.NudgeTarget{To: n.s.address().Address(), Newest: n.newest}
	}
	return &envelope.Envelope{TimeMs: now.UnixMilli(), Nudge: &envelope.Nudge{To: to}}
}

// forgetReminders undoes the notes of overdue, so that the next round tells the sessions again.
func forgetReminders(nudges []nudge) {
	for _, n := range nudges {
		n.p.mu.Lock()
		n.s.reminder = nil
		n.p.mu.Unlock()
	}
}

// overdue adds the partition's sessions that are to be told something to byComet, and notes that they were told. It leaves
// out the comets that are busy.
func (p *partition) overdue(now time.Time, busy func(comet string) bool, byComet map[string][]nudge) {
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
			if ok && !busy(s.kind.comet) && s.remind(newest, now, &p.cfg) {
				byComet[s.kind.comet] = append(byComet[s.kind.comet], nudge{p, s, newest})
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
