package cluster_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"imgo/cluster/growth"
	"imgo/config"
)

// partitions is the answer of GET and of POST /v1/partitions.
type partitions struct{ Kept, Generation, Next, Moved int }

// grow asks logics for more partitions, until one accepts.
func (w *world) grow(to int) {
	w.t.Helper()
	var err error
	eventually(w.t, fmt.Sprintf("a growth to %d partitions has begun", to), func() bool {
		for _, logic := range w.of(config.RoleLogic) {
			var status int
			status, err = call("POST", "http://"+logic.HTTPAddr().String()+"/v1/partitions", fmt.Sprintf(`{"kept":%d}`, to), nil)
			if status == 202 {
				return true
			}
			if status == 400 {
				w.t.Fatal(err)
			}
		}
		return false
	})
}

// progress returns what a logic says about the partitions.
func progress(n *node) (p partitions) {
	_ = get("http://"+n.HTTPAddr().String()+"/v1/partitions", &p)
	return p
}

// waitGrown waits until all nodes use this number of partitions.
func (w *world) waitGrown(to int) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("all kept messages have moved to %d partitions", to), func() bool {
		for _, logic := range w.of(config.RoleLogic) {
			if p := progress(logic); p.Kept != to || p.Next != 0 {
				return false
			}
		}
		return true
	})
	w.mu.Lock()
	var nodes []*node
	for _, n := range w.nodes {
		nodes = append(nodes, n)
	}
	w.mu.Unlock()
	for _, n := range nodes {
		eventually(w.t, fmt.Sprintf("%s uses %d partitions", n.name, to), func() bool { return n.uses() == to })
	}
}

// uses returns how many partitions a node's roles use.
func (n *node) uses() int {
	partitions, _ := n.Kept()
	return int(partitions)
}

// knownDevices connects a device of each user and disconnects it. reconnect connects them
// again.
func (w *world) knownDevices(users []string) (reconnect func()) {
	w.t.Helper()
	for _, user := range users {
		w.connect(user, "away", nil).leave()
	}
	return func() {
		for _, user := range users {
			w.connect(user, "away", nil)
		}
	}
}

// quickTimes returns short times for growths. All nodes of a test have the same clock.
func quickTimes() growth.Config {
	return growth.Config{Lease: 2 * time.Second, Short: time.Second, Margin: 250 * time.Millisecond}
}

// withGrowth calls meanwhile while a cluster of two nodes of each role grows from 4 to 7
// partitions. Callers push to users, some of whose devices are away until the end. Then it
// judges the history.
func withGrowth(t *testing.T, times growth.Config, meanwhile func(w *world)) {
	t.Helper()
	t.Parallel()
	w := newWorld(t)
	w.times = times
	w.startAll()
	users := append(w.connectUsers(6), "absent1", "absent2")
	back := w.knownDevices(users)
	w.pushes.run(4, users)
	w.waitReceived(100)
	w.pushes.resetRefusals()
	began := time.Now()
	w.grow(7)
	if meanwhile != nil {
		meanwhile(w)
	} else {
		w.waitGrown(7)
	}
	t.Logf("grown in %s", time.Since(began).Round(time.Millisecond))
	w.waitReceived(100)
	t.Logf("for %s no push was accepted", w.pushes.longestRefusal().Round(time.Millisecond))
	back()
	w.checkHistory()
}

func TestGrow(t *testing.T) { withGrowth(t, growth.Config{}, nil) }

// Kafka does not make a topic of the next generation for some time. Kept pushes go on
// meanwhile, a log says why nothing moves, and the topic grows once Kafka makes it.
func TestGrowWithoutTopic(t *testing.T) {
	for _, topic := range []string{"imgo.kept.2", "imgo.events.2"} {
		t.Run(topic, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.times = quickTimes()
			w.startAll()
			resume := w.kafka.RefuseTopic(topic)
			w.grow(7)
			eventually(t, "a log says that the topic cannot be made", func() bool {
				for _, n := range w.of(config.RoleRouter) {
					for line := range strings.Lines(n.Log.String()) {
						if strings.Contains(line, "cannot move to its next generation yet") && strings.Contains(line, topic) {
							return true
						}
					}
				}
				return false
			})
			push := "http://" + w.of(config.RoleLogic)[0].HTTPAddr().String() + "/v1/push"
			if status, err := call("POST", push, `{"user":"u","body_text":"x","ttl":"60s"}`, nil); err != nil {
				t.Errorf("a kept push while the topic cannot be made: %d, %v", status, err)
			}
			resume()
			w.waitGrown(7)
		})
	}
}

// waitMoving waits until at least one partition has moved.
func (w *world) waitMoving() {
	w.t.Helper()
	eventually(w.t, "a partition has moved", func() bool {
		for _, logic := range w.of(config.RoleLogic) {
			if p := progress(logic); p.Moved > 0 || p.Generation > 1 {
				return true
			}
		}
		return false
	})
}

// A router dies while it moves its partitions, before or after some have moved. The next
// owner moves them again.
func TestGrowWhileRoutersAreKilled(t *testing.T) {
	middles := map[string]func(w *world) (router *node, goOn func()){
		"before anything has moved": func(w *world) (*node, func()) {
			resume := w.kafka.RefuseAppends("imgo.kept.2")
			var router *node
			eventually(w.t, "a router failed to move its messages", func() bool {
				for _, n := range w.of(config.RoleRouter) {
					if strings.Contains(n.Log.String(), "what moves was not appended") {
						router = n
					}
				}
				return router != nil
			})
			return router, resume
		},
		"when some has moved": func(w *world) (*node, func()) {
			w.kafka.Slow(50 * time.Millisecond)
			w.waitMoving()
			return w.of(config.RoleRouter)[0], func() { w.kafka.Slow(0) }
		},
	}
	for when, middle := range middles {
		for name, wipe := range map[string]bool{"with its disk": true, "but for its disk": false} {
			t.Run(when+" "+name, func(t *testing.T) {
				withGrowth(t, quickTimes(), func(w *world) {
					n, goOn := middle(w)
					n.kill()
					if wipe {
						n.wipe()
					}
					goOn()
					n.restart()
					w.waitGrown(7)
				})
			})
		}
	}
}

// The logic that was asked dies at once. The growth goes on without it.
func TestGrowWhileTheAskedLogicIsKilled(t *testing.T) {
	withGrowth(t, quickTimes(), func(w *world) {
		n := w.of(config.RoleLogic)[0] // grow asks this one first
		n.kill()
		w.waitGrown(7)
		n.restart()
	})
}

// Every node dies once during the growth, one after the other.
func TestGrowWhileAllAreKilled(t *testing.T) {
	withGrowth(t, quickTimes(), func(w *world) {
		for _, role := range []string{config.RoleJob, config.RoleRouter, config.RoleLogic, config.RoleComet} {
			for _, n := range w.of(role) {
				n.kill()
				n.restart()
			}
		}
		w.waitGrown(7)
	})
}

// Nodes that start during the growth, and nodes that start again with the old setting during
// and after it, use the same partitions as all others.
func TestGrowWithNodesThatStart(t *testing.T) {
	withGrowth(t, quickTimes(), func(w *world) {
		for _, role := range []string{config.RoleRouter, config.RoleLogic, config.RoleJob, config.RoleComet} {
			w.start(role+"3", role)
		}
		n := w.of(config.RoleRouter)[1]
		n.stop()
		n.restart()
		w.waitGrown(7)
		for _, role := range []string{config.RoleRouter, config.RoleLogic, config.RoleJob} {
			n := w.of(role)[0]
			n.stop()
			n = n.restart() // its setting says 4
			eventually(w.t, "it uses 7 partitions", func() bool { return n.uses() == 7 })
			if !strings.Contains(n.Log.String(), "another number of partitions than kept.partitions") {
				w.t.Errorf("%s does not log that its setting differs from the topic", n.name)
			}
		}
	})
}

// The topic grows three times, and the same messages move each time.
func TestGrowTwice(t *testing.T) {
	withGrowth(t, quickTimes(), func(w *world) {
		w.waitGrown(7)
		w.waitReceived(20)
		w.grow(9)
		w.waitGrown(9)
		w.waitReceived(20)
		w.grow(10)
		w.waitGrown(10)
		w.t.Run("a router without a disk reads all back from the newest topic", func(t *testing.T) {
			for _, n := range w.of(config.RoleRouter) {
				n.kill()
				n.wipe()
				n.restart()
			}
		})
	})
}

// One node has every role but comet, and comets are nodes of their own. The roles in the core
// change to the new partitions together, and the others go on.
func TestGrowMixedRoles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.times = quickTimes()
	for i := range 2 {
		w.start(fmt.Sprint("mixed", i), config.RoleLogic, config.RoleRouter, config.RoleJob, config.RoleComet)
	}
	users := w.connectUsers(3)
	w.pushes.run(2, users)
	w.waitReceived(50)
	before := w.sessionsSoFar()
	w.grow(5)
	w.waitGrown(5)
	w.waitReceived(50)
	if after := w.sessionsSoFar(); after != before {
		t.Errorf("clients had to connect again: %d sessions before, %d after", before, after)
	}
	w.checkHistory()
}

func (w *world) sessionsSoFar() (n int64) {
	for _, d := range w.devices {
		n += d.sessions.Load()
	}
	return n
}

// Impossible numbers are refused with the reason, and change nothing.
func TestGrowRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.times = quickTimes()
	w.startAll()
	for _, tt := range []struct {
		body   string
		status int
		reason string
	}{
		{`{"kept":4}`, 409, "there are 4 partitions"}, {`{"kept":3}`, 409, "it must be more"},
		{`{"kept":99999}`, 400, "at most 1024"}, {`{}`, 400, "is missing"},
	} {
		status, err := w.api("POST", "/v1/partitions", tt.body, nil)
		if status != tt.status || !strings.Contains(err.Error(), tt.reason) {
			t.Errorf("%s: %d, %v", tt.body, status, err)
		}
	}
	w.grow(6)
	if status, err := w.api("POST", "/v1/partitions", `{"kept":8}`, nil); status != 409 ||
		!strings.Contains(err.Error(), "grows from 4 to 6 partitions already") {
		t.Errorf("a second growth at the same time: %d, %v", status, err)
	}
	// A push that waits for the growth is accepted, or refused with that reason.
	w.waitGrown(6)
	d := w.connect("u", "d", nil)
	w.pushes.push("u")
	eventually(t, "it arrives", func() bool { return d.received.Load() == 1 })
	w.checkHistory()
}
