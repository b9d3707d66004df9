package members

import (
	"github.com/prometheus/client_golang/prometheus"

	"imgo/internal/collectors"
)

// metrics are the metrics of the membership.
type metrics struct {
	changes *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, m *Members) (*metrics, error) {
	x := &metrics{changes: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "imgo_members_changes_total", Help: "What was heard of nodes, by kind: join, update, leave (left or died).",
	}, []string{"kind"})}
	_, err := collectors.Register(reg,
		x.changes,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "imgo_members_nodes", Help: "Nodes that this node knows to be alive, itself included.",
		}, func() float64 { return float64(len(m.Snapshot().Nodes)) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "imgo_members_mismatches", Help: "Nodes that have another idea of the log than this one: none should.",
		}, func() float64 { return float64(len(m.Snapshot().Mismatches)) }),
	)
	return x, err
}
