package e2e_test

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
)

// A process that is killed between the receiver's answer and the stored position posts the event again, under the same
// id, and none is missing.
func TestHooksOfAKilledProcess(t *testing.T) {
	r := newHookReceiver(t)
	dir := t.TempDir()
	begin := func() *process {
		return serve(t, dir, freePorts("--auth-mode", "none", "--hooks", "orders:"+hookSecret+":"+r.URL)...)
	}
	p := begin()
	const rounds = 5
	var want []string
	again := 0
	for round := range rounds {
		ref := fmt.Sprint("order-", round)
		// A message that expires needs no device.
		body := `{"user":"alice","body":1,"ref":"` + ref + `","report":"settled","ttl":"100ms"}`
		p.node.call(t, "POST", "/v1/push", body).want(t, 202)
		name := "expired " + ref
		eventually(t, name, func() bool { return len(r.calls(name)) > 0 })
		p.signal(syscall.SIGKILL)
		p.exit()
		p = begin()
		want = append(want, name)
	}
	r.waitFor(t, want...)
	for _, name := range want {
		ids := r.calls(name)
		if len(ids) > 1 {
			again++
		}
		if len(slices.Compact(ids)) != 1 {
			t.Errorf("%s came under the ids %q", name, ids)
		}
	}
	if again == 0 {
		t.Errorf("in %d kills no event came again: the kills were too late", rounds)
	}
}
