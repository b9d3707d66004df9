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

	"golang.org/x/sync/errgroup"

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
	calling, stop := context.WithCancel(ctx)
	defer stop()
	g, calling := errgroup.WithContext(calling)
	result := &Flooded{}
	var measuring atomic.Bool
	var accepted, refused atomic.Int64
	var mu sync.Mutex
	work := func(caller *Caller, c Call) error {
		var answers Histogram
		for calling.Err() == nil {
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
		defer mu.Unlock()
		result.Answers.Merge(answers)
		return nil
	}
	for range callers {
		g.Go(func() error { return withCaller(calling, addr, c, work) })
	}
	Sleep(calling, warm)
	err := mark()
	started := time.Now()
	measuring.Store(true)
	Sleep(calling, d)
	result.Seconds = time.Since(started).Seconds()
	result.Accepted, result.Refused = accepted.Load(), refused.Load()
	err = errors.Join(err, mark())
	measuring.Store(false)
	stop()
	return result, errors.Join(g.Wait(), ctx.Err(), err)
}

// withCaller runs work with a connection and a call of its own.
func withCaller(ctx context.Context, addr string, c Call, work func(*Caller, Call) error) error {
	caller, err := DialCaller(ctx, addr)
	if err != nil {
		return err
	}
	defer caller.Close()
	return work(caller, c.Clone())
}

// CallAtRate makes times stamped calls at rate calls a second, to users 0 to users-1 in
// turn. The number of callers connections bounds the simultaneous calls. CallAtRate returns
// the durations until the answers. A refused push is an error.
func CallAtRate(ctx context.Context, addr string, c Call, callers, users int, rate float64, times int) (answers Histogram, err error) {
	g, calling := errgroup.WithContext(ctx)
	turns := make(chan int, times)
	var mu sync.Mutex
	work := func(caller *Caller, c Call) error {
		var own Histogram
		for n := range turns {
			if calling.Err() != nil {
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
		mu.Lock()
		defer mu.Unlock()
		answers.Merge(own)
		return nil
	}
	for range callers {
		g.Go(func() error { return withCaller(calling, addr, c, work) })
	}
	begun := time.Now()
	for n := 0; n < times && calling.Err() == nil; n++ {
		Sleep(calling, time.Until(begun.Add(time.Duration(float64(n)/rate*float64(time.Second)))))
		turns <- n
	}
	close(turns)
	err = g.Wait()
	return answers, errors.Join(err, ctx.Err())
}

// Sleep waits for d, or until ctx is done.
func Sleep(ctx context.Context, d time.Duration) { _ = wait.Sleep(ctx, d) }
