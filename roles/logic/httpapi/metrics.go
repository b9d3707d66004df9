package httpapi

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"imgo/internal/collectors"
	"imgo/roles/logic/httpapi/internal/httpcall"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts requests. Every label has a bounded set of values.
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
			Help: "Requests by the API key's name (none: no keys are set, unknown: a wrong or missing one) " +
				"and whether its rate and its scopes let it in.",
		}, []string{"key", "outcome"}),
	}
	if _, err := collectors.Register(reg, m.requests, m.seconds, m.problems, m.callers); err != nil {
		return nil, fmt.Errorf("register the HTTP API's metrics: %w", err)
	}
	return m, nil
}

func (m *metrics) request(route string, status int, took time.Duration) {
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(route).Observe(took.Seconds())
}

func (m *metrics) problem(p *httpcall.Problem) {
	m.problems.WithLabelValues(string(p.Code), fieldLabel(p.Field)).Inc()
}

// fieldLabel returns a problem's field as a metric's label. Names that callers
// made up, and indexes, would make series without end.
func fieldLabel(field string) string {
	name, _, _ := strings.Cut(field, "[")
	if name == "" {
		return "none"
	}
	if slices.Contains(labelledFields, name) {
		return name
	}
	return "other"
}

// labelledFields are the fields of all requests that can be at fault.
var labelledFields = []string{
	"user", "users", "keys", "room", "all", "body", "body_text", "body_base64", "op", "kept", "ttl",
	"idempotency_key", "Idempotency-Key", "pushes", "ids", "device", "session", "reason", "code", "prefix", "limit",
	"after", "token", "single", "close", "uid", "mid", "cb", "rid", "server", "expire", "u", "m", "operation", "mids",
	"type", "rooms", "speed", "platform", "Authorization", "Origin", "Host",
}
