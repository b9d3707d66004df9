package router

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	sessions        prometheus.Gauge
	applied         *prometheus.CounterVec
	devices         prometheus.Counter // applied, device
	acked           prometheus.Counter
	expired         prometheus.Counter
	dropped         prometheus.Counter
	evicted         prometheus.Counter
	rederived       prometheus.Counter
	emitted         prometheus.Counter
	eventErrors     prometheus.Counter
	void            prometheus.Counter
	skipped         prometheus.Counter
	forgottenIDs    prometheus.Counter
	setAside        prometheus.Counter
	expiredSessions prometheus.Counter
	nudges          prometheus.Counter
	unpublished     prometheus.Counter
	backlog         prometheus.Counter
	readBodies      prometheus.Counter
	repeated        prometheus.Counter
	moved           prometheus.Counter
	presences       prometheus.Counter
	presenceErrors  prometheus.Counter
	flush           prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	auto := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return auto.NewCounter(prometheus.CounterOpts{Name: "imgo_router_" + name, Help: help})
	}
	m := &metrics{
		sessions: auto.NewGauge(prometheus.GaugeOpts{Name: "imgo_router_sessions", Help: "Sessions in the table."}),
		applied: auto.NewCounterVec(prometheus.CounterOpts{Name: "imgo_router_applied_records_total",
			Help: "Records of the kept log that were applied, by kind."}, []string{"kind"}),
		acked:   counter("acked_messages_total", "Messages that their last device acknowledged."),
		expired: counter("expired_messages_total", "Messages whose ttl was over before every device acknowledged them."),
		dropped: counter("dropped_messages_total", "Messages that a bound on mailboxes or on devices cost."),
		rederived: counter("rederived_partitions_total",
			"Partitions that were read from the log again, because a router of an older version had derived the stored mailboxes."),
		emitted:     counter("emitted_events_total", "Events that were appended to the events topic."),
		eventErrors: counter("event_errors_total", "Appends to the events topic that failed. They are repeated unless one is too large."),
		evicted:     counter("evicted_devices_total", "Devices that were forgotten to make room for another one of their user."),
		void:        counter("void_pushes_total", "Pushes to a user that an idempotency key made void."),
		skipped:     counter("skipped_records_total", "Records that left the log before they were applied."),
		forgottenIDs: counter("forgotten_record_ids_total",
			"Ids of records that were forgotten, for lack of room, while a producer might still repeat the record. A copy counts twice then."),
		setAside:        counter("set_aside_records_total", "Records of the kept log, or parts of one, that cannot be applied."),
		expiredSessions: counter("buried_sessions_total", "Sessions that left the table because their comet was silent."),
		nudges:          counter("nudges_total", "Sessions told by the owner's watch of a message still pending."),
		unpublished:     counter("unthrown_envelopes_total", "Envelopes that could not be put on the live log."),
		backlog:         counter("backlog_messages_total", "Messages handed out to sessions that caught up."),
		readBodies: counter("backlog_read_messages_total",
			"Messages of these whose bodies were not in memory and were read from the store."),
		repeated:       counter("remembered_devices_total", "Devices put into the kept log again before their last record leaves it."),
		moved:          counter("moved_messages_total", "Messages that were put into the kept log's next generation."),
		presences:      counter("recorded_presences_total", "Users that were put into the kept log because they have come or gone."),
		presenceErrors: counter("presence_errors_total", "Appends of users that have come or gone that failed, and were tried again."),
		flush: auto.NewHistogram(prometheus.HistogramOpts{Name: "imgo_router_flush_seconds",
			Help: "Time to write the changed mailboxes of a partition.", Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9)}),
	}
	m.devices = m.applied.WithLabelValues("device")
	return m
}

// endedLog is a log that knows its ends without asking any other process.
type endedLog interface{ End(partition int32) int64 }

// lag exports how far the partitions that are owned are behind the log.
type lag struct {
	parts *ownership
	log   endedLog
}

var lagDesc = prometheus.NewDesc("imgo_router_lag_records",
	"Records of the kept log that were not applied yet.", []string{"partition"}, nil)

func (l lag) Describe(ch chan<- *prometheus.Desc) { ch <- lagDesc }

func (l lag) Collect(ch chan<- prometheus.Metric) {
	for _, p := range l.parts.local() {
		end := l.log.End(p.index)
		next := p.next()
		if p.hasBegun() && p.owned.Load() && end >= 0 {
			ch <- prometheus.MustNewConstMetric(lagDesc, prometheus.GaugeValue, float64(max(0, end-next)), strconv.Itoa(int(p.index)))
		}
	}
}

// exportSizes exports what the mailboxes in memory hold, counted when they are
// scraped.
func exportSizes(reg prometheus.Registerer, parts *ownership) {
	if log, ok := parts.kept.(endedLog); ok && reg != nil {
		reg.MustRegister(lag{parts, log})
	}
	gauge := func(name, help string, count func(*partition) int) {
		promauto.With(reg).NewGaugeFunc(prometheus.GaugeOpts{Name: "imgo_router_" + name, Help: help}, func() float64 {
			n := 0
			for _, p := range parts.local() {
				p.mu.Lock()
				n += count(p)
				p.mu.Unlock()
			}
			return float64(n)
		})
	}
	gauge("mailboxes", "Mailboxes in memory: of users with a session, and lately used ones.",
		func(p *partition) int { return len(p.accounts.byUser) })
	gauge("mailbox_messages", "Messages that wait in the mailboxes in memory.", func(p *partition) (n int) {
		for _, a := range p.accounts.byUser {
			n += len(a.Messages.All())
		}
		return n
	})
	gauge("untold_presences", "Users that have come or gone, and were not told so yet.",
		func(p *partition) int { return p.presence.sizeLocked() })
	gauge("cached_bytes", "Bytes of bodies that are held in memory though the store has them.",
		func(p *partition) int { return p.cache.bytes })
	gauge("unflushed_bytes", "About how many bytes of changes are to be written to the store.",
		func(p *partition) int { return p.writes.bytes })
	gauge("unwritten_records", "Records of the kept log that were applied and not written behind yet.",
		func(p *partition) int { return int(p.position.next - p.writes.storedNext) })
}
