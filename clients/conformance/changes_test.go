package conformance

import (
	"sync"
	"time"

	"imgo/clients/conformance/peer"
)

// changes lets a script wait for what other goroutines do. mu guards what they change.
type changes struct {
	mu   sync.Mutex
	next chan struct{} // closed at the next change; nil: nobody has waited since the last one
}

// changedLocked has await look again.
func (c *changes) changedLocked() {
	if c.next != nil {
		close(c.next)
		c.next = nil
	}
}

// await waits until done, which it calls with the lock held, at first and after each change. It reports false if that does
// not come within peer.Limit, or before the channel over is closed.
func (c *changes) await(over <-chan struct{}, done func() bool) bool {
	timeout := time.NewTimer(peer.Limit)
	defer timeout.Stop()
	for last := false; ; {
		c.mu.Lock()
		met := done()
		if c.next == nil {
			c.next = make(chan struct{})
		}
		next := c.next
		c.mu.Unlock()
		if met || last {
			return met
		}
		select {
		case <-next:
		case <-over:
			last = true
		case <-timeout.C:
			last = true
		}
	}
}
