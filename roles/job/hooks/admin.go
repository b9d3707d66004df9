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
	hooks  []Config
	log    zerolog.Logger
}

// NewAdmin returns an Admin of the hooks of the settings.
func NewAdmin(hooks []Config, topics events.Topics, table Table, logger zerolog.Logger) *Admin {
	return &Admin{mirror: newMirror(table), topics: topics, hooks: hooks, log: logger}
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
	for _, c := range a.hooks {
		hook(c.Name)
	}
	a.mirror.each(statePrefix, func(key string, value []byte) {
		var s State
		name, at, ok := parseStateKey(key)
		if ok && a.has(name) && json.Unmarshal(value, &s) == nil {
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

// has reports whether the settings have a hook.
func (a *Admin) has(name string) bool {
	return slices.ContainsFunc(a.hooks, func(c Config) bool { return c.Name == name })
}

func (a *Admin) names() []string {
	names := make([]string, len(a.hooks))
	for i, c := range a.hooks {
		names[i] = c.Name
	}
	return names
}

// Fate says of each hook that gets an event what became of it. The stored states are up to ten seconds old.
func (a *Admin) Fate(generation uint16, r events.Record) (texts []string) {
	for _, c := range a.hooks {
		if len(c.Types) > 0 && !events.Matches(c.Types, r.Type) {
			continue
		}
		var s State
		value, _ := a.mirror.get(stateKey(c.Name, place{generation, r.Partition}))
		if value == nil || json.Unmarshal(value, &s) != nil {
			s = State{Position: -1}
		}
		texts = append(texts, fmt.Sprintf("hook %q %s", c.Name, s.fate(r.Offset)))
	}
	return texts
}

// fate says what became of the event at an offset.
func (s *State) fate(offset int64) string {
	is := func(l Letter) bool { return l.Offset == offset }
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

// Replay makes a hook post again what the topic has from a time on.
func (a *Admin) Replay(ctx context.Context, name string, from time.Time) error {
	return a.change(ctx, name, func(c *Control) error {
		c.Replay, c.FromMS, c.Dead = c.Replay+1, from.UnixMilli(), false
		return nil
	})
}

// Retry makes a hook post its dead letters again.
func (a *Admin) Retry(ctx context.Context, name string) error {
	return a.change(ctx, name, func(c *Control) error {
		c.Replay, c.FromMS, c.Dead = c.Replay+1, 0, true
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
	if !a.has(name) {
		return envelope.Errorf(envelope.CodeNotFound, "there is no hook %q: the settings have %q", name, a.names())
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
