package httpapi

import (
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts requests; every label has a bounded set of values.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	problems *prometheus.CounterVec
	callers  *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "imgo_logic_http_requests_total",
			Help: "HTTP API requests, by route and status (499: the caller went away).",
		}, []string{"route", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "imgo_logic_http_seconds",
			Help:    "How long HTTP API requests took, from the handler's start to its answer.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 2.5, 12),
		}, []string{"route"}),
		problems: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "imgo_logic_http_problems_total",
			Help: "Requests, and pushes of a batch, that were refused or failed, by error code and the field at fault.",
		}, []string{"code", "field"}),
		callers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "imgo_logic_http_callers_total",
			Help: "Requests by the API key's name (none: no keys are set, unknown: a wrong or missing one) and whether its rate let it in.",
		}, []string{"key", "outcome"}),
	}
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.problems, m.callers} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register the HTTP API's metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) request(route string, status int, took time.Duration) {
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(route).Observe(took.Seconds())
}

func (m *metrics) problem(p *problem) {
	m.problems.WithLabelValues(string(p.code), p.label()).Inc()
}
