package lazyctx_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"imgo/internal/lazyctx"
)

// TestTimeout compares a chain of three contexts with context.WithTimeout. It calls
// Done on different contexts of the chain and ends them in every way.
func TestTimeout(t *testing.T) {
	type chain struct{ contexts [3]context.Context }
	ask := func(which int) func(c chain) {
		return func(c chain) { c.contexts[which].Done() }
	}
	asks := map[string]func(c chain){
		"nobody": func(chain) {}, "the first": ask(0), "the second": ask(1), "the third": ask(2),
		"all from the first": func(c chain) { ask(0)(c); ask(1)(c); ask(2)(c) },
		"all from the third": func(c chain) { ask(2)(c); ask(1)(c); ask(0)(c) },
	}
	// ways are all ways to end the contexts, with the resulting error of each context.
	ends := map[string]struct {
		do   func(parent func(), cancels [3]func())
		want [3]error
	}{
		"nothing":               {func(func(), [3]func()) {}, [3]error{}},
		"the parent ends":       {func(parent func(), _ [3]func()) { parent() }, [3]error{context.Canceled, context.Canceled, context.Canceled}},
		"the first is canceled": {func(_ func(), c [3]func()) { c[0]() }, [3]error{context.Canceled, context.Canceled, context.Canceled}},
		"the last is canceled":  {func(_ func(), c [3]func()) { c[2](); c[2]() }, [3]error{nil, nil, context.Canceled}},
		"the last is late":      {func(func(), [3]func()) { time.Sleep(1500 * time.Millisecond) }, [3]error{nil, nil, context.DeadlineExceeded}},
		"the second is late": {func(func(), [3]func()) { time.Sleep(2500 * time.Millisecond) },
			[3]error{nil, context.DeadlineExceeded, context.DeadlineExceeded}},
		"late, then canceled": {func(_ func(), c [3]func()) { time.Sleep(4 * time.Second); c[0]() },
			[3]error{context.DeadlineExceeded, context.DeadlineExceeded, context.DeadlineExceeded}},
	}
	for asked, ask := range asks {
		for ended, end := range ends {
			t.Run(asked+" asks, "+ended, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					parent, cancelParent := context.WithCancel(context.WithValue(t.Context(), t, "value"))
					defer cancelParent()
					var c chain
					var cancels [3]func()
					c.contexts[0], cancels[0] = lazyctx.Timeout(parent, 3*time.Second)
					c.contexts[1], cancels[1] = lazyctx.Timeout(c.contexts[0], 2*time.Second)
					c.contexts[2], cancels[2] = lazyctx.Timeout(c.contexts[1], time.Second)
					for _, cancel := range cancels {
						defer cancel()
					}
					ask(c)
					derived := c.contexts[2]
					if asked != "nobody" {
						var cancelDerived context.CancelFunc
						derived, cancelDerived = context.WithCancel(derived)
						defer cancelDerived()
					}
					end.do(cancelParent, cancels)
					synctest.Wait()
					for i, ctx := range c.contexts {
						if err := ctx.Err(); !errors.Is(err, end.want[i]) {
							t.Errorf("context %d ended with %v, want %v", i, err, end.want[i])
						}
						select {
						case <-ctx.Done():
							if end.want[i] == nil {
								t.Errorf("context %d is done", i)
							}
						default:
							if end.want[i] != nil {
								t.Errorf("context %d is not done", i)
							}
						}
						if err := ctx.Err(); !errors.Is(err, end.want[i]) {
							t.Errorf("context %d ended with %v after it was asked for, want %v", i, err, end.want[i])
						}
						if ctx.Value(t) != "value" {
							t.Errorf("context %d lost a value", i)
						}
					}
					if err := derived.Err(); (err != nil) != (end.want[2] != nil) {
						t.Errorf("what was derived ended with %v, want %v", err, end.want[2])
					}
				})
			})
		}
	}
}

// TestDeadline checks that a context's deadline is never later than its parent's.
func TestDeadline(t *testing.T) {
	parent, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	want, _ := parent.Deadline()
	long, cancel := lazyctx.Timeout(parent, time.Hour)
	defer cancel()
	if got, ok := long.Deadline(); !ok || !got.Equal(want) {
		t.Errorf("deadline %v, %v; want the parent's, %v", got, ok, want)
	}
	short, cancel := lazyctx.Timeout(parent, time.Second)
	defer cancel()
	if got, ok := short.Deadline(); !ok || !got.Before(want) {
		t.Errorf("deadline %v, %v; want one before the parent's, %v", got, ok, want)
	}
}
