// Package batch sends to many sockets in one system call, by io_uring, where
// the kernel has it and lets us: what a send costs beside TCP itself, entering
// the kernel, and being switched away from when it returns, is then paid once
// a batch.
//
// It owns the rings. It guarantees that Send has ended when it returns: nothing
// waits for room in a socket, no memory is the kernel's afterwards, and each
// write has a result, if need be that it was not sent. It does not know whose
// sockets these are, keeps no descriptor open, and takes no lock but its own.
package batch

import (
	"fmt"
	"sync"
)

// Size is how many writes a batch takes. With 64 the call itself is about a
// hundredth of what it does; what is in a batch is locked until it was sent.
const Size = 64

// NotSent is the result of a write that the kernel did not get to: it is to be
// sent by itself.
const NotSent int32 = -4 // EINTR, which a send that does not wait never is

// Pool lends batches, up to a number at a time. A nil Pool lends none. Safe for
// concurrent use.
type Pool struct {
	mu     sync.Mutex
	free   []*Batch
	more   int // how many may yet be made
	closed bool
}

// NewPool is a pool of up to n batches, or says why this system has none: it
// sends over sockets of its own to find out.
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

// Take lends an empty batch; nil: there is none, each write is to go by itself.
func (p *Pool) Take() *Batch {
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
	if err != nil { // there were rings before: memory or files are short now
		return nil
	}
	p.more--
	return b
}

// Put takes an empty batch back; nil is none.
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

// Close frees what is not lent, and the rest as it comes back.
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
