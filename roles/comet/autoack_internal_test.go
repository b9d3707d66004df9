package comet

import (
	"fmt"
	"testing"
)

// TestTakeArrived checks that a message has arrived when the client's TCP has acknowledged the stream
// up to its end. Each message is returned once.
func TestTakeArrived(t *testing.T) {
	var a unacked
	if ids := a.removeArrived(100, 0); ids != nil || a.endsAt(0) {
		t.Fatalf("an empty one has %v", ids)
	}
	a.add(written{id: 1, end: 10})
	a.add(written{id: 2, end: 20})
	a.add(written{id: 3, end: 20})
	a.add(written{id: 4, end: 30})
	if a.endsAt(20) || !a.endsAt(30) {
		t.Error("the last message ends elsewhere")
	}
	for _, step := range []struct {
		end  int64
		want string
	}{{9, "[]"}, {19, "[1]"}, {20, "[2 3]"}, {29, "[]"}, {30, "[4]"}, {30, "[]"}} {
		if got := fmt.Sprint(a.removeArrived(step.end, 0)); got != step.want {
			t.Errorf("up to %d arrived %s, want %s", step.end, got, step.want)
		}
	}
	if a != nil {
		t.Error("it keeps memory though all has arrived")
	}
}

// TestAutoAckIsFull checks that the bound counts only messages that have not arrived.
func TestAutoAckIsFull(t *testing.T) {
	var a unacked
	for i := range maxUnacked {
		if a.full() {
			t.Fatalf("full with %d", i)
		}
		a.add(written{id: uint64(i + 1), end: int64(i + 1)})
	}
	if !a.full() {
		t.Fatal("not full at the bound")
	}
	a.removeArrived(1, 0)
	if a.full() {
		t.Fatal("full though one has arrived")
	}
}
