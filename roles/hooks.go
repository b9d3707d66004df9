package roles

import (
	"context"
	"fmt"
	"time"

	"imgo/cluster/bus"
	"imgo/config"
	"imgo/envelope"
	"imgo/internal/events"
	"imgo/roles/job/hooks"
)

// hookTopic is the name of the compacted topic, or of the table in the data folder, with the state of the
// hooks.
const hookTopic = "hooks"

// newHooks makes the hooks of the settings: they post if this process runs job. It returns nil if there are none, or no role
// here needs them. They live as long as the node, and follow the events topic through growth.
func (n *Node) newHooks(ctx context.Context) (*hooks.Hooks, error) {
	posts := n.cfg.Runs(config.RoleJob)
	if len(n.cfg.Hooks) == 0 || !posts && !n.cfg.Runs(config.RoleLogic) {
		return nil, nil
	}
	deps := hooks.Deps{
		Topics: &n.topics, ShowOnly: !posts, Log: n.log, Metrics: n.metrics, Now: n.now, Retention: n.cfg.Events.Retention,
	}
	var err error
	if n.cluster == nil {
		deps.Table, err = n.stores.db.Table(hookTopic)
	} else {
		deps.Group = n.topics.joinHookGroup
		deps.Table, err = n.cluster.kafka.awaitTopic(ctx, hookTopic)
	}
	if err != nil {
		return nil, fmt.Errorf("open the state of the hooks: %w", err)
	}
	return hooks.New(n.cfg.Hooks, deps)
}

// joinHookGroup joins Kafka's group of a hook.
func (t *eventTopics) joinHookGroup(ctx context.Context, hook string, generation uint16) (hooks.Group, error) {
	log, err := t.Open(ctx, generation)
	if err != nil {
		return nil, err
	}
	topic, ok := log.(*bus.Log)
	if !ok {
		return nil, fmt.Errorf("the events of generation %d are not on Kafka", generation)
	}
	g, err := t.cluster.kafka.bus.Group(ctx, bus.GroupOptions{Name: fmt.Sprintf("hook.%s.%d", hook, generation), Logs: []*bus.Log{topic}})
	if err != nil {
		return nil, err
	}
	return group{g}, nil
}

// Hooks returns what the hooks have done and have to do.
func (s service) Hooks(ctx context.Context) ([]events.Hook, error) {
	if s.n.hooks == nil {
		return []events.Hook{}, nil
	}
	return s.n.hooks.List(ctx)
}

// errNoHooks is the answer to a change of a hook where the settings have none.
var errNoHooks = envelope.Errorf(envelope.CodeNotFound, "there are no hooks: add [[hooks]] to the settings")

// ReplayHook makes a hook post again what the topic has from a time on.
func (s service) ReplayHook(ctx context.Context, hook string, fromMS int64) error {
	if s.n.hooks == nil {
		return errNoHooks
	}
	return s.n.hooks.Replay(ctx, hook, time.UnixMilli(fromMS))
}

// RetryHook makes a hook post its dead letters again.
func (s service) RetryHook(ctx context.Context, hook string) error {
	if s.n.hooks == nil {
		return errNoHooks
	}
	return s.n.hooks.Retry(ctx, hook)
}

// ResumeHook ends the pause of a hook.
func (s service) ResumeHook(ctx context.Context, hook string) error {
	if s.n.hooks == nil {
		return errNoHooks
	}
	return s.n.hooks.Resume(ctx, hook)
}
