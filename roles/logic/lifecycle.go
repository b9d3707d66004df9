package logic

import (
	"context"
	"errors"
	"sync"
	"time"

	"imgo/envelope"
	"imgo/internal/lazyctx"
)

// lifecycle admits calls until logic stops, bounds their time, and waits for
// them at the end.
type lifecycle struct {
	callTimeout time.Duration

	// mu orders begin against stop: no call begins once stopping is set, so
	// that inflight only falls from then on.
	mu       sync.RWMutex
	running  bool
	stopping bool
	inflight sync.WaitGroup
}

// start lets ready succeed. It returns an error if it was called before.
func (l *lifecycle) start() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running || l.stopping {
		return errors.New("logic: Run was called twice")
	}
	l.running = true
	return nil
}

// stop refuses new calls and returns when those under way have ended.
func (l *lifecycle) stop() {
	l.mu.Lock()
	l.stopping = true
	l.mu.Unlock()
	l.inflight.Wait()
}

// ready returns an error unless calls are served.
func (l *lifecycle) ready() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	switch {
	case l.stopping:
		return envelope.Errorf(envelope.CodeNotReady, "logic is stopping")
	case !l.running:
		return envelope.Errorf(envelope.CodeNotReady, "logic is not running yet")
	}
	return nil
}

// begin admits a call and returns a context that bounds its time. The caller
// must call end.
func (l *lifecycle) begin(ctx context.Context) (callCtx context.Context, end func(), err error) {
	return l.beginWithin(ctx, l.callTimeout)
}

// beginFor is begin for a call about a user, whose name it checks.
func (l *lifecycle) beginFor(ctx context.Context, user string) (callCtx context.Context, end func(), err error) {
	if err := envelope.CheckName("user", user); err != nil {
		return nil, nil, err
	}
	return l.begin(ctx)
}

// beginWithin is begin with a time limit of its own.
func (l *lifecycle) beginWithin(ctx context.Context, timeout time.Duration) (callCtx context.Context, end func(), err error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.stopping {
		return nil, nil, envelope.Errorf(envelope.CodeUnavailable, "logic is stopping: try another node")
	}
	l.inflight.Add(1)
	if by, ok := ctx.Deadline(); ok && time.Until(by) <= timeout {
		return ctx, l.inflight.Done, nil // it is bounded already: one context less
	}
	callCtx, cancel := lazyctx.Timeout(ctx, timeout)
	return callCtx, func() { cancel(); l.inflight.Done() }, nil
}
