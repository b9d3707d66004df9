package roles

import (
	"context"
	"sync"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/roles/logic"
)

// eventTopics are the events topics of all generations, for the readers of this process. Safe for
// concurrent use.
type eventTopics struct {
	*Node

	mu sync.Mutex
	// older has topics of earlier generations. Nothing is appended to them any more.
	older map[uint16]eventsLog
}

// Current returns the generation of the core that serves.
func (t *eventTopics) Current() uint16 { return t.cores.serving.Load().kept.Generation() }

// Open returns the topic of a generation. The error is envelope.ErrNotFound if the topic of an earlier generation was
// deleted.
func (t *eventTopics) Open(ctx context.Context, generation uint16) (envelope.Log, error) {
	c := t.cores.serving.Load()
	switch current := c.kept.Generation(); {
	case c.events == nil:
		return nil, envelope.Errorf(envelope.CodeUnavailable, "this node does not read events")
	case generation == current:
		return c.events, nil
	case generation > current || generation == 0 || t.cluster == nil:
		return nil, envelope.Invalid("after", "is a cursor of another server")
	}
	if log := t.opened(generation, nil); log != nil {
		return log, nil
	}
	// Kafka may take long. Readers of other generations do not wait for it.
	log, err := t.cluster.kafka.eventsOf(ctx, generation, 0)
	if err != nil {
		return nil, err
	}
	first := t.opened(generation, log)
	if first != log {
		t.logClose(log.Close())
	}
	return first, nil
}

// opened returns the open topic of an earlier generation. If there is none yet, it is log from now on.
func (t *eventTopics) opened(generation uint16, log eventsLog) eventsLog {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.older[generation] == nil && log != nil {
		t.older[generation] = log
	}
	return t.older[generation]
}

// Events returns events that a caller of the API asks for.
func (s service) Events(ctx context.Context, q events.Query) (*events.Page, error) {
	return s.n.events.Read(ctx, q)
}

// Explain says what became of a message: what the log, the owner, the events topic and the hooks know.
func (s service) Explain(ctx context.Context, user string, id uint64) (*logic.Explanation, error) {
	c := s.n.cores.serving.Load()
	x, err := s.Logic.Explain(ctx, c.kept, user, id)
	if err != nil {
		return nil, err
	}
	var since int64
	for _, step := range x.Steps {
		if since == 0 {
			since = step.TimeMS
		}
	}
	topic, err := s.n.topics.Open(ctx, c.kept.Generation())
	if err != nil {
		return nil, err
	}
	found, complete, err := events.OfMessage(ctx, topic, envelope.Partition(user, int(topic.Partitions())), user, id, since)
	if err != nil {
		return nil, err
	}
	if !complete {
		x.Unknown = append(x.Unknown, "the events topic has too many events since then; the later ones are not looked at")
	}
	x.AddEvents(found, func(r events.Record) []string {
		if s.n.hooks == nil {
			return nil
		}
		return s.n.hooks.Outcome(topic.Generation(), r)
	})
	return x, nil
}
