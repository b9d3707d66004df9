package roles

import (
	"testing"

	"imgo/config"
)

// What a router must know of a log that others write, and that outlives its
// disk: for how long devices are in it, and that a record may stand there twice,
// also on both sides of a restart.
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
