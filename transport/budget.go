package transport

import (
	"container/heap"
	"errors"
	"sync"
)

// ErrOverBudget is the error of reading from a connection that an InputBudget
// has chosen to end.
var ErrOverBudget = errors.New("the server holds too many incomplete packets of clients that have not authenticated")

// InputBudget bounds the memory that incomplete requests and packets of all
// connections take before their clients have authenticated. Beyond the bound it ends the
// connection that holds most. If several hold as much, it ends the one that was the
// first to hold something. It is safe for concurrent use.
type InputBudget struct {
	max int

	mu    sync.Mutex
	slots largestFirst
	size  int    // of all slots
	seq   uint64 // of the last new slot
}

// InputSlot is the place of one connection in an InputBudget.
type InputSlot struct {
	conn  evicter
	size  int
	seq   uint64
	index int // in slots; only while size is not 0
}

// evicter is a connection that can be ended. Evict must not block.
type evicter interface{ Evict() }

// NewInputBudget makes an InputBudget of max bytes. 0 or less is no bound.
func NewInputBudget(max int) *InputBudget { return &InputBudget{max: max} }

// Set notes that a connection holds size bytes. If all together hold more than the
// bound, it ends connections.
func (b *InputBudget) Set(s *InputSlot, conn evicter, size int) {
	b.mu.Lock()
	b.setLocked(s, conn, size)
	var evicted []evicter
	for b.max > 0 && b.size > b.max {
		largest := b.slots[0]
		evicted = append(evicted, largest.conn)
		b.setLocked(largest, nil, 0)
	}
	b.mu.Unlock()
	for _, conn := range evicted { // without the lock, because a reader may be woken
		conn.Evict()
	}
}

func (b *InputBudget) setLocked(s *InputSlot, conn evicter, size int) {
	b.size += size - s.size
	before := s.size
	s.size = size
	switch {
	case before == 0 && size > 0:
		b.seq++
		s.seq, s.conn = b.seq, conn
		heap.Push(&b.slots, s)
	case before > 0 && size == 0:
		heap.Remove(&b.slots, s.index)
		s.conn = nil
	case before != size:
		heap.Fix(&b.slots, s.index)
	}
}

// largestFirst is a heap of slots.
type largestFirst []*InputSlot

func (h largestFirst) Len() int { return len(h) }

func (h largestFirst) Less(i, j int) bool {
	if h[i].size != h[j].size {
		return h[i].size > h[j].size
	}
	return h[i].seq < h[j].seq
}

func (h largestFirst) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *largestFirst) Push(x any) {
	s := x.(*InputSlot)
	s.index = len(*h)
	*h = append(*h, s)
}

// Pop implements heap.Interface.
func (h *largestFirst) Pop() any {
	old := *h
	n := len(old) - 1
	s := old[n]
	old[n] = nil
	*h = old[:n]
	return s
}
