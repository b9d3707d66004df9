package comet

import (
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"imgo/protocol"
	"imgo/roles/comet/admission"
	"imgo/roles/comet/outbox"
)

// The labels of imgo_comet_messages_total: what was delivered, and what became of it.
const (
	kindKept    = iota // a kept message as it was pushed
	kindBacklog        // a kept message in the answer to a catch-up
	kindLive           // a message that is not kept
	kindReply          // a reply to a packet
	kinds
)

const (
	outWritten   = iota // queued for the session's socket
	outDuplicate        // the session had it
	outBehind           // left to a catch-up
	outDropped          // no room in the session's queue
	outFiltered         // the session does not accept the operation
	outGone             // the session has ended
	outcomes
)

var (
	kindNames    = [kinds]string{"kept", "backlog", "live", "reply"}
	outcomeNames = [outcomes]string{"written", "duplicate", "behind", "dropped", "filtered", "gone"}
)

// tally counts outcomes of one goroutine, without touching memory that processors
// share. It is added to the metrics at the end of a call.
type tally [kinds][outcomes]uint32

func (t *tally) add(other *tally) {
	for k := range t {
		for o := range t[k] {
			t[k][o] += other[k][o]
		}
	}
}

// metrics are a comet's counters. Safe for concurrent use.
type metrics struct {
	connections *prometheus.GaugeVec // transport
	sessions    *prometheus.GaugeVec // generation
	refused     *prometheus.CounterVec
	connects    *prometheus.HistogramVec // outcome
	closed      *prometheus.CounterVec   // code
	badPackets  *prometheus.CounterVec   // kind
	packets     *prometheus.CounterVec   // op
	messages    [kinds][outcomes]prometheus.Counter
	catchUps    *prometheus.CounterVec // outcome
	acks        *prometheus.CounterVec // by
	unknownAcks prometheus.Counter
	lost        *prometheus.CounterVec // queue
	callErrors  *prometheus.CounterVec // call
	push        prometheus.Histogram
	// The metrics of every connect are looked up by their labels only once.
	sessionsOf [clientProtocols]prometheus.Gauge
	connected  prometheus.Observer // connects that were accepted
	waiting    prometheus.Gauge
	delivery   prometheus.Histogram
	throttled  prometheus.Counter
	refusals   *prometheus.CounterVec // code
	upstream   *prometheus.CounterVec // outcome
	// upstreamBytes is how much waits for logic.
	upstreamBytes atomic.Int64
	behind        atomic.Int64
	denied        atomic.Int64
}

// newMetrics registers the metrics with reg, which may be nil.
func newMetrics(
	reg prometheus.Registerer, outboxes *outbox.Shared, ackQueue, detachQueue func() float64,
) *metrics {
	factory := promauto.With(reg)
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return factory.NewCounterVec(prometheus.CounterOpts{Name: "imgo_comet_" + name, Help: help}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return factory.NewGaugeVec(prometheus.GaugeOpts{Name: "imgo_comet_" + name, Help: help}, labels)
	}
	gaugeFunc := func(name, help string, value func() float64) {
		factory.NewGaugeFunc(prometheus.GaugeOpts{Name: "imgo_comet_" + name, Help: help}, value)
	}
	count := func(value func() int64) func() float64 { return func() float64 { return float64(value()) } }
	seconds := prometheus.ExponentialBuckets(0.0001, 2.5, 14)
	m := &metrics{
		connections: gauge("connections", "Client connections, authenticated or not.", "transport"),
		sessions:    gauge("sessions", "Authenticated sessions.", "generation"),
		refused:     counter("refused_total", "Connections refused before or while they authenticated.", "reason"),
		connects: factory.NewHistogramVec(prometheus.HistogramOpts{
			Name: "imgo_comet_connect_seconds", Buckets: seconds,
			Help: "From a complete auth packet to its answer.",
		}, []string{"outcome"}),
		closed:     counter("closed_total", "Connections that ended, by close code; 0: the client closed.", "code"),
		badPackets: counter("bad_packets_total", "What clients sent against the protocol.", "kind"),
		packets:    counter("packets_total", "Packets from clients.", "op"),
		catchUps:   counter("catch_ups_total", "Catch-ups asked for, failed, and asked again for want of an answer.", "outcome"),
		acks:       counter("acks_total", "Acknowledged message ids: by the client, by a packet of it, or by its TCP.", "by"),
		unknownAcks: factory.NewCounter(prometheus.CounterOpts{
			Name: "imgo_comet_unknown_acks_total",
			Help: "Message ids that a client acknowledged though they were not written to its session, or were acknowledged before.",
		}),
		lost:       counter("lost_total", "Ids and sessions that logic was not told of: it took none for too long, or until the stop.", "queue"),
		callErrors: counter("call_errors_total", "Calls of logic that failed.", "call"),
		push: factory.NewHistogram(prometheus.HistogramOpts{
			Name: "imgo_comet_push_seconds", Buckets: seconds,
			Help: "How long a batch of deliveries took to be queued for its sessions.",
		}),
		delivery: factory.NewHistogram(prometheus.HistogramOpts{
			Name: "imgo_comet_delivery_seconds", Buckets: seconds,
			Help: "From when a message was accepted to when it was queued for its sessions.",
		}),
		waiting: factory.NewGauge(prometheus.GaugeOpts{
			Name: "imgo_comet_waiting_clients",
			Help: "Clients with a complete auth packet that wait for their turn.",
		}),
		refusals: counter("refused_operations_total", "Joins and other operations of sessions that were refused, by the answer's code.",
			"code"),
		upstream: counter("upstream_total", "Messages of clients for the backend, by outcome: taken, refused, failed (the client was told to "+
			"try again), lost (of an old client: logic did not take it in time).", "outcome"),
		throttled: factory.NewCounter(prometheus.CounterOpts{
			Name: "imgo_comet_throttled_packets_total",
			Help: "Packets that were read late because their session sends too many.",
		}),
	}
	for p := range clientProtocols {
		m.sessionsOf[p] = m.sessions.WithLabelValues(p.String())
	}
	m.connected = m.connects.WithLabelValues("accepted")
	messages := counter("messages_total", "Messages for sessions, by kind and outcome.", "kind", "outcome")
	for k := range kinds {
		for o := range outcomes {
			m.messages[k][o] = messages.WithLabelValues(kindNames[k], outcomeNames[o])
		}
	}
	gaugeFunc("pending_bytes", "Bytes queued for sessions.", count(outboxes.PendingBytes))
	gaugeFunc("behind_sessions", "Sessions that wait for a catch-up.", count(m.behind.Load))
	gaugeFunc("writing_sessions", "Sessions whose socket is being written to.", count(outboxes.Writing))
	gaugeFunc("denied_rooms", "Rooms without a member here whose messages job leaves this comet out for.", count(m.denied.Load))
	gaugeFunc("ack_queue_ids", "Acknowledged ids that logic was not told of yet.", ackQueue)
	gaugeFunc("upstream_bytes", "Messages of clients for the backend that logic has not taken yet.", count(m.upstreamBytes.Load))
	gaugeFunc("detach_queue_sessions", "Ended sessions that logic was not told of yet.", detachQueue)
	return m
}

// admission returns the counters of package admission.
func (m *metrics) admission() admission.Metrics {
	return admission.Metrics{
		Connections: m.connections, Waiting: m.waiting,
		AuthPackets: m.packets.WithLabelValues("auth"), EarlyPackets: m.packets.WithLabelValues("before_auth"),
	}
}

// add counts the outcomes of a call.
func (m *metrics) add(t *tally) {
	for k := range t {
		for o, n := range t[k] {
			if n > 0 {
				m.messages[k][o].Add(float64(n))
			}
		}
	}
}

func (m *metrics) count(kind, outcome int) { m.messages[kind][outcome].Inc() }

// ended counts the end of a connection. Codes that only a kick has share one label.
func (m *metrics) ended(code protocol.CloseCode) {
	label := "other"
	if code == 0 || (code >= 3001 && code <= 3005) || (code >= 3500 && code <= 3510) {
		label = strconv.Itoa(int(code))
	}
	m.closed.WithLabelValues(label).Inc()
}
