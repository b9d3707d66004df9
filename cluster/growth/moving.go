package growth

import (
	"context"
	"fmt"
	"time"

	"imgo/envelope"
)

// Grow begins to give the kept topic so many partitions. When it returns the
// plan is durable, and all else happens by itself. It is envelope.ErrInvalid
// for a number that is not more than there are, and for any while the topic
// grows.
func (g *Growth) Grow(ctx context.Context, partitions int) (State, error) {
	if err := g.confirm(ctx); err != nil {
		return State{}, unavailable("read the control topic: %v", err)
	}
	s, _ := g.State()
	switch {
	case s.Growing():
		return s, growing(s)
	case partitions <= int(s.Partitions):
		return s, envelope.Invalid("kept", fmt.Sprintf("is %d, and there are %d partitions: it must be more, they never become fewer", partitions, s.Partitions))
	case partitions > MaxPartitions:
		return s, envelope.Invalid("kept", fmt.Sprintf("is %d, at most %d are possible", partitions, MaxPartitions))
	case s.Generation >= 1<<16-2:
		return s, envelope.Invalid("kept", "cannot become more: the topic has grown as often as its ids allow")
	}
	p := &envelope.KeptPlan{
		Generation: uint32(s.Generation), Partitions: uint32(s.Partitions), NextPartitions: uint32(partitions), TimeMs: time.Now().UnixMilli(),
	}
	value, err := p.MarshalVT()
	if err != nil {
		return s, fmt.Errorf("encode the plan: %w", err)
	}
	key := append([]byte{keyPlan}, envelope.NewRecordID()...)
	if _, err := g.topic.Put(ctx, key, value); err != nil {
		return s, fmt.Errorf("write the plan: %w", err)
	}
	for {
		g.mu.Lock()
		s, changed, taken := g.state, g.changed, g.plans[uint16(p.Generation)]
		g.mu.Unlock()
		switch {
		case taken.key == string(key):
			return s, nil
		case taken.key != "":
			return s, growing(s)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return s, unavailable("the plan is written, and was not read back in time: see whether the topic grows")
		}
	}
}

func growing(s State) error {
	return envelope.Invalid("kept", fmt.Sprintf("cannot be changed now: the topic grows from %d to %d partitions already, %d of them have moved",
		s.Partitions, s.Next, s.Moved))
}

// Moving waits until what a generation has is to move to the next: until no
// node will report an append that is behind a fence which is appended from now
// on. It is an error when ctx is done, the generation is over, or the control
// topic does not take an entry.
func (g *Growth) Moving(ctx context.Context, generation uint16) (State, error) {
	for {
		g.mu.Lock()
		s, changed, since, closed := g.state, g.changed, g.since, g.closedSince
		g.mu.Unlock()
		var left time.Duration
		switch {
		case s.Generation > generation:
			return s, errOver(generation)
		case s.Generation < generation || !s.Growing():
			left = time.Hour
		case !s.Closed:
			// From now on whoever does not know of the plan reports nothing.
			if left = g.cfg.Lease + g.cfg.Margin - time.Since(since); left <= 0 {
				if err := g.close(ctx, s); err != nil {
					return s, err
				}
				left = time.Hour // until it is read back
			}
		default:
			if left = g.cfg.Short + g.cfg.Margin - time.Since(closed); left <= 0 {
				return s, nil
			}
		}
		t := time.NewTimer(left)
		select {
		case <-t.C:
		case <-changed:
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return s, ctx.Err()
		}
	}
}

// close says that nothing new goes to a generation. Each owner of one of its
// partitions may.
func (g *Growth) close(ctx context.Context, s State) error {
	p := &envelope.KeptPlan{Generation: uint32(s.Generation), Partitions: uint32(s.Partitions), NextPartitions: uint32(s.Next), TimeMs: time.Now().UnixMilli()}
	value, err := p.MarshalVT()
	if err != nil {
		return fmt.Errorf("encode that generation %d is closed: %w", s.Generation, err)
	}
	if _, err := g.topic.Put(ctx, fmt.Appendf([]byte{keyClosed}, "%d", s.Generation), value); err != nil {
		return fmt.Errorf("say that generation %d is closed: %w", s.Generation, err)
	}
	return nil
}

// HasMoved says whether it was noted that a partition has moved.
func (g *Growth) HasMoved(generation uint16, partition int32) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, moved := g.moved[generation][partition]
	return moved || g.state.Generation > generation
}

// Moved notes that all of a partition is in the next generation's topic.
func (g *Growth) Moved(ctx context.Context, generation uint16, partition int32) error {
	m := &envelope.KeptMoved{Generation: uint32(generation), Partition: uint32(partition)}
	value, err := m.MarshalVT()
	if err != nil {
		return fmt.Errorf("encode that partition %d has moved: %w", partition, err)
	}
	key := fmt.Appendf([]byte{keyMoved}, "%d/%d", generation, partition)
	if _, err := g.topic.Put(ctx, key, value); err != nil {
		return fmt.Errorf("note that partition %d has moved: %w", partition, err)
	}
	return nil
}
