package growth_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"imgo/cluster/bus"
	"imgo/cluster/bus/kafkatest"
	"imgo/cluster/growth"
	"imgo/envelope"
	"imgo/internal/wait/waittest"
)

// TestFormerLeaderOfTheControlTopic has one node that asks a broker which does not know that another broker leads the
// control topic. It says to the node that there is nothing new, while the topic grows. The node must not report appends
// that may be behind the fence.
func TestFormerLeaderOfTheControlTopic(t *testing.T) {
	const name = "imgo.control"
	kafka := kafkatest.New(t, kafkatest.Options{Brokers: 2})
	cfg := growth.Config{Lease: time.Second, Short: 500 * time.Millisecond, Margin: 200 * time.Millisecond}
	start(t, control(t, kafka.Brokers()), cfg) // makes the topic
	former := kafka.Cluster.LeaderFor(name, 0)
	misled := start(t, control(t, kafka.Brokers()[former:former+1]), cfg).FencedLog(&partition{fence: -1})
	report := func(timeout time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		_, err := misled.AppendEssential(ctx, 0, nil)
		return err
	}
	if err := report(waittest.Limit); err != nil {
		t.Fatalf("before the growth: %v", err)
	}
	if err := kafka.Depose(name, former, 1-former); err != nil {
		t.Fatal(err)
	}
	owner := start(t, control(t, kafka.Brokers()[1-former:2-former]), cfg)
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Limit)
	defer cancel()
	if _, err := owner.Grow(ctx, 7); err != nil {
		t.Fatal(err)
	}
	if _, err := owner.Moving(ctx, 1, prepared); err != nil {
		t.Fatal(err)
	}
	if err := report(cfg.Lease); !errors.Is(err, envelope.ErrUnavailable) {
		t.Errorf("an append behind the fence: %v", err)
	}
}

// control opens the control topic at brokers until the test ends.
func control(t *testing.T, brokers []string) growth.Topic {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Limit)
	defer cancel()
	b, err := bus.Open(ctx, bus.Options{Brokers: brokers, Prefix: "imgo", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	topic, err := b.Compacted(ctx, "control")
	if err != nil {
		t.Fatal(err)
	}
	return topic
}
