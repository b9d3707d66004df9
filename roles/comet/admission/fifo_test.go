package admission

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestFifo pushes and pops at different rates, so that the memory is used again,
// moved and given back.
func TestFifo(t *testing.T) {
	var f fifo[int]
	pushed, popped := 0, 0
	for _, step := range []struct{ push, pop int }{{1, 1}, {10, 3}, {300, 250}, {100, 157}, {1000, 999}, {500, 501}, {2, 2}} {
		for range step.push {
			f.push(pushed)
			pushed++
		}
		for range step.pop {
			if first := f.first(); first != popped {
				t.Fatalf("the first item is %d, want %d", first, popped)
			}
			if got := f.pop(); got != popped {
				t.Fatalf("popped %d, want %d", got, popped)
			}
			popped++
		}
		if f.len() != pushed-popped {
			t.Fatalf("%d items, want %d", f.len(), pushed-popped)
		}
	}
	if cap(f.items) > maxKeptItems {
		t.Errorf("an empty fifo keeps room for %d items", cap(f.items))
	}
}

// TestFifoInsert checks that items come out sorted, whatever the order in which they were inserted.
func TestFifoInsert(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var f fifo[int]
	for range 100 {
		for range 50 {
			f.insert(random.IntN(1000), cmp.Compare[int])
		}
		for last := -1; f.len() > 20; {
			item := f.pop()
			if item < last {
				t.Fatalf("popped %d after %d", item, last)
			}
			last = item
		}
	}
}

// TestFifoRemove checks that the items that are left come out sorted, also if several count as the same.
func TestFifoRemove(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	byTens := func(a, b int) int { return cmp.Compare(a/10, b/10) }
	var f fifo[int]
	present := random.Perm(500)
	for _, item := range present {
		f.insert(item, byTens)
	}
	for _, item := range present[100:] {
		f.remove(item, byTens)
	}
	left := present[:100]
	for last := -1; f.len() > 0; {
		item := f.pop()
		if item/10 < last/10 || !slices.Contains(left, item) {
			t.Fatalf("popped %d after %d", item, last)
		}
		last = item
	}
	if cap(f.items) > 0 {
		t.Error("an empty fifo keeps its memory")
	}
}
