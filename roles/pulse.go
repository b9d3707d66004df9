package roles

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/internal/wait"
)

const (
	// pulseEvery is how often a router asks the kept log for an answer.
	pulseEvery = time.Second
	// pulseTimeout bounds one question.
	pulseTimeout = 2 * time.Second
	// cutAfter is the time without an answer after which a router gives up its partitions. It is longer
	// than Kafka takes to move a broker's partitions to another broker.
	cutAfter = 10 * time.Second
)

// pulse asks the kept log whether it answers. A router that cannot read the log cannot own a
// partition: its mailboxes do not change, and it answers no question about them. So it says in gossip
// that it is cut off. The other routers own its partitions until the log answers again. If no router
// can read the log, the log itself is away, and all routers keep what they own.
type pulse struct {
	ask func(ctx context.Context, try int32) error
	// announce says in gossip whether this router is cut off from the log.
	announce func(cut bool) error
	// ownsNone reports whether other routers own all partitions.
	ownsNone func() bool
	log      zerolog.Logger

	cut atomic.Bool
}

// newPulse returns the pulse of the kept log that the router reads. It asks for one partition after
// the other, because they are on different brokers.
func (c *cluster) newPulse() *pulse {
	return &pulse{
		ask: func(ctx context.Context, try int32) error {
			kept := c.opts.Faults.routerLog(c.cores.serving.Load().kept)
			_, _, err := kept.Bounds(ctx, try%kept.Partitions())
			return err
		},
		announce: func(cut bool) error { return c.updateMeta(func(m *envelope.NodeMeta) { m.Cut = cut }) },
		ownsNone: func() bool { owned, _ := c.remote.Load().owned(); return len(owned) == 0 },
		log:      c.log,
	}
}

// run asks until ctx is done.
func (p *pulse) run(ctx context.Context) error {
	answered := time.Now()
	for try := int32(0); ctx.Err() == nil; try++ {
		qctx, cancel := context.WithTimeout(ctx, pulseTimeout)
		err := p.ask(qctx, try)
		cancel()
		if err == nil {
			answered = time.Now()
		}
		if cut := time.Since(answered) > cutAfter; cut != p.cut.Load() && ctx.Err() == nil {
			p.change(cut, err)
		}
		if wait.Sleep(ctx, pulseEvery) != nil {
			return nil
		}
	}
	return nil
}

// change announces that the log answers, or does not answer.
func (p *pulse) change(cut bool, err error) {
	if terr := p.announce(cut); terr != nil {
		p.log.Warn().Err(terr).Msg("the other nodes were not told whether this router can read the log; trying again")
		return
	}
	p.cut.Store(cut)
	if cut {
		p.log.Error().Err(err).Dur("since", cutAfter).
			Msg("the kept log does not answer: this router gives up its partitions to routers that can read it")
	} else {
		p.log.Info().Msg("the kept log answers again: this router takes partitions again")
	}
}

// ready returns an error while the router has given up its partitions.
func (p *pulse) ready() error {
	if p.cut.Load() && p.ownsNone() {
		return envelope.Errorf(envelope.CodeUnavailable,
			"the kept log has not answered for %s: other routers own the partitions of this one", cutAfter)
	}
	return nil
}
