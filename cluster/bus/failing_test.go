package bus_test

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/cluster/bus"
	"imgo/cluster/bus/kafkatest"
)

// TestUnreadable shows that a partition whose broker does not answer is told of, with the broker, while the partitions of
// other brokers are read.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	k := kafkatest.New(t, kafkatest.Options{Brokers: 2})
	var lines lockedBuffer
	registry := prometheus.NewRegistry()
	o := options(k.Brokers(), prefix())
	o.Log, o.Metrics = zerolog.New(&lines), registry
	l := kept(t, open(t, o))
	for partition := range int32(2) {
		if err := k.Cluster.MoveTopicPartition(l.Topic(), partition, partition); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	for partition := range int32(2) {
		if _, err := l.Append(testContext(t), partition, []byte("a record")); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Read(testContext(t), partition, 0, 1); err != nil {
			t.Fatal(err)
		}
		reading.Go(func() { _, _ = l.Read(ctx, partition, 1, 1) })
	}
	eventually(t, "both partitions are read", func() bool { return len(failingSeconds(t, registry)) == 2 })
	resume := k.Silence(1)
	eventually(t, "partition 1 is unreadable", func() bool { return l.Unreadable(1) != nil })
	if text := l.Unreadable(1).Error(); !strings.Contains(text, "partition 1 of "+l.Topic()) || !strings.Contains(text, k.Brokers()[1]) {
		t.Errorf("the error does not name the partition and the broker: %s", text)
	}
	if _, _, err := l.Bounds(testContext(t), 1); err == nil || !strings.Contains(err.Error(), "("+k.Brokers()[1]+")") {
		t.Errorf("the error of a question does not name the broker: %v", err)
	}
	if err := l.Unreadable(0); err != nil {
		t.Errorf("the other broker answers: %v", err)
	}
	if seconds := failingSeconds(t, registry); seconds["0"] >= bus.UnreadableAfter.Seconds() || seconds["1"] < bus.UnreadableAfter.Seconds() {
		t.Errorf("by the metrics the partitions fail for %v seconds", seconds)
	}
	resume()
	eventually(t, "partition 1 is read again", func() bool { return l.Unreadable(1) == nil && failingSeconds(t, registry)["1"] == 0 })
	for _, text := range []string{"cannot be read", "can be read again"} {
		if n := strings.Count(lines.String(), text); n != 1 {
			t.Errorf("the log has %d lines with %q:\n%s", n, text, lines.String())
		}
	}
}

// failingSeconds returns the metric of a log's partitions, by partition.
func failingSeconds(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	seconds := make(map[string]float64)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				if family.GetName() == "imgo_bus_fetch_failing_seconds" && label.GetName() == "partition" {
					seconds[label.GetValue()] = m.GetGauge().GetValue()
				}
			}
		}
	}
	return seconds
}

// lockedBuffer is a buffer that is safe for concurrent use.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *lockedBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *lockedBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
