package rpc

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"imgo/envelope"
	"imgo/internal/collectors"
)

// metrics count and time the calls of one side.
type metrics struct {
	calls   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

// newMetrics makes the metrics of side "client" or "server".
func newMetrics(reg prometheus.Registerer, side string) (*metrics, error) {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "imgo_rpc_" + side + "_calls_total",
			Help: "Calls between nodes, by method and how they ended (ok or the error's code), as the " + side + " saw them.",
		}, []string{"method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "imgo_rpc_" + side + "_call_seconds", Help: "How long calls between nodes took, as the " + side + " saw them.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 3, 11), // 0.1 ms to 6 s
		}, []string{"method"}),
	}
	_, err := collectors.Register(reg, m.calls, m.seconds)
	return m, err
}

// called counts one call.
func (m *metrics) called(method string, since time.Time, err error) {
	code := "ok"
	if err != nil {
		code = string(envelope.CodeOf(err))
	}
	m.calls.WithLabelValues(method, code).Inc()
	m.seconds.WithLabelValues(method).Observe(time.Since(since).Seconds())
}
