package cluster_test

import (
	"fmt"
	"testing"

	"imgo/config"
)

// startAll starts two nodes of each role, and waits until each logic knows all of them.
func (w *world) startAll() {
	w.t.Helper()
	for _, role := range []string{config.RoleRouter, config.RoleLogic, config.RoleJob, config.RoleComet} {
		for i := range 2 {
			w.begin(fmt.Sprint(role, i+1), role)
		}
	}
	for _, role := range []string{config.RoleRouter, config.RoleLogic, config.RoleJob, config.RoleComet} {
		for _, n := range w.of(role) {
			n.WaitReady()
		}
	}
	for _, n := range w.of(config.RoleLogic) {
		eventually(w.t, n.name+" knows all nodes", func() bool { return w.knownNodes(n.name) == 8 })
	}
}

// connectUsers connects devices of some users, and returns the users.
func (w *world) connectUsers(users int) []string {
	w.t.Helper()
	out := make([]string, users)
	for i := range out {
		out[i] = fmt.Sprint("user", i)
		for _, name := range []string{"phone", "laptop"} {
			w.connect(out[i], name, nil)
		}
	}
	return out
}

// A user who is connected to two comets gets each message on both, whichever logic took it.
func TestUserOnTwoComets(t *testing.T) {
	w := newWorld(t)
	w.startAll()
	comets := w.of(config.RoleComet)
	phone, laptop := w.connect("u", "phone", comets[0]), w.connect("u", "laptop", comets[1])
	for range 20 {
		w.pushes.push("u")
	}
	w.checkHistory()
	if phone.received.Load() != 20 || laptop.received.Load() != 20 {
		t.Errorf("phone received %d, laptop %d, of 20", phone.received.Load(), laptop.received.Load())
	}
}
