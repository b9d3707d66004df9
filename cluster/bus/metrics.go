package bus

import (
	"github.com/prometheus/client_golang/prometheus"

	"imgo/internal/collectors"
)

// metrics are the metrics of a Bus, by topic.
type metrics struct {
	registered    *collectors.Set
	appendSeconds *prometheus.HistogramVec
	appendBytes   *prometheus.CounterVec
	appendErrors  *prometheus.CounterVec
	appendRetries *prometheus.CounterVec
	appendBatches *prometheus.CounterVec
	fetchBytes    *prometheus.CounterVec
	fetchErrors   *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, b *Bus) (*metrics, error) {
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "imgo_bus_" + name, Help: help}, []string{"topic"})
	}
	m := &metrics{

		appendSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "imgo_bus_append_seconds", Help: "How long appends to a topic took that succeeded.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2.5, 12), // 0.5 ms to 12 s
		}, []string{"topic"}),
		appendBytes:   counter("append_bytes_total", "Bytes of records that were appended, before compression."),
		appendErrors:  counter("append_errors_total", "Records that were not appended, or of which it is not known."),
		appendRetries: counter("append_retries_total", "Batches that were sent again after an error."),
		appendBatches: counter("append_batches_total", "Batches that were appended."),
		fetchBytes:    counter("fetch_bytes_total", "Bytes of records that were read, after decompression."),
		fetchErrors:   counter("fetch_errors_total", "Times that reading failed, and was tried again."),
	}
	var err error
	m.registered, err = collectors.Register(reg,
		m.appendSeconds, m.appendBytes, m.appendErrors, m.appendRetries, m.appendBatches, m.fetchBytes, m.fetchErrors, failingCollector{b})
	return m, err
}

// meters are the metrics of one topic.
type meters struct {
	appendSeconds                                           prometheus.Observer
	appendBytes, appendErrors, appendRetries, appendBatches prometheus.Counter
	fetchBytes, fetchErrors                                 prometheus.Counter
}

func (m *metrics) of(topic string) *meters {
	return &meters{
		appendSeconds: m.appendSeconds.WithLabelValues(topic), appendBytes: m.appendBytes.WithLabelValues(topic),
		appendErrors: m.appendErrors.WithLabelValues(topic), appendRetries: m.appendRetries.WithLabelValues(topic),
		appendBatches: m.appendBatches.WithLabelValues(topic),
		fetchBytes:    m.fetchBytes.WithLabelValues(topic), fetchErrors: m.fetchErrors.WithLabelValues(topic),
	}
}
