package ring_test

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"imgo/cluster/ring"
)

func names(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("router-%d", i)
	}
	return out
}

// Nodes of different releases must compute the same owners. If an owner changes here,
// two nodes own one partition while a cluster is upgraded.
func TestOwnersStayWhatTheyWere(t *testing.T) {
	want := []string{"a", "a", "c", "c", "b", "c", "a", "b", "b", "a", "b", "a", "c", "a", "b", "c"}
	for p, name := range want {
		if got := ring.Owner(int32(p), []string{"a", "b", "c"}); got != name {
			t.Errorf("partition %d: owner %s, has always been %s", p, got, name)
		}
	}
}

func TestOrderAndRepetitionMakeNoDifference(t *testing.T) {
	forth := names(7)
	back := append(slices.Clone(forth), forth[2], forth[5])
	slices.Reverse(back)
	for p := range int32(500) {
		if a, b := ring.Owner(p, forth), ring.Owner(p, back); a != b {
			t.Fatalf("partition %d: %s or %s", p, a, b)
		}
	}
}

func TestBalance(t *testing.T) {
	const partitions = 4096
	for _, n := range []int{2, 3, 5, 16} {
		r := ring.New(partitions, names(n))
		mean := float64(partitions) / float64(n)
		for _, name := range names(n) {
			// Each share is binomial. Five standard deviations do not happen by chance.
			if got := float64(len(r.Owned(name))); math.Abs(got-mean) > 5*math.Sqrt(mean) {
				t.Errorf("%d nodes: %s owns %.0f, the mean is %.0f", n, name, got, mean)
			}
		}
	}
}

func TestOnlyWhatMustMoveMoves(t *testing.T) {
	const partitions = 1024
	all := names(6)
	before := ring.New(partitions, all)
	gone := all[3]
	after := ring.New(partitions, slices.DeleteFunc(slices.Clone(all), func(n string) bool { return n == gone }))
	for p := range int32(partitions) {
		if was, is := before.Owner(p), after.Owner(p); was != is && was != gone {
			t.Errorf("partition %d went from %s to %s although %s is gone", p, was, is, gone)
		}
	}
	if len(after.Owned(gone)) != 0 {
		t.Errorf("%s is gone and owns %v", gone, after.Owned(gone))
	}
}

func TestTableAgreesWithOwner(t *testing.T) {
	const partitions = 256
	r := ring.New(partitions, append(names(4), "router-0"))
	if r.Partitions() != partitions {
		t.Fatalf("%d partitions", r.Partitions())
	}
	count := 0
	for _, name := range names(4) {
		owned := r.Owned(name)
		count += len(owned)
		if !slices.IsSorted(owned) {
			t.Errorf("%s: not in order: %v", name, owned)
		}
		for _, p := range owned {
			if r.Owner(p) != name || ring.Owner(p, names(4)) != name {
				t.Errorf("partition %d: %s, %s and %s", p, name, r.Owner(p), ring.Owner(p, names(4)))
			}
		}
		clear(owned) // the caller's copy
		if len(owned) > 0 && r.Owned(name)[0] == 0 && r.Owner(0) != name {
			t.Error("the caller's slice is the ring's")
		}
	}
	if count != partitions {
		t.Errorf("%d partitions have an owner", count)
	}
}

func TestWithoutNodes(t *testing.T) {
	r := ring.New(8, nil)
	if got := r.Owner(3); got != "" {
		t.Errorf("owner %q", got)
	}
	if got := ring.Owner(3, nil); got != "" {
		t.Errorf("owner %q", got)
	}
	r = ring.New(8, []string{"a"})
	for _, p := range []int32{-1, 8} {
		if got := r.Owner(p); got != "" {
			t.Errorf("partition %d has the owner %q", p, got)
		}
	}
	if got := len(r.Owned("a")); got != 8 {
		t.Errorf("a node alone owns %d", got)
	}
	if ring.New(-1, []string{"a"}).Partitions() != 0 {
		t.Error("fewer than no partitions")
	}
}

func BenchmarkNew(b *testing.B) {
	n := names(16)
	for b.Loop() {
		ring.New(256, n)
	}
}
