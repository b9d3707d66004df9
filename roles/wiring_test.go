package roles

import (
	"testing"

	"imgo/config"
)

// TestRouterOfAClusterKnowsItsLog checks the settings of a router whose log is written by others and
// lives longer than its disk. The router needs the retention of devices. It must detect duplicate
// records, also across a restart.
func TestRouterOfAClusterKnowsItsLog(t *testing.T) {
	p := &process{cfg: config.Default()}
	p.cfg.Cluster.Join = []string{"127.0.0.1:7946"}
	c := p.routerConfig()
	if c.Retention != p.cfg.Kept.Retention || c.Retention == 0 || c.Repeats < p.cfg.Kafka.WriteTimeout {
		t.Errorf("in a cluster: retention %v, records may be repeated for %v", c.Retention, c.Repeats)
	}
	p.cfg.Cluster.Join = nil
	if c := p.routerConfig(); c.Retention != 0 || c.Repeats != 0 {
		t.Errorf("alone, with a log that goes with the disk: retention %v, records may be repeated for %v", c.Retention, c.Repeats)
	}
}
