//go:build linux

package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"imgo/internal/wait"
)

// Flooded is the result of Flood.
type Flooded struct {
	Accepted, Refused int64
	Why               string // text of the first refusal
	Seconds           float64
	Answers           Histogram
}

// Flood pushes over callers connections to random users below users. Each connection
// makes one call after another. The measurement starts after warm and lasts for d.
// Flood calls mark at its beginning and at its end.
func Flood(ctx context.Context, addr string, c Call, callers, users int, warm, d time.Duration, mark func() error) (*Flooded, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	result := &Flooded{}
	var measuring atomic.Bool
	var accepted, refused atomic.Int64
	var mu sync.Mutex
	work := func(caller *Caller, c Call) error {
		defer caller.Close()
		var answers Histogram
		for ctx.Err() == nil {
			c.To(rand.IntN(users))
			started := time.Now()
			c.Stamp(started)
			ok, why, err := caller.Do(&c)
			if err != nil {
				return err
			}
			switch {
			case !measuring.Load():
			case ok:
				accepted.Add(1)
				answers.Add(time.Since(started))
			case refused.Add(1) == 1:
				mu.Lock()
				result.Why = why
				mu.Unlock()
			}
		}
		mu.Lock()
		result.Answers.Merge(answers)
		mu.Unlock()
		return nil
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil) // deferred after wg.Wait, so it runs first
	for range callers {
		caller, err := DialCaller(ctx, addr)
		if err != nil {
			return nil, err
		}
		wg.Go(func() {
			if err := work(caller, c.Clone()); err != nil {
				cancel(err)
			}
		})
	}
	Sleep(ctx, warm)
	if err := mark(); err != nil {
		return nil, err
	}
	started := time.Now()
	measuring.Store(true)
	Sleep(ctx, d)
	result.Seconds = time.Since(started).Seconds()
	result.Accepted, result.Refused = accepted.Load(), refused.Load()
	err := mark()
	measuring.Store(false)
	failed := context.Cause(ctx)
	cancel(nil)
	wg.Wait()
	return result, errors.Join(failed, err)
}

// Pace makes times stamped calls at rate calls a second, to users 0 to users-1 in
// turn. The number of callers connections bounds the simultaneous calls. Pace returns
// the durations until the answers. A refused push is an error.
func Pace(ctx context.Context, addr string, c Call, callers, users int, rate float64, times int) (answers Histogram, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	turns := make(chan int, times)
	var mu sync.Mutex
	work := func(caller *Caller, c Call) error {
		defer caller.Close()
		var own Histogram
		defer func() {
			mu.Lock()
			defer mu.Unlock()
			answers.Merge(own)
		}()
		for n := range turns {
			if ctx.Err() != nil {
				return nil
			}
			c.To(n % max(users, 1))
			started := time.Now()
			c.Stamp(started)
			ok, why, err := caller.Do(&c)
			if err == nil && !ok {
				err = errors.New(why)
			}
			if err != nil {
				return fmt.Errorf("call %d: %w", n, err)
			}
			own.Add(time.Since(started))
		}
		return nil
	}
	var wg sync.WaitGroup
	for range callers {
		caller, err := DialCaller(ctx, addr)
		if err != nil {
			cancel(err)
			break
		}
		wg.Go(func() {
			if err := work(caller, c.Clone()); err != nil {
				cancel(err)
			}
		})
	}
	begun := time.Now()
	for n := 0; n < times && ctx.Err() == nil; n++ {
		Sleep(ctx, time.Until(begun.Add(time.Duration(float64(n)/rate*float64(time.Second)))))
		turns <- n
	}
	close(turns)
	wg.Wait()
	return answers, context.Cause(ctx)
}

// Sleep waits for d, or until ctx is done.
func Sleep(ctx context.Context, d time.Duration) { _ = wait.Sleep(ctx, d) }
