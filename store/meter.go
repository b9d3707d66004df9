package store

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// meter is a set of collectors that were registered together, to be taken
// back together when their owner closes. A nil meter has none.
type meter struct {
	reg        prometheus.Registerer
	collectors []prometheus.Collector
}

// newMeter registers all collectors or none. reg may be nil.
func newMeter(reg prometheus.Registerer, collectors ...prometheus.Collector) (*meter, error) {
	if reg == nil {
		return nil, nil
	}
	m := &meter{reg: reg}
	for _, c := range collectors {
		if err := reg.Register(c); err != nil {
			_ = m.close()
			return nil, fmt.Errorf("register the store's metrics: %w", err)
		}
		m.collectors = append(m.collectors, c)
	}
	return m, nil
}

func (m *meter) close() error {
	if m == nil {
		return nil
	}
	for _, c := range m.collectors {
		m.reg.Unregister(c)
	}
	m.collectors = nil
	return nil
}

// collectors are the DB's own metrics.
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
