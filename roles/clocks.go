package roles

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

const (
	// clockEvery is how often a node compares its clock with those of the others.
	clockEvery = 15 * time.Second
	// clockLimit is the difference from which on a node warns. A message's ttl goes by the log's
	// clock, but tokens and idempotency keys end by those of the nodes.
	clockLimit = 5 * time.Second
)

// compareClocks compares this node's clock with those of the other nodes, until ctx is done.
func (c *statusReport) compareClocks(ctx context.Context) error {
	n := c.cluster
	skew := promauto.With(n.metrics).NewGauge(prometheus.GaugeOpts{
		Name: "imgo_cluster_clock_skew_seconds",
		Help: "Largest difference between the clock of this node and that of another one, at the last comparison.",
	})
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	for warned := false; ; {
		worst, name := time.Duration(0), ""
		for _, node := range c.nodes(ctx) {
			if d := (time.Duration(node.ClockMS) * time.Millisecond).Abs(); d > worst {
				worst, name = d, node.Name
			}
		}
		skew.Set(worst.Seconds())
		if over := worst > clockLimit; over != warned {
			warned = over
			if over {
				n.log.Warn().Str("other", name).Dur("difference", worst).
					Msg("the clocks of two nodes differ: tokens and idempotency keys may end early or late; synchronize the clocks")
			} else {
				n.log.Info().Msg("the clocks of the nodes agree again")
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
