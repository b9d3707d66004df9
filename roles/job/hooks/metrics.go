package hooks

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	calls, events   *prometheus.CounterVec
	seconds         *prometheus.HistogramVec
	lag, open, dead *prometheus.GaugeVec
	paused          *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	partition := []string{"hook", "partition"}
	return &metrics{
		calls: f.NewCounterVec(prometheus.CounterOpts{
			Name: "imgo_hook_calls_total", Help: "Calls of hooks, by outcome: answered, failed, refused.",
		}, []string{"hook", "outcome"}),
		events: f.NewCounterVec(prometheus.CounterOpts{
			Name: "imgo_hook_events_total",
			Help: "Events that hooks have ended with, by result: posted, dead (set aside), skipped (left the topic before).",
		}, []string{"hook", "result"}),
		seconds: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "imgo_hook_call_seconds", Help: "Duration of the calls of hooks.", Buckets: prometheus.ExponentialBuckets(0.005, 4, 7),
		}, []string{"hook"}),
		lag: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "imgo_hook_lag_events", Help: "Events of the topic that a hook has not ended with, those of other types included.",
		}, partition),
		open: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "imgo_hook_open_events", Help: "Events that were read and not answered yet.",
		}, partition),
		dead: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "imgo_hook_dead_letters", Help: "Dead letters that can be replayed.",
		}, partition),
		paused: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "imgo_hook_paused", Help: "Whether a hook is paused: 0 or 1.",
		}, []string{"hook"}),
	}
}

func (m *metrics) set(hook string, partition int32, lag int64, open, dead int) {
	p := strconv.Itoa(int(partition))
	m.lag.WithLabelValues(hook, p).Set(float64(lag))
	m.open.WithLabelValues(hook, p).Set(float64(open))
	m.dead.WithLabelValues(hook, p).Set(float64(dead))
}

// forget removes the metrics of a partition that another process carries.
func (m *metrics) forget(hook string, partition int32) {
	p := strconv.Itoa(int(partition))
	for _, g := range []*prometheus.GaugeVec{m.lag, m.open, m.dead} {
		g.DeleteLabelValues(hook, p)
	}
}
