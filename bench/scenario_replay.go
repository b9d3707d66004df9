//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"imgo/bench/load"
	"imgo/transport"
)

const (
	// replayPause lets the server come to rest between two replays, so that one
	// does not pay for the end of the other.
	replayPause = 5 * time.Millisecond
	// replayTimeout bounds one replay.
	replayTimeout = 20 * time.Second
)

// replay pushes kept messages to a user who is away, and measures how long a
// client that connects and acknowledges nothing waits for all of them: from
// the write of its auth packet to the read of the last message, again and
// again.
func (b *bench) replay(ctx context.Context, r *recorder) (err error) {
	s, err := b.serve(ctx, serverOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	if err := pushMany(ctx, s.http, b.replayed); err != nil {
		return fmt.Errorf("push what is to be replayed: %w", err)
	}
	if _, err := replayOnce(ctx, s.tcp, b.replayed); err != nil { // and warm up
		return err
	}
	wait := b.profileCPU(ctx, s, "replay", b.duration)
	before, err := cpuOf(s.pid())
	if err != nil {
		return err
	}
	var all load.Histogram
	for begun := time.Now(); time.Since(begun) < b.duration && ctx.Err() == nil; load.Sleep(ctx, replayPause) {
		took, err := replayOnce(ctx, s.tcp, b.replayed)
		if err != nil {
			return err
		}
		all.Add(took)
	}
	after, err := cpuOf(s.pid())
	if err := errors.Join(err, wait(), b.profileAllocs(ctx, s, "replay")); err != nil {
		return err
	}
	r.percentiles("auth to the last message", &all, false)
	r.add("server CPU a replay", "ms", ms(after-before)/float64(max(all.N, 1)))
	return nil
}

// pushMany pushes kept messages to user 0.
func pushMany(ctx context.Context, addr string, count int) error {
	const callers = 16
	var left atomic.Int64
	left.Store(int64(count))
	errs := make([]error, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			errs[i] = func() error {
				caller, err := load.DialCaller(ctx, addr)
				if err != nil {
					return err
				}
				defer caller.Close()
				call := load.PushCall(true)
				for left.Add(-1) >= 0 && ctx.Err() == nil {
					call.Stamp(time.Now())
					if ok, why, err := caller.Do(&call); err != nil {
						return err
					} else if !ok {
						return errors.New(why)
					}
				}
				return ctx.Err()
			}()
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// replayOnce connects user 0 and reads its messages.
func replayOnce(ctx context.Context, addr string, count int) (time.Duration, error) {
	c, err := connect(ctx, addr, load.UserID(0))
	if err != nil {
		return 0, err
	}
	defer c.close()
	begun := c.begun
	if err := c.conn.SetReadDeadline(time.Now().Add(replayTimeout)); err != nil {
		return 0, fmt.Errorf("read what is replayed: %w", err)
	}
	for n := 0; n < count; {
		op, err := c.skip()
		if err != nil {
			return 0, fmt.Errorf("read what is replayed, %d of %d: %w", n, count, err)
		}
		if op == transport.OpMessage {
			n++
		}
	}
	return time.Since(begun), nil
}
