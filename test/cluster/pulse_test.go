package cluster_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"imgo/cluster/bus/kafkatest"
	"imgo/config"
	"imgo/envelope"
	"imgo/roles"
	"imgo/roles/logic/tokenlog"
	"imgo/roles/router"
)

// cable is the way between a node and a log. It is cut between cut and repair.
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

// cutTopic is a tokens topic whose answers come through a cable.
type cutTopic struct {
	tokenlog.Topic
	cable *cable
}

func (p cutTopic) End(ctx context.Context) (int64, error) {
	end, err := p.Topic.End(ctx)
	return end, p.cable.pass(ctx, err)
}

func (p cutTopic) Follow(ctx context.Context, from int64, fn func(offset int64, key, value []byte) error) error {
	return p.Topic.Follow(ctx, from, func(offset int64, key, value []byte) error {
		if err := p.cable.pass(ctx, nil); err != nil {
			return err
		}
		return fn(offset, key, value)
	})
}

// A logic that cannot read the tokens topic admits no client while another logic can. As the only one it serves, with the
// tokens that it knows.
func TestLogicCutFromTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.change = func(cfg *config.Config) { cfg.Auth.Mode = "token" }
	var kafka cable
	w.faults = map[string]roles.Faults{"logic1": {TokensTopic: func(p tokenlog.Topic) tokenlog.Topic { return cutTopic{p, &kafka} }}}
	w.startAll()
	stale, current := w.nodes["logic1"], w.nodes["logic2"]
	var made struct{ Token string }
	if _, err := call("POST", "http://"+stale.HTTPAddr().String()+"/v1/tokens", `{"user":"7"}`, &made); err != nil {
		t.Fatal(err)
	}
	connects := func(want bool) func() bool {
		return func() bool {
			for i := range 10 { // each of several comets calls each of several logics
				d := &device{w: w, user: made.Token, name: fmt.Sprint("d", i)}
				if err := d.tryConnect(); (err == nil) != want {
					return false
				}
			}
			return true
		}
	}
	ready := func() bool { return get("http://"+stale.HTTPAddr().String()+"/readyz", nil) == nil }
	eventually(t, "the token is valid", connects(true))
	kafka.cut()
	if _, err := call("POST", "http://"+current.HTTPAddr().String()+"/v1/tokens/revoke", `{"user":"7"}`, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the logic is not ready", func() bool { return !ready() })
	eventually(t, "the revoked token is refused", connects(false))
	if len(w.of(config.RoleRouter)) != 2 || get("http://"+w.nodes["router1"].HTTPAddr().String()+"/readyz", nil) != nil {
		t.Error("a router is not ready")
	}
	current.stop()
	eventually(t, "the logic serves as the only one", func() bool { return ready() && connects(true)() })
	kafka.repair()
	eventually(t, "the revoked token is refused again", func() bool { return ready() && connects(false)() })
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
	for _, user := range users {
		w.pushes.push(user)
	}
	eventually(t, "each partition is read from its new broker", func() bool { return w.h.Stats().Received == int64(2*len(users)) })
	reasons := func() (texts []string) {
		for _, n := range w.of(config.RoleRouter) {
			if err := get("http://"+n.HTTPAddr().String()+"/readyz", nil); err != nil {
				texts = append(texts, err.Error())
			}
		}
		return texts
	}
	resume := w.kafka.Silence(1)
	eventually(t, "a router names the partition and the broker", func() bool {
		return slices.ContainsFunc(reasons(), func(text string) bool {
			named := func(what string) bool { return strings.Contains(text, what) }
			return named("partition") && named("imgo.kept.1") && named(w.kafka.Brokers()[1]) && !named(w.kafka.Brokers()[0])
		})
	})
	resume()
	eventually(t, "the routers are ready", func() bool { return len(reasons()) == 0 })
	for _, user := range users {
		w.pushes.push(user)
	}
	w.checkHistory()
}
