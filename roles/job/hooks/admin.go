package hooks

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/internal/events"
)

// Admin shows the hooks and changes what they do, on any node. Its methods are safe for concurrent use.
type Admin struct {
	mirror *mirror
	topics events.Topics
	names  []string
	log    zerolog.Logger
}

// NewAdmin returns an Admin. names are the hooks of the settings.
func NewAdmin(names []string, topics events.Topics, table Table, logger zerolog.Logger) *Admin {
	return &Admin{mirror: newMirror(table), topics: topics, names: names, log: logger}
}

// Run follows the table until ctx is done.
func (a *Admin) Run(ctx context.Context) error {
	a.mirror.run(ctx, a.log)
	return nil
}

// maxLetters bounds the dead letters of a Status. The newest are there.
const maxLetters = 100

// Status is what a hook has done and has to do, over all partitions. Times are Unix milliseconds; 0: none.
type Status struct {
	Name string
	// Lag counts the events of the topic behind the position, those of other types included.
	Lag int64
	// Open counts the events that wait for another try. OldestMS is when the oldest one was tried first.
	Open     int
	OldestMS int64
	// Dead counts the dead letters that can be replayed, DeadTotal all since the hook began.
	Dead      int
	DeadTotal uint64
	Letters   []Letter
	// Failing says why the newest failed call failed; empty: none since the last success.
	Failing   string
	FailingMS int64
	// Paused says why nothing is posted.
	Paused   string
	PausedMS int64
}

// List returns the status of each hook, by name.
func (a *Admin) List(ctx context.Context) ([]Status, error) {
	if err := a.mirror.sync(ctx); err != nil {
		return nil, err
	}
	found := make(map[string]*Status)
	positions := make(map[string]map[place]int64)
	hook := func(name string) *Status {
		if found[name] == nil {
			found[name], positions[name] = &Status{Name: name}, make(map[place]int64)
		}
		return found[name]
	}
	for _, name := range a.names {
		hook(name)
	}
	a.mirror.each(statePrefix, func(key string, value []byte) {
		var s State
		name, at, ok := parseStateKey(key)
		if ok && slices.Contains(a.names, name) && json.Unmarshal(value, &s) == nil {
			hook(name).add(s)
			if !s.Ended {
				positions[name][at] = s.Position
			}
		}
	})
	for name, s := range found {
		var c Control
		if value, _ := a.mirror.get(ControlKey(name)); value != nil && json.Unmarshal(value, &c) == nil {
			s.Paused, s.PausedMS = c.Paused, c.PausedMS
		}
		slices.SortFunc(s.Letters, func(a, b Letter) int { return int(b.At - a.At) })
		s.Letters = s.Letters[:min(len(s.Letters), maxLetters)]
	}
	if err := a.addLag(ctx, found, positions); err != nil {
		return nil, err
	}
	list := make([]Status, 0, len(found))
	for _, name := range slices.Sorted(maps.Keys(found)) {
		list = append(list, *found[name])
	}
	return list, nil
}

// add adds the state of a partition.
func (s *Status) add(p State) {
	s.Open += len(p.Open)
	for _, l := range p.Open {
		if l.FirstMS != 0 && (s.OldestMS == 0 || l.FirstMS < s.OldestMS) {
			s.OldestMS = l.FirstMS
		}
	}
	s.Dead += len(p.Dead)
	s.DeadTotal += p.DeadTotal
	s.Letters = append(s.Letters, p.Dead...)
	if p.FailingMS > s.FailingMS {
		s.Failing, s.FailingMS = p.Failing, p.FailingMS
	}
}

// addLag counts the events behind the positions.
func (a *Admin) addLag(ctx context.Context, found map[string]*Status, positions map[string]map[place]int64) error {
	ends := make(map[place]int64)
	for name, s := range found {
		for at, position := range positions[name] {
			end, known := ends[at]
			if !known {
				log, err := a.topics.Open(ctx, at.generation)
				if err == nil {
					_, end, err = log.Bounds(ctx, at.partition)
				}
				if err != nil {
					return fmt.Errorf("find the end of the events of partition %d: %w", at.partition, err)
				}
				ends[at] = end
			}
			s.Lag += max(end-position, 0)
		}
	}
	return nil
}

// Replay makes a hook post again what the topic has from a time on, or only its dead letters if dead is
// set.
func (a *Admin) Replay(ctx context.Context, name string, from time.Time, dead bool) error {
	return a.change(ctx, name, func(c *Control) error {
		c.Replay++
		c.FromMS, c.Dead = 0, dead
		if !dead {
			c.FromMS = from.UnixMilli()
		}
		return nil
	})
}

// Resume ends the pause of a hook.
func (a *Admin) Resume(ctx context.Context, name string) error {
	return a.change(ctx, name, func(c *Control) error {
		if c.Paused == "" {
			return envelope.Errorf(envelope.CodeConflict, "hook %q is not paused", name)
		}
		c.Paused, c.PausedMS, c.URL = "", 0, ""
		return nil
	})
}

func (a *Admin) change(ctx context.Context, name string, fn func(*Control) error) error {
	if !slices.Contains(a.names, name) {
		return envelope.Errorf(envelope.CodeNotFound, "there is no hook %q: the settings have %q", name, a.names)
	}
	if err := a.mirror.sync(ctx); err != nil {
		return err
	}
	var c Control
	if value, _ := a.mirror.get(ControlKey(name)); value != nil {
		if err := json.Unmarshal(value, &c); err != nil {
			return fmt.Errorf("stored control of hook %q: %w", name, err)
		}
	}
	if err := fn(&c); err != nil {
		return err
	}
	if _, err := a.mirror.table.Put(ctx, []byte(ControlKey(name)), encode(c)); err != nil {
		return fmt.Errorf("store what hook %q is to do: %w", name, err)
	}
	return nil
}
