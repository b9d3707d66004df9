package logic

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"imgo/envelope"
	"imgo/internal/collectors"
)

// The kinds of a push, as metrics and Stats name them.
const (
	kindKept  = "kept"
	kindUsers = "users"
	kindKeys  = "keys"
	kindRoom  = "room"
	kindAll   = "all"
	kindNone  = "none" // a push that names no target, or several
)

// metrics is logic's metrics. The values of their labels are bounded.
type metrics struct {
	pushes      *prometheus.CounterVec
	pushSeconds *prometheus.HistogramVec
	connects    *prometheus.CounterVec
	authSeconds prometheus.Histogram
	acks        *prometheus.CounterVec
	reads       *prometheus.CounterVec
	catchUps    *prometheus.CounterVec
	upstream    *prometheus.CounterVec // to, outcome
	kicks       prometheus.Counter
	notices     *prometheus.CounterVec
	unlooked    prometheus.Counter

	// accepted and connected are found once, by their labels: to find them for
	// each push or connect would cost more than to count.
	accepted  map[string]*acceptedPushes // by kind
	connected prometheus.Counter         // accepted connects
}

// acceptedPushes counts the accepted pushes of one kind.
type acceptedPushes struct {
	total   atomic.Uint64 // for Stats
	counter prometheus.Counter
	seconds prometheus.Observer
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	seconds := []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	m := &metrics{
		pushes: counter("imgo_logic_pushes_total",
			"Pushes by kind (kept, users, keys, room, all) and outcome (accepted, duplicate, or the error's code).", "kind", "outcome"),
		pushSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "imgo_logic_push_seconds", Help: "How long an accepted push took, until the log had it.", Buckets: seconds,
		}, []string{"kept"}),
		connects: counter("imgo_logic_connects_total", "Connects by outcome (accepted, or the error's code).", "outcome"),
		authSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "imgo_logic_auth_seconds", Help: "How long a token's check took.", Buckets: seconds,
		}),
		acks:     counter("imgo_logic_acks_total", "Message ids that comets sent acknowledgements of, by outcome.", "outcome"),
		reads:    counter("imgo_logic_reads_total", "Calls that told of messages that were read, by outcome.", "outcome"),
		catchUps: counter("imgo_logic_catch_ups_total", "Catch-ups of sessions by outcome.", "outcome"),
		upstream: counter("imgo_logic_upstream_total",
			"Messages of clients for the backend, by where the rule puts them (events, call, drop) and outcome (accepted, or the error's code).",
			"to", "outcome"),
		kicks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "imgo_logic_kicks_total", Help: "Sessions that were told to close.",
		}),
		notices: counter("imgo_logic_notices_total", "Notices by kind.", "kind"),
		unlooked: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "imgo_logic_unlooked_users_total", Help: "Users of kept pushes whose owner did not say in time how many sessions they have.",
		}),
		accepted: make(map[string]*acceptedPushes),
	}
	m.connected = m.connects.WithLabelValues(outcome(nil))
	for _, kind := range []string{kindKept, kindUsers, kindKeys, kindRoom, kindAll} {
		m.accepted[kind] = &acceptedPushes{
			counter: m.pushes.WithLabelValues(kind, outcome(nil)),
			seconds: m.pushSeconds.WithLabelValues(strconv.FormatBool(kind == kindKept)),
		}
	}
	_, err := collectors.Register(reg,
		m.pushes, m.pushSeconds, m.connects, m.authSeconds, m.acks, m.reads, m.catchUps, m.kicks, m.notices, m.unlooked, m.upstream)
	return m, err
}

// outcome returns how a call ended, as the metrics name it.
func outcome(err error) string {
	switch {
	case err == nil:
		return "accepted"
	case errors.Is(err, context.Canceled):
		return "canceled"
	}
	return string(envelope.CodeOf(err))
}

func (m *metrics) pushed(kind string, result *PushResult, err error, took time.Duration) {
	if err != nil {
		m.pushes.WithLabelValues(kind, outcome(err)).Inc()
		return
	}
	accepted := m.accepted[kind]
	if result.Duplicate {
		m.pushes.WithLabelValues(kind, "duplicate").Inc()
	} else {
		accepted.counter.Inc()
	}
	accepted.total.Add(1)
	accepted.seconds.Observe(took.Seconds())
}
