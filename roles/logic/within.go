package logic

import (
	"context"
	"sync"
	"time"
)

// Within is context.WithTimeout for operations that mostly end without ever
// waiting: its timer, and its place in the parent's list, are only made once
// somebody asks for Done. A push that is not kept has two bounds and waits for
// neither.
//
// The context may be used by many goroutines at once; cancel must be called,
// may be called twice, and ends what was derived from it.
func Within(parent context.Context, d time.Duration) (ctx context.Context, cancel func()) {
	w := &within{parent: parent, deadline: time.Now().Add(d)}
	if by, ok := parent.Deadline(); ok && by.Before(w.deadline) {
		w.deadline = by
	}
	return w, w.cancel
}

type within struct {
	parent   context.Context
	deadline time.Time

	mu sync.Mutex
	// real has the timer; nil: nobody has asked for it.
	real context.Context
	// ends end real, and those of contexts that were derived from this one
	// before it had one.
	ends []context.CancelFunc
	err  error // of the time before real
}

// Deadline is the sooner of its own and the parent's.
func (w *within) Deadline() (time.Time, bool) { return w.deadline, true }

// Value is the parent's. The real context's comes first: package context finds
// by it that it need not watch Done with a goroutine.
func (w *within) Value(key any) any {
	w.mu.Lock()
	real := w.real
	w.mu.Unlock()
	if real != nil {
		return real.Value(key)
	}
	return w.parent.Value(key)
}

// Err says why it ended.
func (w *within) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended()
}

// ended is Err; mu must be held.
func (w *within) ended() error {
	if w.real != nil {
		return w.real.Err()
	}
	if w.err == nil {
		if w.err = w.parent.Err(); w.err == nil && !time.Now().Before(w.deadline) {
			w.err = context.DeadlineExceeded
		}
	}
	return w.err
}

// Done starts the timer.
func (w *within) Done() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.real == nil {
		err := w.ended()
		var end context.CancelFunc
		w.real, end = w.begin()
		w.ends = append(w.ends, end)
		if err != nil {
			end() // a deadline that passed has ended it already, and says so
		}
	}
	return w.real.Done()
}

// begin makes the real context: of the nearest ancestor that has, or is, one,
// so that a chain of these has one timer.
func (w *within) begin() (context.Context, context.CancelFunc) {
	parent, lazy := w.parent.(*within)
	if !lazy {
		return context.WithDeadline(w.parent, w.deadline)
	}
	parent.mu.Lock()
	defer parent.mu.Unlock()
	if parent.real != nil {
		return context.WithDeadline(parent.real, w.deadline)
	}
	real, end := context.WithDeadline(parent.parent, w.deadline)
	if parent.ended() != nil {
		end()
	}
	parent.ends = append(parent.ends, end)
	return real, end
}

func (w *within) cancel() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.real == nil && w.ended() == nil {
		w.err = context.Canceled
	}
	for _, end := range w.ends {
		end()
	}
	w.ends = nil
}
