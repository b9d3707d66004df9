package job

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	carried *prometheus.CounterVec
	skipped *prometheus.CounterVec // deliveries
	unread  *prometheus.CounterVec // records
	retries prometheus.Counter
	spared  prometheus.Counter
	lag     *prometheus.GaugeVec
	age     map[Topic]prometheus.Observer
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	age := f.NewHistogramVec(prometheus.HistogramOpts{Name: "imgo_job_delivery_age_seconds",
		Help:    "How old a message was when a comet had taken it, from when logic accepted it, by topic.",
		Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 14)}, []string{"topic"})
	return &metrics{
		carried: f.NewCounterVec(prometheus.CounterOpts{Name: "imgo_job_carried_envelopes_total",
			Help: "Records and envelopes that were read and carried on, by topic."}, []string{"topic"}),
		skipped: f.NewCounterVec(prometheus.CounterOpts{Name: "imgo_job_skipped_deliveries_total",
			Help: "Deliveries, each of one record to one comet, that were not carried, by reason: the comet is gone, slow or failed."},
			[]string{"reason"}),
		unread: f.NewCounterVec(prometheus.CounterOpts{Name: "imgo_job_skipped_records_total",
			Help: "Records that were not read, by reason: trimmed or unreadable. The number of their deliveries is not known."},
			[]string{"reason"}),
		retries: f.NewCounter(prometheus.CounterOpts{Name: "imgo_job_retries_total",
			Help: "Batches that could not be carried at once and are tried again."}),
		spared: f.NewCounter(prometheus.CounterOpts{Name: "imgo_job_spared_deliveries_total",
			Help: "Room messages that were not sent to a comet because nobody there is in the room."}),
		lag: f.NewGaugeVec(prometheus.GaugeOpts{Name: "imgo_job_lag_records",
			Help: "Records of an assigned partition that were not carried yet."}, []string{"topic", "partition"}),
		age: map[Topic]prometheus.Observer{Kept: age.WithLabelValues(string(Kept)), Live: age.WithLabelValues(string(Live))},
	}
}
