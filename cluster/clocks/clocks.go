// Package clocks compares the clock of this node with those of the other nodes. It exports the largest difference, and warns
// once while that is more than five seconds. It sets no clock.
package clocks

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/rs/zerolog"
)

const (
	// interval is how often a node compares its clock with those of the others.
	interval = 15 * time.Second
	// limit is the difference from which on a node warns. A message's ttl goes by the log's clock, but
	// tokens and idempotency keys end by those of the nodes.
	limit = 5 * time.Second
)

// Differences returns by how much the clock of each node is ahead of this one's, by the node's name.
type Differences func(ctx context.Context) map[string]time.Duration

// Compare compares this node's clock with those of the other nodes, until ctx is done.
func Compare(ctx context.Context, ahead Differences, reg prometheus.Registerer, log zerolog.Logger) error {
	skew := promauto.With(reg).NewGauge(prometheus.GaugeOpts{
		Name: "imgo_cluster_clock_skew_seconds",
		Help: "Largest difference between the clock of this node and that of another one, at the last comparison.",
	})
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for warned := false; ; {
		worst, name := time.Duration(0), ""
		for node, d := range ahead(ctx) {
			if d = d.Abs(); d > worst {
				worst, name = d, node
			}
		}
		skew.Set(worst.Seconds())
		if over := worst > limit; over != warned {
			warned = over
			if over {
				log.Warn().Str("other", name).Dur("difference", worst).
					Msg("the clocks of two nodes differ: tokens and idempotency keys may end early or late; synchronize the clocks")
			} else {
				log.Info().Msg("the clocks of the nodes agree again")
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
