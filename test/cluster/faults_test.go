package cluster_test

import (
	"fmt"
	"testing"
	"time"

	"imgo/config"
)

// under runs faults on a cluster of two nodes of each role while callers push
// to a crowd, and judges.
func under(t *testing.T, faults ...func(w *world)) {
	t.Helper()
	t.Parallel() // it waits more than it works
	w := newWorld(t)
	w.eight()
	users := w.crowd(6)
	w.pushes.run(4, users)
	for _, fault := range faults {
		w.onward(50)
		fault(w)
		w.onward(50)
	}
	w.settle()
}

// onward waits until so many more pushes were received.
func (w *world) onward(n int64) {
	w.t.Helper()
	from := w.h.Stats().Received
	eventually(w.t, fmt.Sprintf("%d more pushes are received", n), func() bool { return w.h.Stats().Received >= from+n })
}

// killed kills each node of a role in turn, and starts it again.
func killed(role string, wipe bool) func(w *world) {
	return func(w *world) {
		for _, n := range w.of(role) {
			n.kill()
			if wipe {
				n.wipe()
			}
			w.onward(50)
			n.again()
		}
	}
}

func TestKilledComet(t *testing.T)  { under(t, killed(config.RoleComet, false)) }
func TestKilledLogic(t *testing.T)  { under(t, killed(config.RoleLogic, false)) }
func TestKilledJob(t *testing.T)    { under(t, killed(config.RoleJob, false)) }
func TestKilledRouter(t *testing.T) { under(t, killed(config.RoleRouter, false)) }

func TestKilledRouterWithItsDisk(t *testing.T) { under(t, killed(config.RoleRouter, true)) }

// While Kafka is away pushes are refused, and nothing that was accepted is
// lost.
func TestKafkaAway(t *testing.T) {
	under(t, func(w *world) {
		w.kafka.Stop()
		logic := w.of(config.RoleLogic)[0]
		status, err := call("POST", "http://"+logic.HTTPAddr().String()+"/v1/push", `{"user":"user0","body_text":"x","ttl":"1s"}`, nil)
		if status != 503 {
			w.t.Errorf("a push while Kafka is away: %d, %v", status, err)
		}
		w.kafka.Resume()
	})
}

// A slow Kafka makes pushes slow, and loses none.
func TestSlowKafka(t *testing.T) {
	under(t, func(w *world) {
		w.kafka.Slow(100 * time.Millisecond)
		w.onward(20)
		w.kafka.Slow(0)
	})
}

// A record that a retried append put into the log twice is delivered once.
func TestRetriedAppendIsDeliveredOnce(t *testing.T) {
	under(t, func(w *world) {
		hits := w.kafka.AppendTwice("imgo.kept.1", 20)
		eventually(w.t, "appends are repeated", func() bool { return hits() == 20 })
	})
}

// Two halves that cannot see one another, each with one node of each role, do
// no harm to one another, and find each other again.
func TestHalvesApart(t *testing.T) {
	under(t, func(w *world) {
		some, others := []string{"comet1", "logic1", "router1", "job1"}, []string{"comet2", "logic2", "router2", "job2"}
		w.cut(some, others)
		eventually(w.t, "each half is alone", func() bool { return w.sees("logic1") == 4 && w.sees("logic2") == 4 })
		w.onward(100)
		w.mend()
		eventually(w.t, "the halves are one again", func() bool { return w.sees("logic1") == 8 && w.sees("logic2") == 8 })
	})
}

// sees is how many nodes a logic knows of.
func (w *world) sees(name string) int {
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

// One that others cannot call, though gossip goes on, is mended by the rules
// that need no call: each pair of roles that call one another is cut.
func TestCallsCut(t *testing.T) {
	for _, pair := range [][2]string{{"comet1", "logic1"}, {"logic1", "router1"}, {"job1", "router1"}, {"job1", "comet1"}} {
		t.Run(pair[0]+"-"+pair[1], func(t *testing.T) {
			under(t, func(w *world) {
				w.cut(pair[:1], pair[1:])
				w.onward(20) // a logic that cannot ask refuses, but only after a while
				w.mend()
			})
		})
	}
}

// A comet that hangs delays nobody else's messages, and its sessions get what
// they missed soon after it goes on, although nothing is pushed any more.
func TestAncestorBug15_HungCometBlocksNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.eight()
	comets := w.of(config.RoleComet)
	hung, fine := w.connect("u", "hung", comets[0]), w.connect("u", "fine", comets[1])
	w.pushes.push("u")
	eventually(t, "both have the first", func() bool { return hung.received.Load() == 1 && fine.received.Load() == 1 })
	w.hang("comet1")
	for range 30 {
		w.pushes.push("u")
	}
	within(t, 10*time.Second, "the healthy comet's session has all", func() bool { return fine.received.Load() == 31 })
	w.mend()
	w.settle()
}

// Everything is restarted, one node after the other.
func TestRollingRestart(t *testing.T) {
	under(t, func(w *world) {
		for _, role := range []string{config.RoleRouter, config.RoleJob, config.RoleLogic, config.RoleComet} {
			for _, n := range w.of(role) {
				n.stop()
				n.again()
			}
		}
	})
}

// Adding a node of any role needs nothing elsewhere, and it has its share.
func TestNodesJoinAndLeave(t *testing.T) {
	under(t, func(w *world) {
		for _, role := range []string{config.RoleRouter, config.RoleJob, config.RoleLogic, config.RoleComet} {
			n := w.start(role+"3", role)
			eventually(w.t, "everybody knows "+n.name, func() bool { return w.sees("logic1") == 9 && w.sees("logic2") == 9 })
			w.onward(50)
			n.stop()
			eventually(w.t, "everybody knows that it left", func() bool { return w.sees("logic1") == 8 && w.sees("logic2") == 8 })
		}
	})
}

// One process that is logic, router and job at once beside comets of their own.
func TestMixedRoles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 2 {
		w.start(fmt.Sprint("mixed", i), config.RoleLogic, config.RoleRouter, config.RoleJob)
		w.start(fmt.Sprint("comet", i), config.RoleComet)
	}
	w.pushes.run(2, w.crowd(3))
	w.onward(100)
	n := w.of(config.RoleRouter)[0]
	n.kill()
	w.onward(100)
	n.again()
	w.settle()
}
