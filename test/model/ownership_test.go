package model_test

import (
	"slices"
	"sync"
)

// ring is which partitions a router believes to own.
type ring struct {
	mu      sync.Mutex
	owned   []int32
	changed chan struct{}
}

func newRing(owned ...int32) *ring { return &ring{owned: owned, changed: make(chan struct{})} }

func (g *ring) get() ([]int32, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.owned), g.changed
}

func (g *ring) set(owned ...int32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.owned = owned
	close(g.changed)
	g.changed = make(chan struct{})
}

// flip gains or loses a partition.
func (g *ring) flip(partition int32) {
	owned, _ := g.get()
	if i := slices.Index(owned, partition); i >= 0 {
		g.set(slices.Delete(owned, i, i+1)...)
	} else {
		g.set(append(owned, partition)...)
	}
}
