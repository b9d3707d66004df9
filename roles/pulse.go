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
	// pulseEvery is how often a node asks a log for an answer.
	pulseEvery = time.Second
	// pulseTimeout bounds one question.
	pulseTimeout = 2 * time.Second
	// cutAfter is the time without an answer after which other nodes do the work of this one.
	cutAfter = bus.UnreadableAfter
)

// pulse asks a log whether it answers, and says in gossip when it does not, so that other nodes do the work of this one.
// If no node can read the log, the log itself is away, and all nodes keep their work.
type pulse struct {
	ask func(ctx context.Context, try int32) error
	// announce says in gossip whether this node is cut off from the log.
	announce func(cut bool) error
	// replaced reports whether other nodes do the work of this one.
	replaced func() bool
	// unreadable returns why a part of the log cannot be read, or nil.
	unreadable func() error
	says       pulseTexts
	log        zerolog.Logger

	cut atomic.Bool
	// missing is why a part cannot be read although the log answers, or nil.
	missing atomic.Pointer[error]
}

// pulseTexts are what a pulse says when the log does not answer, when it answers again, and why the node is not ready.
type pulseTexts struct{ silent, answers, notReady string }

// newPulse returns the pulse of the kept log that the router reads. It asks for one partition after
// the other, because they are on different brokers. A router that cannot read the log cannot own a
// partition: its mailboxes do not change, and it answers no question about them.
//
// A router that cannot reach one of several brokers keeps that broker's partitions: nobody tells whether another router
// can read them. It is not ready meanwhile.
func (c *cluster) newPulse() *pulse {
	return &pulse{
		ask: func(ctx context.Context, try int32) error {
			kept := c.opts.Faults.routerLog(c.cores.serving.Load().kept)
			_, _, err := kept.Bounds(ctx, try%kept.Partitions())
			return err
		},
		announce: func(cut bool) error { return c.updateMeta(func(m *envelope.NodeMeta) { m.Cut = cut }) },
		replaced: func() bool { owned, _ := c.remote.Load().owned(); return len(owned) == 0 },
		unreadable: func() (why error) {
			kept, ok := c.cores.serving.Load().kept.(*bus.Log)
			owned, _ := c.remote.Load().owned()
			for i := 0; ok && i < len(owned) && why == nil; i++ {
				why = kept.Unreadable(owned[i])
			}
			return why
		},
		says: pulseTexts{
			silent:   "the kept log does not answer: this router gives up its partitions to routers that can read it",
			answers:  "the kept log answers again: this router takes partitions again",
			notReady: "the kept log has not answered for %s: other routers own the partitions of this one",
		},
		log: c.log,
	}
}

// newTokensPulse returns the pulse of the tokens topic that the logic reads. A logic that cannot read it does not learn
// which tokens are revoked. It has a field of its own in gossip, because no router needs the topic.
func (c *cluster) newTokensPulse() *pulse {
	return &pulse{
		ask:        func(ctx context.Context, _ int32) error { return c.kafka.tokens.Sync(ctx) },
		announce:   func(cut bool) error { return c.updateMeta(func(m *envelope.NodeMeta) { m.StaleTokens = cut }) },
		replaced:   func() bool { return c.remote.Load().state.Load().logicReplaced },
		unreadable: func() error { return nil },
		says: pulseTexts{
			silent:   "the tokens topic cannot be read: comets call logics that can read it, if there are any",
			answers:  "the tokens topic can be read again: comets call this logic again",
			notReady: "the tokens topic could not be read for %s: comets call other logics",
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
		p.log.Warn().Err(terr).Msg("the other nodes were not told whether this node can read a log; trying again")
		return false
	}
	if cut {
		p.log.Error().Err(err).Dur("since", cutAfter).Msg(p.says.silent)
	} else {
		p.log.Info().Msg(p.says.answers)
	}
	return true
}

// ready returns an error while other nodes do the work of this one, or a part of the log cannot be read.
func (p *pulse) ready() error {
	if missing := p.missing.Load(); missing != nil {
		return envelope.Errorf(envelope.CodeUnavailable, "%v", *missing)
	}
	if p.cut.Load() && p.replaced() {
		return envelope.Errorf(envelope.CodeUnavailable, p.says.notReady, cutAfter)
	}
	return nil
}
