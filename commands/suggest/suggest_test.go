package suggest_test

import (
	"testing"

	"imgo/commands/suggest"
)

func TestClosest(t *testing.T) {
	candidates := []string{"push", "listen", "token", "tcp", "ws", "IMGO_COMET_TCP", "limits.connections"}
	for name, want := range map[string]string{
		"pusg": "push", "pus": "push", "PUSH": "push", "lisen": "listen", "tpc": "tcp", "imgo_comet_tpc": "IMGO_COMET_TCP",
		"limits.conections": "limits.connections", "frobnicate": "", "x": "", "": "",
	} {
		if got := suggest.Closest(name, candidates); got != want {
			t.Errorf("Closest(%q) is %q, want %q", name, got, want)
		}
	}
	if got := suggest.Closest("push", nil); got != "" {
		t.Errorf("Closest of nothing is %q", got)
	}
}
