package job

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	carried *prometheus.CounterVec
	skipped *prometheus.CounterVec
	retries prometheus.Counter
	spared  prometheus.Counter
	lag     *prometheus.GaugeVec
	age     map[Topic]prometheus.Observer
}

func newMetrics(reg prometheus.Registerer) *metrics {
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	age := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "imgo_job_delivery_age_seconds",
		Help:    "How old a message was when a comet had taken it, from when logic accepted it, by topic.",
		Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 14)}, []string{"topic"})
	m := &metrics{
		carried: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "imgo_job_carried_envelopes_total",
			Help: "Records and envelopes that were read and carried on, by topic."}, []string{"topic"}),
		skipped: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "imgo_job_skipped_deliveries_total",
			Help: "Deliveries that were not carried, by reason: the comet is gone, slow or failed, the record was trimmed or unreadable."},
			[]string{"reason"}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{Name: "imgo_job_retries_total",
			Help: "Batches that could not be carried at once and are tried again."}),
		spared: prometheus.NewCounter(prometheus.CounterOpts{Name: "imgo_job_spared_deliveries_total",
			Help: "Room messages that were not sent to a comet because nobody there is in the room."}),
		lag: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "imgo_job_lag_records",
			Help: "Records of an assigned partition that were not carried yet."}, []string{"topic", "partition"}),
		age: map[Topic]prometheus.Observer{Kept: age.WithLabelValues(string(Kept)), Live: age.WithLabelValues(string(Live))},
	}
	reg.MustRegister(m.carried, m.skipped, m.retries, m.spared, m.lag, age)
	return m
}
