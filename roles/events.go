package roles

import (
	"context"
	"sync"

	"imgo/envelope"
	"imgo/internal/events"
)

// eventTopics are the events topics of all generations, for the readers of this process. Safe for
// concurrent use.
type eventTopics struct {
	n *Node

	mu sync.Mutex
	// older has topics of earlier generations. Nothing is appended to them any more.
	older map[uint16]eventsLog
}

// Current returns the generation of the core that serves.
func (t *eventTopics) Current() uint16 { return t.n.core.Load().kept.Generation() }

// Open returns the topic of a generation.
func (t *eventTopics) Open(ctx context.Context, generation uint16) (events.Log, error) {
	c := t.n.core.Load()
	switch current := c.kept.Generation(); {
	case c.events == nil:
		return nil, envelope.Errorf(envelope.CodeUnavailable, "this node does not read events")
	case generation == current:
		return c.events, nil
	case generation > current || generation == 0 || t.n.cluster == nil:
		return nil, envelope.Invalid("after", "is a cursor of another server")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if log := t.older[generation]; log != nil {
		return log, nil
	}
	log, err := kafkaStorage{t.n}.eventsOf(ctx, generation, 0)
	if err != nil {
		return nil, err
	}
	if t.older == nil {
		t.older = make(map[uint16]eventsLog)
	}
	t.older[generation] = log
	return log, nil
}

// Events returns events that a caller of the API asks for.
func (s service) Events(ctx context.Context, q events.Query) (*events.Page, error) {
	return events.NewWindow(&s.n.topics).Read(ctx, q)
}
