package roles

import (
	"testing"

	"imgo/config"
)

// TestRouterOfAClusterKnowsItsLog checks the settings of a router whose log is written by others and
// lives longer than its disk. The router needs the retention of devices. It must detect duplicate
// records, also across a restart.
func TestRouterOfAClusterKnowsItsLog(t *testing.T) {
	n := &Node{cfg: config.Default(), cluster: &cluster{}}
	c := n.routerConfig()
	if c.Retention != n.cfg.Kept.Retention || c.Retention == 0 || c.DedupeWarm == 0 {
		t.Errorf("in a cluster: retention %v, %d records are read again", c.Retention, c.DedupeWarm)
	}
	n.cluster = nil
	if c := n.routerConfig(); c.Retention != 0 || c.DedupeWarm != 0 {
		t.Errorf("alone, with a log that goes with the disk: retention %v, %d records are read again", c.Retention, c.DedupeWarm)
	}
}
