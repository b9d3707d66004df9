package comet

import (
	"fmt"
	"testing"
)

func TestRoomSet(t *testing.T) {
	var r roomSet
	for _, room := range []string{"a", "b", "c"} {
		r.add(room)
	}
	r.remove("b")
	r.remove("x")
	if fmt.Sprint(r) != "[a c]" || r.has("b") || !r.has("a") || !r.has("c") {
		t.Errorf("the rooms are %v", r)
	}
}
