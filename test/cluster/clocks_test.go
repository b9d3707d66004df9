package cluster_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"imgo/config"
)

// Clocks that differ by hours must not cost a message, however short its ttl is. Half of the
// devices are away during the pushes, and the routers start anew before those come back. Each
// node must say that its clock is wrong.
func TestClocksAnHourApart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.change = func(cfg *config.Config) { cfg.Kept.DefaultTTL = time.Minute }
	w.ahead = map[string]time.Duration{
		"logic1": -time.Hour, "logic2": time.Hour, "router1": time.Hour, "router2": -time.Hour, "comet1": time.Hour, "job1": -time.Hour,
	}
	w.startAll()
	users := w.connectUsers(16)
	for i, d := range w.devices {
		if i%2 == 1 {
			d.leave()
		}
	}
	for range 5 {
		for _, user := range users {
			w.pushes.push(user)
		}
	}
	for _, name := range []string{"router1", "router2"} {
		w.nodes[name].stop()
		w.start(name, config.RoleRouter)
	}
	for i, d := range slices.Clone(w.devices) {
		if i%2 == 1 {
			w.connect(d.user, d.name, nil)
		}
	}
	w.checkHistory()

	var answer struct {
		Nodes []struct {
			Name    string
			ClockMS int64 `json:"clock_ms"`
		}
	}
	if _, err := w.api("GET", "/v1/nodes", "", &answer); err != nil {
		t.Fatal(err)
	}
	here := w.ahead[w.of(config.RoleLogic)[0].name]
	for _, n := range answer.Nodes {
		want := w.ahead[n.Name] - here
		if off := time.Duration(n.ClockMS)*time.Millisecond - want; off.Abs() > time.Minute {
			t.Errorf("the clock of %s is ahead by %d ms; want about %s", n.Name, n.ClockMS, want)
		}
	}
	n := w.of(config.RoleLogic)[0]
	if !strings.Contains(n.Log.String(), "the clocks of two nodes differ") {
		t.Error("a node with a wrong clock does not warn")
	}
}
