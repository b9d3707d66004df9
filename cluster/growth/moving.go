package growth

import (
	"context"
	"fmt"
	"time"

	"imgo/envelope"
)

// Grow begins to give the kept topic this number of partitions. When it returns, the
// plan is durable, and the rest happens without further calls. It returns an
// envelope.ErrConflict if there are as many partitions already, while the topic
// grows, and if the topic can grow no more. It returns an envelope.ErrInvalid above
// MaxPartitions.
func (g *Growth) Grow(ctx context.Context, partitions int) (State, error) {
	if err := g.confirm(ctx); err != nil {
		return State{}, unavailable("read the control topic: %v", err)
	}
	s, _ := g.State()
	switch {
	case s.Growing():
		return s, errGrowing(s)
	case partitions <= int(s.Partitions):
		return s, envelope.Conflict("kept", fmt.Sprintf("is %d, and there are %d partitions: it must be more, they never become fewer",
			partitions, s.Partitions))
	case partitions > MaxPartitions:
		return s, envelope.Invalid("kept", fmt.Sprintf("is %d, at most %d are possible", partitions, MaxPartitions))
	case s.Generation >= 1<<16-2:
		return s, envelope.Conflict("kept", "cannot become more: the topic has grown as often as its ids allow")
	}
	p := &envelope.KeptPlan{
		Generation: uint32(s.Generation), Partitions: uint32(s.Partitions), NextPartitions: uint32(partitions), TimeMs: time.Now().UnixMilli(),
	}
	key := append([]byte{keyPlan}, envelope.NewRecordID()...)
	if err := g.put(ctx, key, p); err != nil {
		return s, fmt.Errorf("write the plan: %w", err)
	}
	for {
		g.mu.Lock()
		s, changed, counts := g.state, g.changed, g.plans[uint16(p.Generation)]
		g.mu.Unlock()
		switch {
		case counts.key == string(key):
			return s, nil
		case counts.key != "": // the plan of another node was first
			return s, errGrowing(s)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return s, unavailable("the plan is written, and was not read back in time: see whether the topic grows")
		}
	}
}

func errGrowing(s State) error {
	return envelope.Conflict("kept", fmt.Sprintf(
		"cannot be changed now: the topic grows from %d to %d partitions already, %d of them have moved", s.Partitions, s.Next, s.Moved))
}

// Moving waits until the records of a generation are to move to the next one. When
// it returns nil, no node reports an append that is behind a fence appended from now
// on. It calls prepare before it closes the generation, which stops kept pushes:
// prepare returns an error if the records could not move yet. Moving returns an error
// if prepare does, if ctx is done, if the generation is over, or if the control topic
// does not take an entry.
func (g *Growth) Moving(ctx context.Context, generation uint16, prepare func(State) error) (State, error) {
	for {
		g.mu.Lock()
		s, changed, plannedAt, closedAt := g.state, g.changed, g.plannedAt, g.closedAt
		g.mu.Unlock()
		left := time.Hour // until there is a change
		switch {
		case s.Generation > generation:
			return s, errOver(generation)
		case s.Generation < generation || !s.Growing():
		case !s.Closed:
			// After the lease, nodes that do not know of the plan report nothing.
			if rest := g.cfg.Lease + g.cfg.Margin - time.Since(plannedAt); rest > 0 {
				left = rest
				break
			}
			if err := prepare(s); err != nil {
				return s, err
			}
			if err := g.close(ctx, s); err != nil {
				return s, err
			}
		default:
			if left = g.cfg.Short + g.cfg.Margin - time.Since(closedAt); left <= 0 {
				return s, nil
			}
		}
		timer := time.NewTimer(left)
		select {
		case <-timer.C:
		case <-changed:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return s, ctx.Err()
		}
	}
}

// close writes that a generation takes no new records. Every owner of one of its
// partitions may do so.
func (g *Growth) close(ctx context.Context, s State) error {
	p := &envelope.KeptPlan{
		Generation: uint32(s.Generation), Partitions: uint32(s.Partitions), NextPartitions: uint32(s.Next), TimeMs: time.Now().UnixMilli(),
	}
	if err := g.put(ctx, fmt.Appendf([]byte{keyClosed}, "%d", s.Generation), p); err != nil {
		return fmt.Errorf("say that generation %d is closed: %w", s.Generation, err)
	}
	return nil
}

// HasMoved reports whether a partition has moved to the next generation.
func (g *Growth) HasMoved(generation uint16, partition int32) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, moved := g.moved[generation][partition]
	return moved || g.state.Generation > generation
}

// Moved writes that all of a partition is in the next generation's topic.
func (g *Growth) Moved(ctx context.Context, generation uint16, partition int32) error {
	m := &envelope.KeptMoved{Generation: uint32(generation), Partition: uint32(partition)}

	key := fmt.Appendf([]byte{keyMoved}, "%d/%d", generation, partition)
	if err := g.put(ctx, key, m); err != nil {
		return fmt.Errorf("note that partition %d has moved: %w", partition, err)
	}
	return nil
}
