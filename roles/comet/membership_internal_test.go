package comet

import (
	"fmt"
	"testing"
)

// TestMembershipEnds checks which rooms a session has to leave by a time.
func TestMembershipEnds(t *testing.T) {
	var m membership
	for _, room := range []string{"a", "b", "c"} {
		m.in.add(room)
	}
	m.setEnd("a", 10)
	m.setEnd("b", 20)
	m.setEnd("b", 30) // The later decision counts.
	m.setEnd("c", 0)
	if !m.ends("a") || m.ends("c") || fmt.Sprint(m.over(9), m.over(20), m.over(30)) != "[] [a] [a b]" {
		t.Errorf("the stays are %v", m.stays)
	}
	m.remove("a")
	m.setEnd("b", 0)
	if len(m.stays) != 0 || fmt.Sprint(m.in) != "[b c]" {
		t.Errorf("the rooms are %v, the stays are %v", m.in, m.stays)
	}
}

// TestMembershipOwn checks that a room that a caller of the API has put the user into is not one of
// the session's own.
func TestMembershipOwn(t *testing.T) {
	m := membership{in: roomSet{"a", "b", "c"}, granted: granted{at: 1, rooms: []string{"b", "x"}}}
	if fmt.Sprint(m.own(), m.in) != "[a c] [a b c]" {
		t.Errorf("its own are %v of %v", m.own(), m.in)
	}
}

// TestMembershipAsks checks that each room is asked about once, in order, and that a room that was
// dropped keeps its place.
func TestMembershipAsks(t *testing.T) {
	var m membership
	if !m.addAsks([]string{"a", "b"}, false) || m.addAsks([]string{"b", "c"}, true) {
		t.Error("only the first call is to begin asking")
	}
	if !m.asksNow("a") || m.asksNow("b") {
		t.Errorf("the rooms to ask about are %v", m.asks)
	}
	m.dropAsks("a")
	if m.asksNow("a") || m.doneAsking() || !m.asksNow("b") {
		t.Errorf("the rooms to ask about are %v", m.asks)
	}
	m.dropAsks("")
	if m.asksNow("b") || m.doneAsking() || !m.doneAsking() {
		t.Errorf("the rooms to ask about are %v", m.asks)
	}
}
