package roles

import (
	"context"

	"imgo/cluster/bus"
	"imgo/cluster/pulse"
	"imgo/envelope"
)

// newPulse returns the pulse of the kept log that the router reads. It asks for one partition after
// the other, because they are on different brokers. A router that cannot read the log cannot own a
// partition: its mailboxes do not change, and it answers no question about them.
//
// A router that cannot reach one of several brokers keeps that broker's partitions: nobody tells whether another router
// can read them. It is not ready meanwhile.
func (c *cluster) newPulse() *pulse.Pulse {
	return pulse.New(pulse.Config{
		Ask: func(ctx context.Context, try int32) error {
			kept := c.opts.Faults.routerLog(c.cores.serving.Load().kept)
			_, _, err := kept.Bounds(ctx, try%kept.Partitions())
			return err
		},
		Announce: func(cut bool) error { return c.updateMeta(func(m *envelope.NodeMeta) { m.Cut = cut }) },
		Replaced: func() bool { owned, _ := c.remote.Load().owned(); return len(owned) == 0 },
		Unreadable: func() (why error) {
			kept, ok := c.cores.serving.Load().kept.(*bus.Log)
			owned, _ := c.remote.Load().owned()
			for i := 0; ok && i < len(owned) && why == nil; i++ {
				why = kept.Unreadable(owned[i])
			}
			return why
		},
		Texts: pulse.Texts{
			Silent:   "the kept log does not answer: this router gives up its partitions to routers that can read it",
			Answers:  "the kept log answers again: this router takes partitions again",
			NotReady: "the kept log has not answered for %s: other routers own the partitions of this one",
		},
		Log: c.log,
	})
}

// newTokensPulse returns the pulse of the tokens topic that the logic reads. A logic that cannot read it does not learn
// which tokens are revoked. It has a field of its own in gossip, because no router needs the topic.
func (c *cluster) newTokensPulse() *pulse.Pulse {
	return pulse.New(pulse.Config{
		Ask:        func(ctx context.Context, _ int32) error { return c.kafka.tokens.Sync(ctx) },
		Announce:   func(cut bool) error { return c.updateMeta(func(m *envelope.NodeMeta) { m.StaleTokens = cut }) },
		Replaced:   func() bool { return c.remote.Load().state.Load().logicReplaced },
		Unreadable: func() error { return nil },
		Texts: pulse.Texts{
			Silent:   "the tokens topic cannot be read: comets call logics that can read it, if there are any",
			Answers:  "the tokens topic can be read again: comets call this logic again",
			NotReady: "the tokens topic could not be read for %s: comets call other logics",
		},
		Log: c.log,
	})
}
