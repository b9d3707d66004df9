package roles

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"imgo/cluster/bus"
	"imgo/envelope"
	"imgo/internal/wait"
)

const (
	// pulseEvery is how often a router asks the kept log for an answer.
	pulseEvery = time.Second
	// pulseTimeout bounds one question.
	pulseTimeout = 2 * time.Second
	// cutAfter is the time without an answer after which a router gives up its partitions.
	cutAfter = bus.UnreadableAfter
)

// pulse asks the kept log whether it answers. A router that cannot read the log cannot own a
// partition: its mailboxes do not change, and it answers no question about them. So it says in gossip
// that it is cut off. The other routers own its partitions until the log answers again. If no router
// can read the log, the log itself is away, and all routers keep what they own.
//
// A router that cannot reach one of several brokers keeps that broker's partitions: nobody tells whether another router
// can read them. It is not ready meanwhile.
type pulse struct {
	ask func(ctx context.Context, try int32) error
	// announce says in gossip whether this router is cut off from the log.
	announce func(cut bool) error
	// ownsNone reports whether other routers own all partitions.
	ownsNone func() bool
	// unreadable returns why an owned partition cannot be read, or nil.
	unreadable func() error
	log        zerolog.Logger

	cut atomic.Bool
	// missing is why an owned partition cannot be read although the log answers, or nil.
	missing atomic.Pointer[error]
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
		unreadable: func() (why error) {
			kept, ok := c.cores.serving.Load().kept.(*bus.Log)
			owned, _ := c.remote.Load().owned()
			for i := 0; ok && i < len(owned) && why == nil; i++ {
				why = kept.Unreadable(owned[i])
			}
			return why
		},
		log: c.log,
	}
}

// run asks until ctx is done.
func (p *pulse) run(ctx context.Context) error {
	answered, back := time.Now(), time.Time{}
	announced := true // the other nodes know cut
	for try := int32(0); ctx.Err() == nil; try++ {
		qctx, cancel := context.WithTimeout(ctx, pulseTimeout)
		err := p.ask(qctx, try)
		cancel()
		if err == nil {
			answered = time.Now()
		}
		cut := time.Since(answered) > cutAfter
		if (cut != p.cut.Load() || !announced) && ctx.Err() == nil {
			announced = p.change(cut, err)
			back = time.Now()
		}
		switch why := p.unreadable(); {
		case why == nil, cut, time.Since(back) < cutAfter: // after an outage of all, each broker has time to come back
			p.missing.Store(nil)
		case err == nil: // another broker answers
			p.missing.Store(&why)
		}
		if wait.Sleep(ctx, pulseEvery) != nil {
			return nil
		}
	}
	return nil
}

// change announces that the log answers, or does not answer. It reports whether the other nodes were told. If not, they
// may know of it or not, so the next round announces again, whatever is true then.
func (p *pulse) change(cut bool, err error) (announced bool) {
	p.cut.Store(cut)
	if terr := p.announce(cut); terr != nil {
		p.log.Warn().Err(terr).Msg("the other nodes were not told whether this router can read the log; trying again")
		return false
	}
	if cut {
		p.log.Error().Err(err).Dur("since", cutAfter).
			Msg("the kept log does not answer: this router gives up its partitions to routers that can read it")
	} else {
		p.log.Info().Msg("the kept log answers again: this router takes partitions again")
	}
	return true
}

// ready returns an error while the router has given up its partitions, or cannot read one of them.
func (p *pulse) ready() error {
	if missing := p.missing.Load(); missing != nil {
		return envelope.Errorf(envelope.CodeUnavailable, "%v", *missing)
	}
	if p.cut.Load() && p.ownsNone() {
		return envelope.Errorf(envelope.CodeUnavailable,
			"the kept log has not answered for %s: other routers own the partitions of this one", cutAfter)
	}
	return nil
}
