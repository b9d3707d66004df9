// Package collectors registers metrics together, and removes them together. It is for parts that
// end before the program, or that return errors of the registration.
package collectors

import "github.com/prometheus/client_golang/prometheus"

// Set is a set of metrics that were registered together. A nil Set is empty.
type Set struct {
	reg        prometheus.Registerer
	collectors []prometheus.Collector
}

// Register registers all collectors or none. If reg is nil, it registers nothing and returns
// nil.
func Register(reg prometheus.Registerer, collectors ...prometheus.Collector) (*Set, error) {
	if reg == nil {
		return nil, nil
	}
	s := &Set{reg: reg}
	for _, c := range collectors {
		if err := reg.Register(c); err != nil {
			s.Unregister()
			return nil, err
		}
		s.collectors = append(s.collectors, c)
	}
	return s, nil
}

// Unregister removes the metrics. A second call does nothing.
func (s *Set) Unregister() {
	if s == nil {
		return
	}
	for _, c := range s.collectors {
		s.reg.Unregister(c)
	}
	s.collectors = nil
}
