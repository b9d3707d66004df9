package roles

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/cluster/bus"
	"imgo/cluster/bus/kafkatest"
	"imgo/config"
	"imgo/envelope"
	"imgo/roles/job"
)

// TestJobStageLeavesTheGroup checks that job leaves its group before the stages stop that started before job.
func TestJobStageLeavesTheGroup(t *testing.T) {
	b, err := bus.Open(t.Context(), bus.Options{Brokers: kafkatest.New(t, kafkatest.Options{}).Brokers(), Prefix: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	kept, err := b.Log(t.Context(), bus.TopicOptions{Name: "kept", Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	c := &core{storage: storage{kept: kept}}
	if c.group, err = b.Group(t.Context(), bus.GroupOptions{Name: "job", Logs: []*bus.Log{kept}}); err != nil {
		t.Fatal(err)
	}
	c.job, err = job.New(t.Context(), job.DefaultConfig(), job.Deps{
		Kept: kept, Group: group{c.group}, Log: zerolog.Nop(), Metrics: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	stages := c.stages()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := stages[slices.IndexFunc(stages, isJob)].run(ctx); err != nil {
		t.Error(err)
	}
	if _, err := c.group.Next(ctx); !errors.Is(err, envelope.ErrClosed) {
		t.Errorf("after the stage, the group is not left: Next returned %v", err)
	}
}

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
