package hooks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"imgo/envelope"
	"imgo/internal/events"
)

// Admin shows the hooks and changes what they do, on any node that runs Hooks. Its methods are safe for concurrent use.
type Admin struct {
	deps   Deps
	mirror *mirror
	hooks  []Config
}

// maxLetters bounds the dead letters of an events.Hook. The newest are there.
const maxLetters = 100

// List returns what each hook has done and has to do, over all partitions, by name. It returns an error if the
// hooks' state, or an end of the events topic, cannot be read.
func (a *Admin) List(ctx context.Context) ([]events.Hook, error) {
	if err := a.mirror.sync(ctx); err != nil {
		return nil, err
	}
	list := make([]events.Hook, 0, len(a.hooks))
	ends := make(map[place]int64)
	for _, name := range slices.Sorted(slices.Values(a.names())) {
		h, err := a.status(ctx, name, ends)
		if err != nil {
			return nil, err
		}
		list = append(list, h)
	}
	return list, nil
}

// status returns what a hook has done and has to do. ends has the ends of the partitions, as far as they were asked for.
func (a *Admin) status(ctx context.Context, name string, ends map[place]int64) (h events.Hook, err error) {
	h.Name = name
	positions := make(map[place]int64)
	a.mirror.states(name, func(at place, s State) {
		s.addTo(&h)
		if !s.Ended {
			positions[at] = s.Position
		}
	})
	c, _ := loadControl(a.mirror, name) // an unreadable control entry counts as empty
	h.Paused, h.PausedMS = c.Paused, c.PausedMS
	slices.SortFunc(h.Letters, func(a, b events.DeadLetter) int { return cmp.Compare(b.TimeMS, a.TimeMS) })
	h.Letters = h.Letters[:min(len(h.Letters), maxLetters)]
	for at, position := range positions {
		if _, known := ends[at]; !known {
			if ends[at], err = a.end(ctx, at); err != nil {
				return h, fmt.Errorf("find the end of the events of partition %d: %w", at.partition, err)
			}
		}
		h.Lag += max(ends[at]-position, 0)
	}
	return h, nil
}

// end returns the end of a partition, or 0 if the topic was deleted.
func (a *Admin) end(ctx context.Context, at place) (end int64, err error) {
	log, err := a.deps.Topics.Open(ctx, at.generation)
	switch {
	case errors.Is(err, envelope.ErrNotFound):
		return 0, nil
	case err == nil:
		_, end, err = log.Bounds(ctx, at.partition)
	}
	return end, err
}

func (a *Admin) names() []string {
	names := make([]string, len(a.hooks))
	for i, c := range a.hooks {
		names[i] = c.Name
	}
	return names
}

// Outcome says of each hook that gets an event what became of it. The stored states are up to ten seconds old.
func (a *Admin) Outcome(generation uint16, r events.Record) (texts []string) {
	for _, c := range a.hooks {
		if len(c.Types) > 0 && !events.Matches(c.Types, r.Type) {
			continue
		}
		s, stored, err := load[State](a.mirror, stateKey(c.Name, place{generation, r.Partition}))
		if !stored || err != nil {
			s.Position = -1
		}
		texts = append(texts, fmt.Sprintf("hook %q %s", c.Name, s.outcome(r.Offset)))
	}
	return texts
}

// outcome says what became of the event at an offset.
func (s *State) outcome(offset int64) string {
	is := func(l heldEvent) bool { return l.Offset == offset }
	if i := slices.IndexFunc(s.Open, is); i >= 0 {
		return fmt.Sprintf("has tried it %d times; %s; the next try is at %s", s.Open[i].Tries, s.Failing,
			time.UnixMilli(s.Open[i].DueMS).UTC().Format(time.RFC3339))
	}
	if i := slices.IndexFunc(s.Dead, is); i >= 0 {
		return "has set it aside: " + s.Dead[i].Why
	}
	if offset < s.Position {
		return "has posted it, or began after it"
	}
	return "has not posted it yet"
}

// addTo adds the state of a partition to what a hook has done and has to do.
func (s *State) addTo(h *events.Hook) {
	h.Waiting += len(s.Open)
	for _, l := range s.Open {
		if l.FirstMS != 0 && (h.WaitingSinceMS == 0 || l.FirstMS < h.WaitingSinceMS) {
			h.WaitingSinceMS = l.FirstMS
		}
	}
	h.DeadLetters += len(s.Dead)
	h.DeadTotal += s.DeadTotal
	for _, l := range s.Dead {
		h.Letters = append(h.Letters, events.DeadLetter{Event: l.ID, User: l.User, Tries: l.Tries, Reason: l.Why, TimeMS: l.At})
	}
	if s.FailingMS > h.ErrorMS {
		h.Error, h.ErrorMS = s.Failing, s.FailingMS
	}
}

// Replay makes a hook post again what the topic has from a time on. It returns an error if the topic may no longer have
// all events since then.
func (a *Admin) Replay(ctx context.Context, name string, from time.Time) error {
	return a.change(ctx, name, controlPrefix, func(c Control) (any, error) {
		c.Replay, c.FromMS, c.Dead = c.Replay+1, from.UnixMilli(), false
		return c, a.checkFrom(ctx, name, from)
	})
}

// checkFrom returns an error if a replay cannot begin at a time.
func (a *Admin) checkFrom(ctx context.Context, name string, from time.Time) error {
	now := a.deps.Now()
	kept := now.Add(-a.deps.Retention)
	switch {
	case from.After(now):
		return envelope.Invalid("from_ms", "is in the future: it must be Unix milliseconds of a time that has passed")
	case !from.Before(kept):
		return nil
	}
	generations := map[uint16]bool{a.deps.Topics.Current(): true}
	a.mirror.states(name, func(at place, _ State) { generations[at.generation] = true })
	for generation := range generations {
		complete, err := a.nothingTrimmed(ctx, generation)
		if err != nil {
			return err
		}
		if !complete {
			return envelope.Invalid("from_ms", fmt.Sprintf("is %d, but events from before %d (%s) have left the topic: "+
				"begin no earlier, or replay less (events.retention)", from.UnixMilli(), kept.UnixMilli(), kept.UTC().Format(time.RFC3339)))
		}
	}
	return nil
}

// nothingTrimmed reports whether no event has left the topic of a generation.
func (a *Admin) nothingTrimmed(ctx context.Context, generation uint16) (bool, error) {
	log, err := a.deps.Topics.Open(ctx, generation)
	switch {
	case errors.Is(err, envelope.ErrNotFound):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("open the events of generation %d: %w", generation, err)
	}
	for partition := range log.Partitions() {
		begin, _, err := log.Bounds(ctx, partition)
		if err != nil {
			return false, fmt.Errorf("find the beginning of the events of partition %d: %w", partition, err)
		}
		if begin > events.FirstOffset(log) {
			return false, nil
		}
	}
	return true, nil
}

// Retry makes a hook post its dead letters again.
func (a *Admin) Retry(ctx context.Context, name string) error {
	return a.change(ctx, name, controlPrefix, func(c Control) (any, error) {
		c.Replay, c.FromMS, c.Dead = c.Replay+1, 0, true
		return c, nil
	})
}

// Resume ends the pause of a hook.
func (a *Admin) Resume(ctx context.Context, name string) error {
	return a.change(ctx, name, pausePrefix, func(c Control) (any, error) {
		if c.Paused == "" {
			return nil, envelope.Errorf(envelope.CodeConflict, "hook %q is not paused", name)
		}
		return Pause{}, nil
	})
}

// change stores what fn makes of a hook's Control, under the prefix and the hook's name.
func (a *Admin) change(ctx context.Context, name, prefix string, fn func(Control) (any, error)) error {
	if !slices.Contains(a.names(), name) {
		return envelope.Errorf(envelope.CodeNotFound, "there is no hook %q: the settings have %q", name, a.names())
	}
	if err := a.mirror.sync(ctx); err != nil {
		return err
	}
	c, err := loadControl(a.mirror, name)
	if err != nil {
		return err
	}
	v, err := fn(c)
	if err != nil {
		return err
	}
	if _, err := a.mirror.table.Put(ctx, []byte(prefix+name), encode(v)); err != nil {
		return fmt.Errorf("store what hook %q is to do: %w", name, err)
	}
	return nil
}
