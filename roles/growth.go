package roles

import (
	"context"
	"slices"
	"time"

	"imgo/cluster/growth"
	"imgo/config"
	"imgo/envelope"
	"imgo/internal/wait"
	"imgo/roles/logic"
	"imgo/roles/router"
)

// routerGrowth connects the router of one generation of the kept topic to the growth that ends this
// generation.
type routerGrowth struct {
	kafka      *kafka
	generation uint16
}

// Moving waits until the generation has to move, and opens the next one. When the
// generation is over, it waits for the end of the router.
func (g routerGrowth) Moving(ctx context.Context) (router.NextLog, error) {
	s, err := g.kafka.growth.Moving(ctx, g.generation, func(s growth.State) error { return g.kafka.makeNext(ctx, s) })
	if s.Generation > g.generation {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	return g.kafka.keptOf(ctx, s.Generation+1, s.Next)
}

// makeNext makes the topics of the next generation, or checks those that another node has made.
func (k *kafka) makeNext(ctx context.Context, s growth.State) error {
	ctx, cancel := context.WithTimeout(ctx, kafkaTry)
	defer cancel()
	if _, err := k.keptOf(ctx, s.Generation+1, s.Next); err != nil {
		return err
	}
	events, err := k.eventsOf(ctx, s.Generation+1, s.Next)
	if err != nil {
		return err
	}
	return events.Close() // the next core opens it again
}

// HasMoved reports whether a partition has moved.
func (g routerGrowth) HasMoved(partition int32) bool {
	return g.kafka.growth.HasMoved(g.generation, partition)
}

// Moved records that a partition has moved.
func (g routerGrowth) Moved(ctx context.Context, partition int32) error {
	return g.kafka.growth.Moved(ctx, g.generation, partition)
}

// generationOver returns a channel that is closed when the generation of the core ends. It is nil on a
// node without a cluster, where that never happens.
func (n *cores) generationOver() <-chan struct{} {
	if n.cluster == nil {
		return nil
	}
	return n.cluster.kafka.growth.Over(n.serving.Load().kept.Generation())
}

// replacePause is the longest pause before a node tries again to make a core of the
// generation in use.
const replacePause = time.Second

// replace replaces the running core by a core of the generation in use. It returns the runner of the
// core that runs afterwards. The error is the one that ended the old core, or the reason why the new
// core does not run.
func (n *cores) replace(ctx context.Context, old *runner) (*runner, error) {
	pause := wait.Backoff{Min: replacePause / 4, Max: replacePause}
	for {
		c, r, err := n.next(ctx)
		if err == nil {
			return r, n.change(ctx, c, r, old)
		}
		if ctx.Err() != nil {
			return old, nil
		}
		n.log.Error().Err(err).Msg("the kept topic has more partitions, but the roles cannot use them yet. The node tries again")
		select {
		case err := <-old.failed:
			return old, err
		case <-ctx.Done():
			return old, nil
		case <-time.After(pause.Next()):
		}
	}
}

// next makes a core of the generation in use. It starts all of it but job, which
// has to wait until the old core has stopped.
func (n *cores) next(ctx context.Context) (*core, *runner, error) {
	state, _ := n.cluster.kafka.growth.State()
	kept, err := n.cluster.kafka.keptOf(ctx, state.Generation, state.Partitions)
	if err != nil {
		return nil, nil, err
	}
	s, err := n.cluster.storageOf(ctx, kept)
	if err != nil {
		return nil, nil, err
	}
	c, _, err := n.newCore(ctx, s)
	if err == nil {
		n.register(c)
		r := newRunner(n.log)
		if err = r.start(ctx, slices.DeleteFunc(c.stages(), isJob)...); err == nil {
			return c, r, nil
		}
		err = r.stop(err, n.cfg.Shutdown.Timeout)
	}
	n.cluster.kafka.forget(state.Generation) // its log is closed
	if s.group != nil {
		n.logClose(s.group.Close())
	}
	return nil, nil, err
}

// change makes a new core the serving one and stops the old one. All stages of the new core except job
// run already. Only one core runs job at a time, so that the consumer group assigns each partition once.
func (n *cores) change(ctx context.Context, c *core, r, old *runner) error {
	before := n.serving.Swap(c)
	before.endStreams()
	n.cluster.remote.Store(c.remote)
	n.cluster.server.Register(c.offered)
	err := n.cluster.updateMeta(func(m *envelope.NodeMeta) {
		m.KeptPartitions, m.Generation = uint32(c.kept.Partitions()), uint32(c.kept.Generation())
	})
	if err != nil {
		n.log.Warn().Err(err).Msg("the other nodes were not told that this node uses more partitions")
	}
	if err := old.stop(nil, n.cfg.Shutdown.Timeout); err != nil {
		n.log.Error().Err(err).Msg("the roles of the former generation did not stop cleanly")
	}
	n.cluster.kafka.forget(before.kept.Generation())
	if before.group != nil { // job has left it, unless it did not stop in time
		n.logClose(before.group.Close())
	}
	n.log.Info().Uint16("generation", c.kept.Generation()).Int32("partitions", c.kept.Partitions()).
		Msg("the roles use the kept topic's new partitions")
	return r.start(ctx, slices.DeleteFunc(c.stages(), func(s stage) bool { return !isJob(s) })...)
}

func isJob(s stage) bool { return s.name == config.RoleJob }

// forget makes the next keptOf open the generation again.
func (k *kafka) forget(generation uint16) {
	k.keptMu.Lock()
	defer k.keptMu.Unlock()
	delete(k.kept, generation)
}

// errAlone explains why a single process gets no more partitions.
var errAlone = envelope.Conflict("kept",
	"cannot be changed in one process: its partitions are no limit, since one router has all of them; "+
		"they count in a cluster, where each router has some")

// Partitions returns the number of partitions of the kept topic and the progress of its growth.
func (s service) Partitions(context.Context) (logic.Partitions, error) {
	kept := s.n.cores.serving.Load().kept
	if s.n.cluster == nil {
		return logic.Partitions{Kept: int(kept.Partitions()), Generation: int(kept.Generation())}, nil
	}
	state, _ := s.n.cluster.kafka.growth.State()
	return partitionsOf(state), nil
}

// Grow starts to give the kept topic more partitions. It does not wait for the end of the growth.
func (s service) Grow(ctx context.Context, kept int) (logic.Partitions, error) {
	if s.n.cluster == nil {
		return logic.Partitions{}, errAlone
	}
	state, err := s.n.cluster.kafka.growth.Grow(ctx, kept)
	return partitionsOf(state), err
}

func partitionsOf(s growth.State) logic.Partitions {
	return logic.Partitions{
		Kept: int(s.Partitions), Generation: int(s.Generation), Next: int(s.Next), Moved: int(s.Moved), SinceMS: s.SinceMS,
	}
}
