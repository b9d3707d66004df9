package store

import "github.com/prometheus/client_golang/prometheus"

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
		}, func() float64 { return float64(db.opt.Reserve) }),
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
