package cluster_test

import (
	"fmt"
	"testing"
	"time"

	"imgo/config"
)

// withFaults runs faults on a cluster of two nodes of each role while callers push to
// users, and judges the history.
func withFaults(t *testing.T, faults ...func(w *world)) {
	t.Helper()
	t.Parallel() // it waits more than it works
	w := newWorld(t)
	w.startAll()
	users := w.connectUsers(6)
	w.pushes.run(4, users)
	for _, fault := range faults {
		w.waitReceived(50)
		fault(w)
		w.waitReceived(50)
	}
	w.checkHistory()
}

// waitReceived waits until n more pushes were received.
func (w *world) waitReceived(n int64) {
	w.t.Helper()
	from := w.h.Stats().Received
	eventually(w.t, fmt.Sprintf("%d more pushes are received", n), func() bool { return w.h.Stats().Received >= from+n })
}

// killEach kills each node of a role in turn, and starts it again.
func killEach(role string, wipe bool) func(w *world) {
	return func(w *world) {
		for _, n := range w.of(role) {
			n.kill()
			if wipe {
				n.wipe()
			}
			w.waitReceived(50)
			n.restart()
		}
	}
}

func TestKilledComet(t *testing.T)  { withFaults(t, killEach(config.RoleComet, false)) }
func TestKilledLogic(t *testing.T)  { withFaults(t, killEach(config.RoleLogic, false)) }
func TestKilledJob(t *testing.T)    { withFaults(t, killEach(config.RoleJob, false)) }
func TestKilledRouter(t *testing.T) { withFaults(t, killEach(config.RoleRouter, false)) }

func TestKilledRouterWithItsDisk(t *testing.T) { withFaults(t, killEach(config.RoleRouter, true)) }

// While Kafka is away, pushes are refused, and no accepted push is lost.
func TestKafkaAway(t *testing.T) {
	withFaults(t, func(w *world) {
		w.kafka.Stop()
		logic := w.of(config.RoleLogic)[0]
		status, err := call("POST", "http://"+logic.HTTPAddr().String()+"/v1/push", `{"user":"user0","body_text":"x","ttl":"1s"}`, nil)
		if status != 503 {
			w.t.Errorf("a push while Kafka is away: %d, %v", status, err)
		}
		w.kafka.Resume()
	})
}

// With a slow Kafka pushes are slow, and none is lost.
func TestSlowKafka(t *testing.T) {
	withFaults(t, func(w *world) {
		w.kafka.Slow(100 * time.Millisecond)
		w.waitReceived(20)
		w.kafka.Slow(0)
	})
}

// A record that a retried append has put into the log twice is delivered once.
func TestRetriedAppendIsDeliveredOnce(t *testing.T) {
	withFaults(t, func(w *world) {
		hits := w.kafka.AppendTwice("imgo.kept.1", 20)
		eventually(w.t, "appends are repeated", func() bool { return hits() == 20 })
	})
}

// Two halves that are cut off from each other, each with one node of each role, do no harm,
// and find each other again.
func TestHalvesApart(t *testing.T) {
	withFaults(t, func(w *world) {
		some, others := []string{"comet1", "logic1", "router1", "job1"}, []string{"comet2", "logic2", "router2", "job2"}
		w.cut(some, others)
		eventually(w.t, "each half is alone", func() bool { return w.knownNodes("logic1") == 4 && w.knownNodes("logic2") == 4 })
		w.waitReceived(100)
		w.repair()
		eventually(w.t, "the halves are one again", func() bool { return w.knownNodes("logic1") == 8 && w.knownNodes("logic2") == 8 })
	})
}

// knownNodes returns how many nodes a logic knows.
func (w *world) knownNodes(name string) int {
	w.mu.Lock()
	n := w.nodes[name]
	w.mu.Unlock()
	var answer struct {
		Nodes []struct{ Name string }
	}
	if n == nil || get("http://"+n.HTTPAddr().String()+"/v1/nodes", &answer) != nil {
		return 0
	}
	return len(answer.Nodes)
}

// Each pair of roles that call each other is cut while gossip goes on. The delivery rules
// that need no call repair what is missing.
func TestCallsCut(t *testing.T) {
	for _, pair := range [][2]string{{"comet1", "logic1"}, {"logic1", "router1"}, {"job1", "router1"}, {"job1", "comet1"}} {
		t.Run(pair[0]+"-"+pair[1], func(t *testing.T) {
			withFaults(t, func(w *world) {
				w.cut(pair[:1], pair[1:])
				w.waitReceived(20) // a logic that cannot ask refuses, but only after a while
				w.repair()
			})
		})
	}
}

// Two nodes with all roles do not reach each other, and gossip does not learn of it, because the third node reaches both.
// The sessions of the one stay known to the router of the other, and users of that router connect.
func TestOneLinkCut(t *testing.T) {
	t.Parallel()
	const users = 12
	w := newWorld(t)
	for _, name := range []string{"n1", "n2", "n3"} {
		w.start(name, config.RoleComet, config.RoleLogic, config.RoleRouter, config.RoleJob)
	}
	for _, name := range []string{"n1", "n2", "n3"} {
		eventually(t, name+" knows all", func() bool { return w.knownNodes(name) == 3 })
	}
	for i := range users {
		w.connect(fmt.Sprint("u", i), "phone", w.nodes["n1"])
	}
	n3 := w.nodes["n3"].HTTPAddr().String()
	online := func() (n int) {
		for i := range users {
			var u struct{ Sessions []any }
			if get(fmt.Sprintf("http://%s/v1/users/u%d", n3, i), &u) == nil && len(u.Sessions) > 0 {
				n++
			}
		}
		return n
	}
	eventually(t, "all are online", func() bool { return online() == users })
	w.cut([]string{"n1"}, []string{"n2"})
	since := time.Now()
	eventually(t, "all are online for longer than a router remembers a silent comet", func() bool {
		if online() < users {
			since = time.Now()
		}
		return time.Since(since) > 10*time.Second
	})
	for i := range users {
		w.connect(fmt.Sprint("u", i), "laptop", w.nodes["n1"])
	}
	w.repair()
	for i := range users {
		w.pushes.push(fmt.Sprint("u", i))
	}
	w.checkHistory()
}

// A hung comet delays no messages of other comets. Its sessions get the messages that they
// missed soon after it goes on, without a further push.
func TestAncestorBug15_HungCometBlocksNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.startAll()
	comets := w.of(config.RoleComet)
	hung, fine := w.connect("u", "hung", comets[0]), w.connect("u", "fine", comets[1])
	w.pushes.push("u")
	eventually(t, "both have the first", func() bool { return hung.received.Load() == 1 && fine.received.Load() == 1 })
	w.hang("comet1")
	for range 30 {
		w.pushes.push("u")
	}
	eventuallyIn(t, 10*time.Second, "the healthy comet's session has all", func() bool { return fine.received.Load() == 31 })
	w.repair()
	w.checkHistory()
}

// All nodes are restarted, one after the other.
func TestRollingRestart(t *testing.T) {
	withFaults(t, func(w *world) {
		for _, role := range []string{config.RoleRouter, config.RoleJob, config.RoleLogic, config.RoleComet} {
			for _, n := range w.of(role) {
				n.stop()
				n.restart()
			}
		}
	})
}

// A node of any role can be added without a change elsewhere, and gets its share of the work.
func TestNodesJoinAndLeave(t *testing.T) {
	withFaults(t, func(w *world) {
		for _, role := range []string{config.RoleRouter, config.RoleJob, config.RoleLogic, config.RoleComet} {
			n := w.start(role+"3", role)
			eventually(w.t, "everybody knows "+n.name, func() bool { return w.knownNodes("logic1") == 9 && w.knownNodes("logic2") == 9 })
			w.waitReceived(50)
			n.stop()
			eventually(w.t, "everybody knows that it left", func() bool { return w.knownNodes("logic1") == 8 && w.knownNodes("logic2") == 8 })
		}
	})
}

// Nodes that are logic, router and job at the same time work with comets of their own.
func TestMixedRoles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 2 {
		w.start(fmt.Sprint("mixed", i), config.RoleLogic, config.RoleRouter, config.RoleJob)
		w.start(fmt.Sprint("comet", i), config.RoleComet)
	}
	w.pushes.run(2, w.connectUsers(3))
	w.waitReceived(100)
	n := w.of(config.RoleRouter)[0]
	n.kill()
	w.waitReceived(100)
	n.restart()
	w.checkHistory()
}
