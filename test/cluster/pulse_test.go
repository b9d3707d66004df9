package cluster_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"imgo/cluster/bus/kafkatest"
	"imgo/config"
	"imgo/envelope"
	"imgo/roles"
	"imgo/roles/router"
)

// cable is the way between a router and the log. It is cut between cut and repair.
type cable struct {
	mu       sync.Mutex
	repaired chan struct{} // nil while the cable is whole
}

func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.repaired = make(chan struct{})
}

func (c *cable) repair() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.repaired)
	c.repaired = nil
}

// pass lets an answer through. While the cable is cut, the answer waits until it is repaired, as that of
// a broker behind a broken network does.
func (c *cable) pass(ctx context.Context, err error) error {
	c.mu.Lock()
	repaired := c.repaired
	c.mu.Unlock()
	if repaired == nil {
		return err
	}
	select {
	case <-repaired:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// cutLog is a log whose answers come through a cable.
type cutLog struct {
	router.KeptLog
	cable *cable
}

func (l cutLog) Read(ctx context.Context, partition int32, from int64, maxBytes int) ([]envelope.Entry, error) {
	entries, err := l.KeptLog.Read(ctx, partition, from, maxBytes)
	return entries, l.cable.pass(ctx, err)
}

func (l cutLog) Bounds(ctx context.Context, partition int32) (begin, end int64, err error) {
	begin, end, err = l.KeptLog.Bounds(ctx, partition)
	return begin, end, l.cable.pass(ctx, err)
}

// A router that is cut from Kafka gives its partitions to one that is not, and is not ready
// meanwhile. It takes them again when Kafka answers it.
func TestRouterCutFromKafka(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var kafka cable
	w.faults = map[string]roles.Faults{"router1": {RouterLog: func(kept router.KeptLog) router.KeptLog { return cutLog{kept, &kafka} }}}
	w.startAll()
	users := w.connectUsers(8)
	pushAll := func() {
		for _, user := range users {
			w.pushes.push(user)
		}
	}
	pushAll()
	ready := func() bool { return get("http://"+w.nodes["router1"].HTTPAddr().String()+"/readyz", nil) == nil }
	kafka.cut()
	eventually(t, "the router has given up its partitions", func() bool { return !ready() })
	pushAll() // with idempotency keys, which need the owner
	kafka.repair()
	eventually(t, "the router has its partitions again", ready)
	pushAll()
	w.checkHistory()
	if len(w.of(config.RoleRouter)) != 2 {
		t.Error("a router has ended")
	}
}

// A router that cannot reach one of two brokers says so, with the partition and the broker, and is ready again when it can.
func TestOneBrokerDoesNotAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.kafka = kafkatest.New(t, kafkatest.Options{Brokers: 2})
	w.startAll()
	users := w.connectUsers(8)
	for partition := range int32(4) {
		if err := w.kafka.Cluster.MoveTopicPartition("imgo.kept.1", partition, partition%2); err != nil {
			t.Fatal(err)
		}
	}
	reasons := func() (texts []string) {
		for _, n := range w.of(config.RoleRouter) {
			if err := get("http://"+n.HTTPAddr().String()+"/readyz", nil); err != nil {
				texts = append(texts, err.Error())
			}
		}
		return texts
	}
	resume := w.kafka.Silence(1)
	eventually(t, "a router is not ready", func() bool { return len(reasons()) > 0 })
	for _, text := range reasons() {
		if !strings.Contains(text, "of imgo.kept.1 was not read") || !strings.Contains(text, w.kafka.Brokers()[1]) {
			t.Errorf("the reason does not name the partition and the broker: %s", text)
		}
	}
	resume()
	eventually(t, "the routers are ready", func() bool { return len(reasons()) == 0 })
	for _, user := range users {
		w.pushes.push(user)
	}
	w.checkHistory()
}
