// Package batch sends to many sockets in one system call, by io_uring, if the
// kernel has it and allows it. The cost of entering the kernel, and of being
// switched away from on the way out, is then paid once for a batch.
//
// It owns the rings. When Send returns, each write has a result, which may be NotSent,
// and the kernel no longer uses memory of the caller. No write waits for room in a
// socket. The package does not know the owners of the sockets, keeps no descriptor of
// theirs open, and takes no lock but its own.
package batch

import (
	"fmt"
	"sync"
)

// Size is the number of writes that a batch takes. With 64 the cost of the call
// itself is about a hundredth of the whole. More would only make the first
// connections of a batch wait longer.
const Size = 64

// NotSent is the result of a write that the kernel did not get to. The caller
// sends it by itself.
const NotSent int32 = -4 // EINTR, which a send that does not wait never returns

// Pool lends batches, up to a number at a time. A nil Pool lends none. It is safe
// for concurrent use.
type Pool struct {
	mu     sync.Mutex
	free   []*Batch
	more   int // the number that may still be made
	closed bool
}

// NewPool returns a pool of up to n batches. It tries io_uring on sockets of its
// own, and returns an error if this system cannot send in batches.
func NewPool(n int) (*Pool, error) {
	first, err := newBatch()
	if err != nil {
		return nil, fmt.Errorf("send in batches: %w", err)
	}
	if err := first.probe(); err != nil {
		first.close()
		return nil, fmt.Errorf("send in batches: %w", err)
	}
	return &Pool{free: []*Batch{first}, more: n - 1}, nil
}

// Get lends an empty batch. It returns nil if there is none: each write then
// goes by itself.
func (p *Pool) Get() *Batch {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if last := len(p.free) - 1; last >= 0 {
		b := p.free[last]
		p.free = p.free[:last]
		return b
	}
	if p.more == 0 || p.closed {
		return nil
	}
	b, err := newBatch()
	if err != nil { // there were rings before, so memory or descriptors are short now
		return nil
	}
	p.more--
	return b
}

// Put takes back an empty batch. It ignores nil.
func (p *Pool) Put(b *Batch) {
	if b == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || b.broken() {
		b.close()
		p.more++
		return
	}
	p.free = append(p.free, b)
}

// Close frees the batches that are not lent, and the others when they come back.
func (p *Pool) Close() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, b := range p.free {
		b.close()
	}
	p.free = nil
}
