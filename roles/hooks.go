package roles

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"imgo/cluster/bus"
	"imgo/config"
	"imgo/envelope"
	"imgo/internal/events"
	"imgo/roles/job/hooks"
)

// hookTopic is the name of the compacted topic, or of the table in the data folder, with the state of the
// hooks.
const hookTopic = "hooks"

// hookService are the hooks of this process: poster is nil if it does not run job, admin if it does not
// run logic. They live as long as the node, and follow the events topic through growth.
type hookService struct {
	poster *hooks.Hooks
	admin  *hooks.Admin
}

// newHooks makes the hooks of the settings. It returns nil if there are none, or no role here needs them.
func (n *Node) newHooks(ctx context.Context) (*hookService, error) {
	posts, shows := n.cfg.Runs(config.RoleJob), n.cfg.Runs(config.RoleLogic)
	if len(n.cfg.Hooks) == 0 || !posts && !shows {
		return nil, nil
	}
	var table hooks.Table
	var err error
	if n.cluster == nil {
		table, err = n.stores.db.Table(hookTopic)
	} else {
		table, err = n.cluster.kafka.awaitTopic(ctx, hookTopic)
	}
	if err != nil {
		return nil, fmt.Errorf("open the state of the hooks: %w", err)
	}
	s := &hookService{}
	deps := hooks.Deps{
		Topics: &n.topics, Table: table, Log: n.log, Metrics: n.metrics, Now: n.now, Retention: n.cfg.Events.Retention,
	}
	if shows {
		s.admin = hooks.NewAdmin(n.cfg.Hooks, deps)
	}
	if posts {
		if n.cluster != nil {
			deps.Group = n.topics.joinHookGroup
		}
		s.poster, err = hooks.New(n.cfg.Hooks, deps)
	}
	return s, err
}

// run runs the hooks until ctx is done.
func (s *hookService) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if s.poster != nil {
		g.Go(func() error { return s.poster.Run(ctx) })
	}
	if s.admin != nil {
		g.Go(func() error { return s.admin.Run(ctx) })
	}
	return g.Wait()
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
	return s.n.hooks.admin.List(ctx)
}

// errNoHooks is the answer to a change of a hook where the settings have none.
var errNoHooks = envelope.Errorf(envelope.CodeNotFound, "there are no hooks: add [[hooks]] to the settings")

// ReplayHook makes a hook post again what the topic has from a time on.
func (s service) ReplayHook(ctx context.Context, hook string, fromMS int64) error {
	if s.n.hooks == nil {
		return errNoHooks
	}
	return s.n.hooks.admin.Replay(ctx, hook, time.UnixMilli(fromMS))
}

// RetryHook makes a hook post its dead letters again.
func (s service) RetryHook(ctx context.Context, hook string) error {
	if s.n.hooks == nil {
		return errNoHooks
	}
	return s.n.hooks.admin.Retry(ctx, hook)
}

// ResumeHook ends the pause of a hook.
func (s service) ResumeHook(ctx context.Context, hook string) error {
	if s.n.hooks == nil {
		return errNoHooks
	}
	return s.n.hooks.admin.Resume(ctx, hook)
}
