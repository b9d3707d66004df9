package store

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// logMetrics are the metrics of a Log. Bounds are read when the metrics are collected, so
// that appending does not pay for them.
type logMetrics struct {
	log           *Log
	appendSeconds prometheus.Histogram
	commitRecords prometheus.Histogram

	begin, end, entries, tailBytes, queue *prometheus.Desc
}

func newLogMetrics(l *Log) *logMetrics {
	partition := []string{"partition"}
	topic := prometheus.Labels{"topic": l.records.space.topic}
	return &logMetrics{
		log: l,
		appendSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:        "imgo_store_log_append_seconds",
			Help:        "Time from a call to append to the log until its records were synced.",
			Buckets:     prometheus.ExponentialBuckets(0.000125, 2, 16), // to 4 s
			ConstLabels: topic,
		}),
		commitRecords: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:        "imgo_store_log_commit_records",
			Help:        "Records that shared one synced transaction of the log.",
			Buckets:     prometheus.ExponentialBuckets(1, 2, 15), // to 16,384
			ConstLabels: topic,
		}),
		begin:     prometheus.NewDesc("imgo_store_log_begin_offset", "The oldest offset that the log still has.", partition, topic),
		end:       prometheus.NewDesc("imgo_store_log_end_offset", "The next offset of the log.", partition, topic),
		entries:   prometheus.NewDesc("imgo_store_log_entries", "Entries that the log has.", partition, topic),
		tailBytes: prometheus.NewDesc("imgo_store_log_tail_size_bytes", "Bytes of the log's newest entries in memory.", partition, topic),
		queue:     prometheus.NewDesc("imgo_store_log_queue_requests", "Appends that wait for the next commit of the log.", nil, topic),
	}
}

// Describe implements prometheus.Collector.
func (m *logMetrics) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, ch) }

// Collect implements prometheus.Collector.
func (m *logMetrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(m.queue, float64(m.log.queue.length()))
	for i := range m.log.tails {
		st := m.log.tails[i].stats()
		p := strconv.Itoa(i)
		gauge(m.begin, float64(st.begin), p)
		gauge(m.end, float64(st.end), p)
		gauge(m.entries, float64(st.count()), p)
		gauge(m.tailBytes, float64(st.bytes), p)
	}
}
