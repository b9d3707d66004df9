// Package growth gives the kept topic of a cluster more partitions while everything
// runs. A topic of the next generation is made, and it takes over once all kept
// messages have moved there.
//
// The package owns the control topic, a compacted topic that every node follows. It
// says how many partitions were asked for, whether the old generation is closed, and
// which of its partitions have moved. It also says which version of kept records is in
// use. Every node derives the same State from the same
// entries, in whatever order they came, so there is no coordinator. Any node may ask
// for more partitions. Each owner of a partition does its part, and doing a part
// twice is the same as doing it once.
//
// It guarantees (FencedLog) that no record behind the fence of its partition, where
// it would be lost, is ever reported as appended. docs/adr/0007-more-partitions.md
// has the proof.
//
// It does not move records, does not know owners or nodes, and makes no topic.
package growth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/internal/wait"
)

// Topic is the control topic. Safe for concurrent use.
type Topic interface {
	// Put appends an entry and returns its offset once it is durable.
	Put(ctx context.Context, key, value []byte) (int64, error)
	// Follow calls fn for the entries from an offset on until ctx is done. It returns
	// ctx's error then, fn's error if fn fails, and an envelope.ErrOutOfRange if the
	// topic cannot have had the offset.
	Follow(ctx context.Context, from int64, fn func(offset int64, key, value []byte) error) error
	// End returns the offset that the next entry gets. It asks past any cache. The answer
	// may be out of date if a broker does not know that it no longer leads.
	End(ctx context.Context) (int64, error)
}

// Config has a Growth's times. A value of 0 means its default. All nodes of a
// cluster must have the same Lease.
type Config struct {
	// Lease is how long appends are reported after the control topic took an entry of
	// this node. Pushes go on for that time while that one topic takes no entries, as
	// after the death of a broker. Default: 15 s.
	Lease time.Duration
	// Short replaces Lease once a plan is known. It bounds how long pushes wait for
	// nothing but the control topic. Default: 2 s.
	Short time.Duration
	// Margin is added to a lease before it counts as run out on all nodes, since
	// their clocks run at different speeds. Default: 1 s.
	Margin time.Duration
	// Timeout bounds one confirmation. Default: 2 s.
	Timeout time.Duration
}

// MaxPartitions is the most partitions that a kept topic has, as for the setting
// kept.partitions.
const MaxPartitions = 1024

func (c Config) withDefaults() Config {
	c.Lease = cmp.Or(c.Lease, 15*time.Second)
	c.Short = cmp.Or(c.Short, 2*time.Second)
	c.Margin = cmp.Or(c.Margin, time.Second)
	c.Timeout = cmp.Or(c.Timeout, 2*time.Second)
	return c
}

// State is what the control topic says.
type State struct {
	// Generation is that of the kept topic, and Partitions its number of partitions.
	// Both are 0 until a plan or Base says them.
	Generation uint16
	Partitions int32
	// Next is the number of partitions of the next generation, while the topic
	// grows. It is 0 if the topic does not grow.
	Next int32
	// Closed means that Generation takes no new records.
	Closed bool
	// Moved is how many of Partitions have moved to the next generation.
	Moved int32
	// SinceMS is when more partitions were asked for, Unix milliseconds. It is 0 if the topic
	// does not grow.
	SinceMS int64
}

// Growing reports whether the kept topic grows.
func (s State) Growing() bool { return s.Next > 0 }

// Growth follows the control topic. Its methods are safe for concurrent use.
type Growth struct {
	cfg   Config
	topic Topic
	log   zerolog.Logger

	mu       sync.Mutex
	base     State // what there is if nothing was ever planned
	plans    map[uint16]plan
	closed   map[uint16]struct{}
	moved    map[uint16]map[int32]struct{}
	records  uint32 // the highest version of records in use; 0 stands for version 1
	position int64  // offset of the next entry to read
	state    State
	// plannedAt is when this node learned that state is growing, and closedAt that
	// it is closed.
	plannedAt, closedAt time.Time
	// confirmed is when the newest entry of keyLease was sent up to which all was read. It
	// is zero if there is none.
	confirmed time.Time
	renew     wait.Signal              // an append needs a newer confirmation, soon
	changed   chan struct{}            // closed, and replaced, by every change
	over      map[uint16]chan struct{} // closed when the generation is over
}

// plan is the plan of a generation that counts: the first one in the topic.
type plan struct {
	key              string
	partitions, next int32
	timeMS           int64
}

// New makes a Growth. It does not use the topic yet.
func New(cfg Config, topic Topic, log zerolog.Logger) *Growth {
	return &Growth{
		cfg: cfg.withDefaults(), topic: topic, log: log.With().Str("part", "growth").Logger(),
		plans: make(map[uint16]plan), closed: make(map[uint16]struct{}), moved: make(map[uint16]map[int32]struct{}),
		renew: wait.NewSignal(), changed: make(chan struct{}), over: make(map[uint16]chan struct{}),
	}
}

// errReadUpToEnd ends a Follow of Read.
var errReadUpToEnd = errors.New("read up to the end")

// Read reads what the control topic has now. It must have returned before Run
// starts and before State means anything. It may be called again before Run, also after an error: it
// then goes on where it ended.
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
		g.apply(offset, key, value)
		if offset+1 >= end {
			return errReadUpToEnd
		}
		return nil
	})
	if !errors.Is(err, errReadUpToEnd) {
		return fmt.Errorf("read the control topic up to %d: %w", end, err)
	}
	return nil
}

// Base sets the generation that there is if none was ever planned. Call it after
// Read and before Run.
func (g *Growth) Base(generation uint16, partitions int32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.base = State{Generation: generation, Partitions: partitions}
	g.deriveLocked()
}

// Run follows the control topic until ctx is done.
func (g *Growth) Run(ctx context.Context) error {
	var checking sync.WaitGroup
	checking.Go(func() { g.confirmWhenNeeded(ctx) })
	defer checking.Wait()
	for ctx.Err() == nil {
		g.mu.Lock()
		from := g.position
		g.mu.Unlock()
		err := g.topic.Follow(ctx, from, func(offset int64, key, value []byte) error {
			g.apply(offset, key, value)
			return nil
		})
		if ctx.Err() == nil {
			g.log.Error().Err(err).Msg("the control topic cannot be followed: kept pushes are refused until it can")
			_ = wait.Sleep(ctx, retryPause) // the loop looks at ctx
		}
	}
	return nil
}

// retryPause is the pause before the control topic is tried again.
const retryPause = 250 * time.Millisecond

// apply applies an entry of the control topic. Entries that cannot be decoded, or
// that cannot be right, are skipped.
func (g *Growth) apply(offset int64, key, value []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if offset < g.position {
		return // read before
	}
	g.position = offset + 1
	defer g.deriveLocked()
	if len(key) == 0 || len(value) == 0 {
		return
	}
	switch key[0] {
	case keyPlan:
		var p envelope.KeptPlan
		if err := p.UnmarshalVT(value); err != nil || !validPlan(&p) {
			g.log.Error().Int64("offset", offset).AnErr("error", err).Msg("the control topic has an invalid plan: skipped")
			return
		}
		generation := uint16(p.Generation)
		if _, ok := g.plans[generation]; !ok { // the first one counts
			g.plans[generation] = plan{string(key), int32(p.Partitions), int32(p.NextPartitions), p.TimeMs}
		}
	case keyClosed:
		var p envelope.KeptPlan
		if err := p.UnmarshalVT(value); err != nil || p.Generation > 1<<16-1 {
			g.log.Error().Int64("offset", offset).AnErr("error", err).Msg("the control topic has an invalid entry: skipped")
			return
		}
		g.closed[uint16(p.Generation)] = struct{}{}
	case keyMoved:
		var m envelope.KeptMoved
		if err := m.UnmarshalVT(value); err != nil || m.Generation > 1<<16-1 || m.Partition >= MaxPartitions {
			g.log.Error().Int64("offset", offset).AnErr("error", err).Msg("the control topic has an invalid entry: skipped")
			return
		}
		generation := uint16(m.Generation)
		if g.moved[generation] == nil {
			g.moved[generation] = make(map[int32]struct{})
		}
		g.moved[generation][int32(m.Partition)] = struct{}{}
	case keyRecords:
		var v envelope.RecordsVersion
		if err := v.UnmarshalVT(value); err != nil {
			g.log.Error().Int64("offset", offset).Err(err).Msg("the control topic has an invalid entry: skipped")
			return
		}
		g.records = max(g.records, v.Version)
	}
}

// The first byte of the control topic's keys. A plan's key goes on with a record
// id, so that compaction keeps the first of two plans. The key of a closed
// generation goes on with its number, and that of a moved partition with both
// numbers. The key of a version of records goes on with it. That of confirm has one
// byte, so that compaction leaves one entry of it. Its value is empty.
const keyPlan, keyClosed, keyMoved, keyRecords, keyLease = 'p', 'c', 'm', 'v', 'l'

// validPlan reports whether the numbers of a plan are possible.
func validPlan(p *envelope.KeptPlan) bool {
	return p.Generation > 0 && p.Generation < 1<<16-1 && p.Partitions > 0 &&
		p.NextPartitions > p.Partitions && p.NextPartitions <= MaxPartitions
}

// deriveLocked finds the state after a change, and notifies everybody who waits.
func (g *Growth) deriveLocked() {
	defer g.notifyLocked() // even if only the position has changed
	s := g.derivedStateLocked()
	if s == g.state {
		return
	}
	if s.Growing() && (!g.state.Growing() || g.state.Generation != s.Generation) {
		g.plannedAt = time.Now()
		g.log.Warn().Uint16("generation", s.Generation).Int32("partitions", s.Partitions).Int32("next", s.Next).
			Msg("the kept topic gets more partitions")
	}
	if s.Closed && (!g.state.Closed || g.state.Generation != s.Generation) {
		g.closedAt = time.Now()
		g.log.Warn().Uint16("generation", s.Generation).Msg("kept pushes wait until all that is kept has moved to the new partitions")
	}
	if g.state.Generation != 0 && s.Generation != g.state.Generation {
		g.log.Warn().Uint16("generation", s.Generation).Int32("partitions", s.Partitions).
			Msg("the kept topic has more partitions: all has moved")
	}
	g.state = s
	for generation, over := range g.over {
		if generation < s.Generation {
			close(over)
			delete(g.over, generation)
		}
	}
}

// derivedStateLocked returns the state that base and the entries of the topic
// amount to. It starts at the lowest generation and goes on to the next one while all
// partitions have moved.
func (g *Growth) derivedStateLocked() State {
	s := g.base
	if s.Generation == 0 {
		for generation, p := range g.plans {
			if s.Generation == 0 || generation < s.Generation {
				s.Generation, s.Partitions = generation, p.partitions
			}
		}
	}
	for {
		p, ok := g.plans[s.Generation]
		if !ok {
			return s
		}
		moved := int32(0)
		for partition := range g.moved[s.Generation] {
			if partition < p.partitions {
				moved++
			}
		}
		if moved < p.partitions {
			_, s.Closed = g.closed[s.Generation]
			s.Next, s.Moved, s.SinceMS = p.next, moved, p.timeMS
			return s
		}
		s.Generation, s.Partitions = s.Generation+1, p.next
	}
}

// notifyLocked wakes all goroutines that wait for a change.
func (g *Growth) notifyLocked() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// confirmWhenNeeded confirms that this node has read the whole topic, each time when
// an append needs it. After the first append it also does so twice in a lease. So an
// append after a silence does not need the topic at that moment.
func (g *Growth) confirmWhenNeeded(ctx context.Context) {
	var tick <-chan time.Time
	for {
		select {
		case <-g.renew:
		case <-tick:
		case <-ctx.Done():
			return
		}
		tick = time.After(g.cfg.Lease / 2)
		g.mu.Lock()
		needed := age(g.confirmed) >= g.leaseLocked()/renewals
		g.mu.Unlock()
		if !needed {
			continue
		}
		confirming, cancel := context.WithTimeout(ctx, g.cfg.Timeout)
		err := g.confirm(confirming)
		cancel()
		if err != nil {
			g.log.Debug().Err(err).Msg("the control topic takes no entry, or it cannot be read up to that")
			g.renew.Set()
			_ = wait.Sleep(ctx, retryPause) // the loop looks at ctx
		}
	}
}

// put writes an entry into the control topic.
func (g *Growth) put(ctx context.Context, key []byte, entry interface{ MarshalVT() ([]byte, error) }) error {
	value, err := entry.MarshalVT()
	if err != nil {
		return fmt.Errorf("encode it: %w", err)
	}
	_, err = g.topic.Put(ctx, key, value)
	return err
}

// confirm writes an entry that says nothing, and waits until the topic was read up to
// it. Then all entries that were there before the call were read. A question for the
// topic's end would not do: a broker that was cut off from the others answers it with
// an old end, but it cannot get their acknowledgement of a new entry.
func (g *Growth) confirm(ctx context.Context) error {
	asked := time.Now()
	at, err := g.topic.Put(ctx, []byte{keyLease}, []byte{})
	if err != nil {
		return err
	}
	for {
		g.mu.Lock()
		changed, read := g.changed, g.position > at
		if read && asked.After(g.confirmed) {
			g.confirmed = asked
			g.notifyLocked()
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

// State returns what is known, and a channel that is closed when that may have
// changed.
func (g *Growth) State() (State, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state, g.changed
}

// Over returns a channel that is closed when a generation is over: a later one has
// all that is kept.
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
