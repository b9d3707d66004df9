package roles

import (
	"context"
	"slices"
	"time"

	"imgo/cluster/growth"
	"imgo/config"
	"imgo/envelope"
	"imgo/roles/logic"
	"imgo/roles/router"
)

// moves is how the router of one generation of the kept topic takes part in
// what makes it the last.
type moves struct {
	n          *Node
	generation uint16
}

// Moving waits until the generation is to move, and opens the next one.
func (m moves) Moving(ctx context.Context) (router.NextLog, error) {
	s, err := m.n.cluster.growth.Moving(ctx, m.generation)
	if err != nil {
		return nil, err
	}
	return m.n.keptOf(ctx, s.Generation+1, s.Next)
}

// HasMoved says whether a partition has.
func (m moves) HasMoved(partition int32) bool {
	return m.n.cluster.growth.HasMoved(m.generation, partition)
}

// Moved notes that a partition has.
func (m moves) Moved(ctx context.Context, partition int32) error {
	return m.n.cluster.growth.Moved(ctx, m.generation, partition)
}

// outgrown is closed when the core is of a generation that is over; nil: never.
func (n *Node) outgrown() <-chan struct{} {
	if n.cluster == nil {
		return nil
	}
	return n.cluster.growth.Over(n.core.Load().kept.Generation())
}

// replacePause is how long a node waits before it tries again to make a core of
// the generation that is in use.
const replacePause = time.Second

// replaceCore puts a core of the generation that is in use into the place of the
// one that runs, and returns the runner of what runs then. The error is what
// ended it, or why the new one does not run.
func (n *Node) replaceCore(ctx context.Context, old *runner) (*runner, error) {
	for {
		c, r, err := n.nextCore(ctx)
		if err == nil {
			return r, n.change(ctx, c, r, old)
		}
		if ctx.Err() != nil {
			return old, nil
		}
		n.log.Error().Err(err).Msg("the kept topic has more partitions, but the roles cannot use them yet: trying again")
		select {
		case err := <-old.failed:
			return old, err
		case <-ctx.Done():
			return old, nil
		case <-time.After(replacePause):
		}
	}
}

// nextCore makes a core of the generation that is in use and starts what of it
// does not need the other nodes to be as far.
func (n *Node) nextCore(ctx context.Context) (*core, *runner, error) {
	s, _ := n.cluster.growth.State()
	kept, err := n.keptOf(ctx, s.Generation, s.Partitions)
	if err != nil {
		return nil, nil, err
	}
	g, err := n.groundOn(ctx, kept)
	if err != nil {
		return nil, nil, err
	}
	c, _, err := n.newCore(ctx, g)
	if err == nil {
		n.know(c)
		r := newRunner()
		if err = r.start(ctx, c.stagesBut(config.RoleJob)...); err == nil {
			return c, r, nil
		}
		err = r.stop(err, n.cfg.Shutdown.Timeout)
	}
	n.cluster.forget(s.Generation) // it is closed
	if g.group != nil {
		n.closed(g.group.Close())
	}
	return nil, nil, err
}

// change lets a core, which runs but for its job, take over from the one that
// runs, and stops that one. Only one of them has a job, so that the group of
// all jobs shares the partitions out once.
func (n *Node) change(ctx context.Context, c *core, r, old *runner) error {
	before := n.core.Swap(c)
	n.cluster.peers.Store(c.peers)
	n.cluster.server.Register(c.offered)
	err := n.cluster.tell(func(m *envelope.NodeMeta) {
		m.KeptPartitions, m.Generation = uint32(c.kept.Partitions()), uint32(c.kept.Generation())
	})
	if err != nil {
		n.log.Warn().Err(err).Msg("the other nodes were not told that this one uses more partitions")
	}
	if err := old.stop(nil, n.cfg.Shutdown.Timeout); err != nil {
		n.log.Error().Err(err).Msg("the roles of the generation before did not stop as they should")
	}
	n.cluster.forget(before.kept.Generation())
	if before.group != nil {
		n.closed(before.group.Close())
	}
	n.log.Info().Uint16("generation", c.kept.Generation()).Int32("partitions", c.kept.Partitions()).Msg("the roles use the kept topic's new partitions")
	return r.start(ctx, slices.DeleteFunc(c.stages(), func(s stage) bool { return s.name != config.RoleJob })...)
}

// stagesBut are a core's stages without one.
func (c *core) stagesBut(name string) []stage {
	return slices.DeleteFunc(c.stages(), func(s stage) bool { return s.name == name })
}

// forget has a generation of the kept topic opened anew when it is asked for.
func (c *cluster) forget(generation uint16) {
	c.keptMu.Lock()
	defer c.keptMu.Unlock()
	delete(c.kept, generation)
}

// errAlone is why a single process has no more partitions.
var errAlone = envelope.Invalid("kept", "cannot be changed in one process: its partitions are no limit, since one router has all of them; they count in a cluster, where each router has some")

// Partitions is how many the kept topic has, and how far its growth is.
func (s service) Partitions(context.Context) (logic.Partitions, error) {
	kept := s.n.core.Load().kept
	if s.n.cluster == nil {
		return logic.Partitions{Kept: int(kept.Partitions()), Generation: int(kept.Generation())}, nil
	}
	state, _ := s.n.cluster.growth.State()
	return partitionsOf(state), nil
}

// Grow begins to give the kept topic more partitions.
func (s service) Grow(ctx context.Context, kept int) (logic.Partitions, error) {
	if s.n.cluster == nil {
		return logic.Partitions{}, errAlone
	}
	state, err := s.n.cluster.growth.Grow(ctx, kept)
	return partitionsOf(state), err
}

func partitionsOf(s growth.State) logic.Partitions {
	return logic.Partitions{
		Kept: int(s.Partitions), Generation: int(s.Generation), Next: int(s.Next), Moved: int(s.Moved), SinceMS: s.SinceMS,
	}
}
