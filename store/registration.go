package store

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// registration is a set of metrics that were registered together. Its owner unregisters
// them when it closes. A nil registration has none.
type registration struct {
	reg        prometheus.Registerer
	collectors []prometheus.Collector
}

// register registers all collectors or none. reg may be nil.
func register(reg prometheus.Registerer, collectors ...prometheus.Collector) (*registration, error) {
	if reg == nil {
		return nil, nil
	}
	r := &registration{reg: reg}
	for _, c := range collectors {
		if err := reg.Register(c); err != nil {
			r.unregister()
			return nil, fmt.Errorf("register the store's metrics: %w", err)
		}
		r.collectors = append(r.collectors, c)
	}
	return r, nil
}

// unregister removes the metrics. A second call does nothing.
func (r *registration) unregister() {
	if r == nil {
		return
	}
	for _, c := range r.collectors {
		r.reg.Unregister(c)
	}
	r.collectors = nil
}

// collectors returns the DB's own metrics.
func (db *DB) collectors() []prometheus.Collector {
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "imgo_store_disk_free_bytes",
			Help: "Bytes that are free on the file system of the data directory.",
		}, func() float64 { return float64(db.disk.free.Load()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "imgo_store_disk_reserve_bytes",
			Help: "Free bytes under which pushes are refused; 0: no reserve.",
		}, func() float64 { return float64(max(0, db.opt.Reserve)) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "imgo_store_database_size_bytes",
			Help: "Size of the data directory's tables and value log, as Badger last measured it.",
		}, func() float64 {
			db.mu.RLock()
			defer db.mu.RUnlock()
			if db.closed {
				return 0
			}
			lsm, vlog := db.bdg.Size()
			return float64(lsm + vlog)
		}),
	}
}
