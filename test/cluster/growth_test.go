package cluster_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"imgo/cluster/growth"
	"imgo/config"
)

// partitions is the answer of GET and POST /v1/partitions.
type partitions struct{ Kept, Generation, Next, Moved int }

// grow asks some logic for more partitions, until one has understood.
func (w *world) grow(to int) {
	w.t.Helper()
	var err error
	eventually(w.t, fmt.Sprintf("a growth to %d partitions is begun", to), func() bool {
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

// progress is what a logic says of the partitions.
func progress(n *node) (p partitions) {
	_ = get("http://"+n.HTTPAddr().String()+"/v1/partitions", &p)
	return p
}

// grown waits until everybody has so many partitions, and uses them.
func (w *world) grown(to int) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("all that is kept has moved to %d partitions", to), func() bool {
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

// uses is how many partitions a node's roles use.
func (n *node) uses() int {
	partitions, _ := n.Kept()
	return int(partitions)
}

// away makes devices known that then leave; what returns lets them come back.
func (w *world) away(users []string) (back func()) {
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

// quick are times of a growth that no clock's error comes near to here.
func quick() growth.Config {
	return growth.Config{Lease: 2 * time.Second, Short: time.Second, Margin: 250 * time.Millisecond, Check: 500 * time.Millisecond}
}

// underGrowth runs what happens while a cluster of two nodes of each role gets
// 7 partitions instead of 4 (and then perhaps more), with callers that push to a crowd, and devices
// that were there before and come again after, and judges.
func underGrowth(t *testing.T, times growth.Config, meanwhile func(w *world)) {
	t.Helper()
	t.Parallel()
	w := newWorld(t)
	w.times = times
	w.eight()
	users := append(w.crowd(6), "absent1", "absent2")
	back := w.away(users)
	w.pushes.run(4, users)
	w.onward(100)
	w.pushes.mark()
	began := time.Now()
	w.grow(7)
	if meanwhile != nil {
		meanwhile(w)
	} else {
		w.grown(7)
	}
	t.Logf("grown in %s", time.Since(began).Round(time.Millisecond))
	w.onward(100)
	t.Logf("for %s no push was accepted", w.pushes.longestRefusal().Round(time.Millisecond))
	back()
	w.settle()
}

func TestGrow(t *testing.T) { underGrowth(t, growth.Config{}, nil) }

// moving waits until a partition has moved, or all have.
func (w *world) moving() {
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

// A router that dies while it moves what it has, before anything has moved or
// when some has: another one owns it, and moves it again.
func TestGrowWhileRoutersAreKilled(t *testing.T) {
	middles := map[string]func(w *world) (router *node, goOn func()){
		"before anything has moved": func(w *world) (*node, func()) {
			resume := w.kafka.RefuseAppends("imgo.kept.2")
			var router *node
			eventually(w.t, "a router cannot move what it has", func() bool {
				for _, n := range w.of(config.RoleRouter) {
					if strings.Contains(n.log.String(), "what moves was not appended") {
						router = n
					}
				}
				return router != nil
			})
			return router, resume
		},
		"when some has moved": func(w *world) (*node, func()) {
			w.kafka.Slow(50 * time.Millisecond)
			w.moving()
			return w.of(config.RoleRouter)[0], func() { w.kafka.Slow(0) }
		},
	}
	for when, middle := range middles {
		for name, wipe := range map[string]bool{"with its disk": true, "but for its disk": false} {
			t.Run(when+" "+name, func(t *testing.T) {
				underGrowth(t, quick(), func(w *world) {
					n, goOn := middle(w)
					n.kill()
					if wipe {
						n.wipe()
					}
					goOn()
					n.again()
					w.grown(7)
				})
			})
		}
	}
}

// The logic that was asked dies at once, and nobody needs it.
func TestGrowWhileTheOneThatWasAskedIsKilled(t *testing.T) {
	underGrowth(t, quick(), func(w *world) {
		n := w.of(config.RoleLogic)[0] // grow asks this one first
		n.kill()
		w.grown(7)
		n.again()
	})
}

// Every node dies once in the middle, one after the other.
func TestGrowWhileAllAreKilled(t *testing.T) {
	underGrowth(t, quick(), func(w *world) {
		for _, role := range []string{config.RoleJob, config.RoleRouter, config.RoleLogic, config.RoleComet} {
			for _, n := range w.of(role) {
				n.kill()
				n.again()
			}
		}
		w.grown(7)
	})
}

// A node that starts in the middle, and ones that are started again with the
// setting of before, in the middle and after, are as far as all others.
func TestGrowWithNodesThatStart(t *testing.T) {
	underGrowth(t, quick(), func(w *world) {
		for _, role := range []string{config.RoleRouter, config.RoleLogic, config.RoleJob, config.RoleComet} {
			w.start(role+"3", role)
		}
		n := w.of(config.RoleRouter)[1]
		n.stop()
		n.again()
		w.grown(7)
		for _, role := range []string{config.RoleRouter, config.RoleLogic, config.RoleJob} {
			n := w.of(role)[0]
			n.stop()
			n = n.again() // its setting says 4
			eventually(w.t, "it uses what there is", func() bool { return n.uses() == 7 })
			if !strings.Contains(n.log.String(), "another number of partitions than kept.partitions") {
				w.t.Errorf("%s does not say that its setting is not what there is", n.name)
			}
		}
	})
}

// Growing again moves what moved before.
func TestGrowTwice(t *testing.T) {
	underGrowth(t, quick(), func(w *world) {
		w.grown(7)
		w.onward(20)
		w.grow(9)
		w.grown(9)
		w.onward(20)
		w.grow(10)
		w.grown(10)
		w.t.Run("a router without a disk reads all back from the newest topic", func(t *testing.T) {
			for _, n := range w.of(config.RoleRouter) {
				n.kill()
				n.wipe()
				n.again()
			}
		})
	})
}

// One node that has every role but comet, beside comets: what is not in the
// core goes on, and what is in it changes as one.
func TestGrowMixedRoles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.times = quick()
	for i := range 2 {
		w.start(fmt.Sprint("mixed", i), config.RoleLogic, config.RoleRouter, config.RoleJob, config.RoleComet)
	}
	users := w.crowd(3)
	w.pushes.run(2, users)
	w.onward(50)
	before := w.sessionsSoFar()
	w.grow(5)
	w.grown(5)
	w.onward(50)
	if after := w.sessionsSoFar(); after != before {
		t.Errorf("clients had to connect again: %d sessions before, %d after", before, after)
	}
	w.settle()
}

func (w *world) sessionsSoFar() (n int64) {
	for _, d := range w.devices {
		n += d.sessions.Load()
	}
	return n
}

// What cannot be is refused, with the reason, and changes nothing.
func TestGrowRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.times = quick()
	w.eight()
	for body, part := range map[string]string{
		`{"kept":4}`: "there are 4 partitions", `{"kept":3}`: "it must be more", `{"kept":99999}`: "at most 1024", `{}`: "is missing",
	} {
		status, err := w.api("POST", "/v1/partitions", body, nil)
		if status != 400 || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %d, %v", body, status, err)
		}
	}
	w.grow(6)
	if status, err := w.api("POST", "/v1/partitions", `{"kept":8}`, nil); status != 400 || !strings.Contains(err.Error(), "grows from 4 to 6 partitions already") {
		t.Errorf("a second one meanwhile: %d, %v", status, err)
	}
	// A push that waits for it is told so when its time is up, or is accepted.
	w.grown(6)
	d := w.connect("u", "d", nil)
	w.pushes.push("u")
	eventually(t, "it arrives", func() bool { return d.received.Load() == 1 })
	w.settle()
}
