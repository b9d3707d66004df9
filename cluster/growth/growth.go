// Package growth is how the kept topic of a cluster gets more partitions while
// everything runs: a topic of the next generation follows, and takes over
// when all that waits has moved there.
//
// It owns the control topic, a compacted one that every node follows: who asked
// for how many partitions, since when nothing new goes to the old generation,
// and which of its partitions have moved. Every node derives the same state from the same entries, in whatever
// order they came, and nobody coordinates: any node may ask, each owner of a
// partition does its part, and a part that is done twice is done once.
//
// It guarantees (Gate) that nobody is told that a record is in the log which is
// behind the fence of its partition, where it would be lost. docs/adr/0007 has
// the proof.
//
// It does not move anything, knows neither owners nor nodes, and makes no
// topic.
package growth

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"imgo/envelope"
)

// Topic is the control topic. Safe for concurrent use.
type Topic interface {
	// Put appends an entry and returns its offset once it is durable.
	Put(ctx context.Context, key, value []byte) (int64, error)
	// Follow calls fn for the entries from an offset on until ctx is done.
	Follow(ctx context.Context, from int64, fn func(offset int64, key, value []byte) error) error
	// End is the offset that the next entry gets; it asks, past any cache.
	End(ctx context.Context) (int64, error)
}

// Config are a Growth's times. The zero value of each means its default. All
// nodes of a cluster must have the same Lease.
type Config struct {
	// Lease is how old what is known of the control topic may be when an append
	// is reported: for so long pushes go on while Kafka does not answer for that
	// one topic, such as after a broker has died. 15 s.
	Lease time.Duration
	// Short is Lease once a plan is known: it bounds how long pushes wait for
	// nothing but certainty; 2 s.
	Short time.Duration
	// Margin is for how much longer than a lease it is waited until it has run
	// out everywhere, for clocks that do not go alike; 1 s.
	Margin time.Duration
	// Check is how often the control topic's end is asked for, four times as
	// often once a plan is known; 1 s.
	Check time.Duration
	// Timeout bounds one question; 2 s.
	Timeout time.Duration
}

// MaxPartitions is the most that a kept topic has, as for the setting
// kept.partitions.
const MaxPartitions = 1024

func (c Config) withDefaults() Config {
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{{&c.Lease, 15 * time.Second}, {&c.Short, 2 * time.Second}, {&c.Margin, time.Second}, {&c.Check, time.Second}, {&c.Timeout, 2 * time.Second}} {
		if *d.v <= 0 {
			*d.v = d.d
		}
	}
	return c
}

// State is what the control topic says.
type State struct {
	// Generation is the kept topic's, and Partitions how many it has. Both are
	// 0 while nobody has said so: see Base.
	Generation uint16
	Partitions int32
	// Next is how many partitions the next generation has, which is on its way;
	// 0: there is none.
	Next int32
	// Closed says that nothing new goes to Generation any more.
	Closed bool
	// Moved is how many of Partitions have moved there.
	Moved int32
	// SinceMS is when it was asked for, Unix milliseconds; 0: it was not.
	SinceMS int64
}

// Growing says whether another generation is on its way.
func (s State) Growing() bool { return s.Next > 0 }

// Growth follows the control topic. Its methods are safe for concurrent use.
type Growth struct {
	cfg   Config
	topic Topic
	log   zerolog.Logger

	mu sync.Mutex
	// base is what there is when nothing was ever planned.
	base   State
	plans  map[uint16]plan
	closed map[uint16]struct{}
	moved  map[uint16]map[int32]struct{}
	// position is the offset up to which the topic was read.
	position int64
	state    State
	// since is when this node saw that State is growing, and closedSince that it
	// is closed.
	since, closedSince time.Time
	// confirmed is when the question was asked whose answer, the topic's end,
	// has since been read up to; zero: never.
	confirmed time.Time
	changed   chan struct{}
	// over are channels that are closed when a generation is.
	over map[uint16]chan struct{}
}

// plan is one that counts.
type plan struct {
	key              string
	partitions, next int32
	timeMS           int64
}

// New makes a Growth; it asks for nothing yet.
func New(cfg Config, topic Topic, log zerolog.Logger) *Growth {
	return &Growth{
		cfg: cfg.withDefaults(), topic: topic, log: log.With().Str("part", "growth").Logger(),
		plans: make(map[uint16]plan), closed: make(map[uint16]struct{}), moved: make(map[uint16]map[int32]struct{}), changed: make(chan struct{}),
		over: make(map[uint16]chan struct{}),
	}
}

// errRead ends a Follow that was to read only what is there.
var errRead = errors.New("all was read")

// Read reads what the control topic has now. It must have returned before Run,
// and before State means anything; it may be called again before Run.
func (g *Growth) Read(ctx context.Context) error {
	end, err := g.topic.End(ctx)
	if err != nil {
		return fmt.Errorf("read the control topic: %w", err)
	}
	g.mu.Lock()
	from := g.position
	g.mu.Unlock()
	if end <= from {
		return nil
	}
	err = g.topic.Follow(ctx, from, func(offset int64, key, value []byte) error {
		g.take(offset, key, value)
		if offset+1 >= end {
			return errRead
		}
		return nil
	})
	if !errors.Is(err, errRead) {
		return fmt.Errorf("read the control topic up to %d: %w", end, err)
	}
	return nil
}

// Base says which generation there is where none was ever planned. It is for
// after Read, before Run.
func (g *Growth) Base(generation uint16, partitions int32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.base = State{Generation: generation, Partitions: partitions}
	g.derive()
}

// Run follows the control topic until ctx is done.
func (g *Growth) Run(ctx context.Context) error {
	var checking sync.WaitGroup
	checking.Go(func() { g.check(ctx) })
	defer checking.Wait()
	for ctx.Err() == nil {
		g.mu.Lock()
		from := g.position
		g.mu.Unlock()
		err := g.topic.Follow(ctx, from, func(offset int64, key, value []byte) error {
			g.take(offset, key, value)
			return nil
		})
		if ctx.Err() == nil {
			g.log.Error().Err(err).Msg("the control topic cannot be followed: kept pushes are refused until it can")
			pause(ctx, g.cfg.Check)
		}
	}
	return nil
}

// take takes an entry.
func (g *Growth) take(offset int64, key, value []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if offset < g.position {
		return // again
	}
	g.position = offset + 1
	defer g.derive()
	if string(key) == "" || len(value) == 0 {
		return
	}
	switch key[0] {
	case keyPlan:
		var p envelope.KeptPlan
		if err := p.UnmarshalVT(value); err != nil || !sound(&p) {
			g.log.Error().Int64("offset", offset).AnErr("error", err).Msg("the control topic has a plan that cannot be: passed over")
			return
		}
		of := uint16(p.Generation)
		if _, ok := g.plans[of]; !ok { // the first one counts
			g.plans[of] = plan{string(key), int32(p.Partitions), int32(p.NextPartitions), p.TimeMs}
		}
	case keyClosed:
		var p envelope.KeptPlan
		if err := p.UnmarshalVT(value); err != nil || p.Generation > 1<<16-1 {
			g.log.Error().Int64("offset", offset).AnErr("error", err).Msg("the control topic has an entry that cannot be: passed over")
			return
		}
		g.closed[uint16(p.Generation)] = struct{}{}
	case keyMoved:
		var m envelope.KeptMoved
		if err := m.UnmarshalVT(value); err != nil || m.Generation > 1<<16-1 || m.Partition >= MaxPartitions {
			g.log.Error().Int64("offset", offset).AnErr("error", err).Msg("the control topic has an entry that cannot be: passed over")
			return
		}
		of := uint16(m.Generation)
		if g.moved[of] == nil {
			g.moved[of] = make(map[int32]struct{})
		}
		g.moved[of][int32(m.Partition)] = struct{}{}
	}
}

// The first byte of the control topic's keys. A plan goes on with a record id,
// so that compaction leaves the first of two plans; that a generation is closed
// with its number, and that a partition has moved with both numbers.
const keyPlan, keyClosed, keyMoved = 'p', 'c', 'm'

// sound says whether a plan can be one.
func sound(p *envelope.KeptPlan) bool {
	return p.Generation > 0 && p.Generation < 1<<16-1 && p.Partitions > 0 &&
		p.NextPartitions > p.Partitions && p.NextPartitions <= MaxPartitions
}

// derive finds the state. The caller holds mu.
func (g *Growth) derive() {
	s := g.base
	if s.Generation == 0 {
		for of, p := range g.plans {
			if s.Generation == 0 || of < s.Generation {
				s.Generation, s.Partitions = of, p.partitions
			}
		}
	}
	for {
		p, ok := g.plans[s.Generation]
		if !ok {
			break
		}
		done := int32(0)
		for i := range g.moved[s.Generation] {
			if i < p.partitions {
				done++
			}
		}
		s.SinceMS = p.timeMS
		if done < p.partitions {
			_, s.Closed = g.closed[s.Generation]
			s.Next, s.Moved = p.next, done
			break
		}
		s.Generation, s.Partitions = s.Generation+1, p.next
	}
	if !s.Growing() {
		s.SinceMS = 0
	}
	if s == g.state {
		g.wake() // the position is another one
		return
	}
	if s.Growing() && (!g.state.Growing() || g.state.Generation != s.Generation) {
		g.since = time.Now()
		g.log.Warn().Uint16("generation", s.Generation).Int32("partitions", s.Partitions).Int32("next", s.Next).
			Msg("the kept topic gets more partitions")
	}
	if s.Closed && (!g.state.Closed || g.state.Generation != s.Generation) {
		g.closedSince = time.Now()
		g.log.Warn().Uint16("generation", s.Generation).Msg("kept pushes wait until all that is kept has moved to the new partitions")
	}
	if g.state.Generation != 0 && s.Generation != g.state.Generation {
		g.log.Warn().Uint16("generation", s.Generation).Int32("partitions", s.Partitions).Msg("the kept topic has more partitions: all has moved")
	}
	g.state = s
	for of, over := range g.over {
		if of < s.Generation {
			close(over)
			delete(g.over, of)
		}
	}
	g.wake()
}

// wake tells those that wait for a change. The caller holds mu.
func (g *Growth) wake() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// check confirms again and again that what is known is all there is.
func (g *Growth) check(ctx context.Context) {
	for ctx.Err() == nil {
		asking, cancel := context.WithTimeout(ctx, g.cfg.Timeout)
		err := g.confirm(asking)
		cancel()
		if err != nil && ctx.Err() == nil {
			g.log.Debug().Err(err).Msg("the control topic does not say where it ends")
		}
		every := g.cfg.Check
		if s, _ := g.State(); s.Growing() {
			every /= 4
		}
		pause(ctx, every)
	}
}

// confirm asks where the topic ends and waits until it was read up to there.
func (g *Growth) confirm(ctx context.Context) error {
	asked := time.Now()
	end, err := g.topic.End(ctx)
	if err != nil {
		return err
	}
	for {
		g.mu.Lock()
		changed, read := g.changed, g.position >= end
		if read && asked.After(g.confirmed) {
			g.confirmed = asked
			g.wake()
		}
		g.mu.Unlock()
		if read {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// State is what is known, and a channel that is closed when that may be more.
func (g *Growth) State() (State, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state, g.changed
}

// Over is closed when a generation is over: another one has all that waits.
func (g *Growth) Over(generation uint16) <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	over := g.over[generation]
	if over == nil {
		over = make(chan struct{})
		if g.state.Generation > generation {
			close(over)
		} else {
			g.over[generation] = over
		}
	}
	return over
}

func errOver(generation uint16) error {
	return unavailable("the kept topic's generation %d is over: it has more partitions now", generation)
}

func unavailable(format string, args ...any) error {
	return envelope.Errorf(envelope.CodeUnavailable, format, args...)
}

// pause waits, or until ctx is done.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
