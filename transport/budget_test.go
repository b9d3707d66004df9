package transport_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"imgo/transport"
)

// holder is a connection of an InputBudget.
type holder struct {
	slot    transport.InputSlot
	name    int
	evicted *[]int
}

func (h *holder) Evict() { *h.evicted = append(*h.evicted, h.name) }

func holders(n int) (list []*holder, evicted *[]int) {
	evicted = new([]int)
	for i := range n {
		list = append(list, &holder{name: i, evicted: evicted})
	}
	return list, evicted
}

// TestInputBudget checks that the largest connections are ended first, of several
// the oldest, and no more than needed.
func TestInputBudget(t *testing.T) {
	b := transport.NewInputBudget(100)
	h, evicted := holders(6)
	for i, size := range []int{10, 40, 20, 20, 10} {
		b.Set(&h[i].slot, h[i], size)
	}
	if len(*evicted) > 0 || b.Held() != 100 {
		t.Fatalf("%v were ended at the bound, %d are held", *evicted, b.Held())
	}
	b.Set(&h[5].slot, h[5], 1)   // 40 has to go
	b.Set(&h[0].slot, h[0], 49)  // just fits
	b.Set(&h[4].slot, h[4], 11)  // the 49 have to go
	b.Set(&h[4].slot, h[4], 0)   // complete
	b.Set(&h[4].slot, h[4], 200) // alone over the bound
	b.Set(&h[5].slot, h[5], 80)  // 121: the newest is the largest
	if want := []int{1, 0, 4, 5}; !slices.Equal(*evicted, want) || b.Held() != 40 {
		t.Errorf("%v were ended and %d are held, want %v and 40", *evicted, b.Held(), want)
	}
}

// TestInputBudgetRandom compares an InputBudget with a slow one.
func TestInputBudgetRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const bound = 1000
	b := transport.NewInputBudget(bound)
	h, evicted := holders(50)
	type entry struct{ size, seq int }
	model, seq := map[int]entry{}, 0
	for range 20_000 {
		i, size := rng.IntN(len(h)), max(rng.IntN(120)-30, 0)
		*evicted = nil
		b.Set(&h[i].slot, h[i], size)
		var want []int
		switch e, ok := model[i]; {
		case size == 0:
			delete(model, i)
		case ok:
			model[i] = entry{size, e.seq}
		default:
			seq++
			model[i] = entry{size, seq}
		}
		for {
			sum, largest := 0, -1
			for name, e := range model {
				sum += e.size
				l, ok := model[largest]
				if !ok || e.size > l.size || e.size == l.size && e.seq < l.seq {
					largest = name
				}
			}
			if sum <= bound {
				if b.Held() != sum {
					t.Fatalf("%d are held, want %d", b.Held(), sum)
				}
				break
			}
			want = append(want, largest)
			delete(model, largest)
		}
		if diff := cmp.Diff(want, *evicted); diff != "" {
			t.Fatalf("ended (-want +got):\n%s", diff)
		}
	}
}
