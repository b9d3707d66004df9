package comet

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

func TestSentIDs(t *testing.T) {
	for _, test := range []struct {
		name             string
		sent, ids        []uint64
		counted, waiting string
	}{
		{"in order", []uint64{1, 2, 3}, []uint64{1, 2}, "[1 2]", "[3]"},
		{"all", []uint64{1, 2, 3}, []uint64{3, 2, 1}, "[3 2 1]", "[]"},
		{"from the middle", []uint64{1, 2, 3, 4}, []uint64{3, 1, 3, 1}, "[3 1]", "[2 4]"},
		{"one that was passed", []uint64{1, 2, 3}, []uint64{3, 1, 2, 3, 2}, "[3 1 2]", "[]"},
		{"made up", []uint64{5, 9}, []uint64{0, 1, 4, 6, 10, math.MaxUint64}, "[]", "[5 9]"},
		{"made up, of an idle session", nil, []uint64{1}, "[]", "[]"},
		{"written again", []uint64{1, 2, 2, 1}, []uint64{2, 2}, "[2]", "[1]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var s sentIDs
			for _, id := range test.sent {
				s.add(id)
			}
			counted := s.removeKnown(slices.Clone(test.ids))
			if fmt.Sprint(counted) != test.counted || fmt.Sprint([]uint64(s)) != test.waiting {
				t.Errorf("%v count, %v wait; want %s and %s", counted, s, test.counted, test.waiting)
			}
			if len(s) == 0 && s != nil {
				t.Error("it keeps memory though nothing waits")
			}
		})
	}
	var s sentIDs
	for id := range uint64(3 * maxSentIDs) {
		s.add(id + 1)
	}
	if len(s) != maxSentIDs || cap(s) > 2*maxSentIDs ||
		len(s.removeKnown([]uint64{1})) != 0 || len(s.removeKnown([]uint64{3 * maxSentIDs})) != 1 {
		t.Errorf("%d of %d wait", len(s), cap(s))
	}
}

func TestFairShare(t *testing.T) {
	for _, test := range []struct {
		weights []int
		room    int
		want    int
	}{
		{[]int{10, 10}, 20, math.MaxInt},
		{[]int{100, 1}, 50, 49},
		{[]int{100, 3, 100}, 53, 25},
		{[]int{100}, 70, 70},
		{[]int{5, 5, 5, 1000, 2000}, 115, 50},
	} {
		if got := fairShare(slices.Clone(test.weights), test.room); got != test.want {
			t.Errorf("%v in %d: %d, want %d", test.weights, test.room, got, test.want)
		}
	}
}
