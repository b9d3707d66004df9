package tokenlog

import (
	"context"
	"sync"

	"imgo/envelope"
)

// progress is how far this node has read the topic. Safe for concurrent use.
type progress struct {
	mu       sync.Mutex
	position int64         // the first offset that is not in the view
	end      int64         // of the topic, as of the last question
	target   int64         // the topic's first known end. It is -1 if it is not known yet
	caughtUp bool          // position has reached target
	moved    chan struct{} // closed when position moves, and when reading stops
	restart  func()        // ends the reading that is under way. It is nil if none was begun
	// recreated reports whether the topic is another than the view's, which must
	// be cleared.
	recreated bool
	stopped   bool
}

func newProgress() *progress { return &progress{target: -1, moved: make(chan struct{})} }

// ready returns an error until all that was in the topic at first was read.
func (p *progress) ready() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.stopped:
		return envelope.Errorf(envelope.CodeUnavailable, "the tokens topic is no longer read: the node is stopping")
	case p.recreated:
		return envelope.Errorf(envelope.CodeNotReady, "the tokens topic was recreated and is about to be read from its beginning")
	case p.target < 0:
		return envelope.Errorf(envelope.CodeNotReady, "the tokens topic was not reached yet")
	case !p.caughtUp:
		return envelope.Errorf(envelope.CodeNotReady, "the tokens topic is read up to %d of %d", p.position, p.target)
	}
	return nil
}

// lag returns how many entries are known to be there and not read.
func (p *progress) lag() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(0, p.end-p.position)
}

// at returns the position. ok is false if nothing was read or begun yet.
func (p *progress) at() (position int64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.position, p.restart != nil
}

// begin sets the position from which the topic is read, and restart, which ends
// that reading. cleared reports whether the view was cleared because the topic
// was recreated.
func (p *progress) begin(position int64, cleared bool, restart func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if cleared {
		p.recreated, p.target, p.caughtUp = false, -1, false
	}
	p.restart = restart
	p.moveToLocked(position)
}

// moveTo notes that every entry before next is in the view.
func (p *progress) moveTo(next int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.moveToLocked(next)
}

func (p *progress) moveToLocked(next int64) {
	p.position = next
	p.caughtUp = p.caughtUp || p.target >= 0 && next >= p.target
	close(p.moved)
	p.moved = make(chan struct{})
}

// sawEnd notes the topic's end. The first one is the target.
func (p *progress) sawEnd(end int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end = end
	if p.target < 0 && !p.recreated {
		p.target = end
		p.caughtUp = p.position >= end
	}
}

// setRecreated notes that the topic was recreated, or the view is too old, and ends the reading.
func (p *progress) setRecreated() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.recreated = true
	if p.restart != nil {
		p.restart()
	}
}

func (p *progress) wasRecreated() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.recreated
}

// stop wakes every waiting goroutine: nothing more is read.
func (p *progress) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	p.moveToLocked(p.position)
}

// wait returns once an offset is in the view.
func (p *progress) wait(ctx context.Context, offset int64) error {
	for {
		p.mu.Lock()
		there, stopped, moved := p.position > offset, p.stopped, p.moved
		p.mu.Unlock()
		switch {
		case there:
			return nil
		case stopped:
			return envelope.Errorf(envelope.CodeUnavailable, "the node is stopping")
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return envelope.Errorf(envelope.CodeUnavailable, "the tokens topic is not read up to %d yet: %v", offset, ctx.Err())
		}
	}
}
