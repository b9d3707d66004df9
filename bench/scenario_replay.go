//go:build linux

package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"imgo/bench/limit"
	"imgo/bench/load"
	"imgo/bench/process"
	"imgo/protocol"
)

const (
	// replayPause lets the server finish the work of one replay before the next one
	// begins.
	replayPause = 5 * time.Millisecond
	// replayTimeout bounds one replay.
	replayTimeout = 20 * time.Second
)

// replay pushes kept messages to a user that is offline. It then measures how long a
// client that acknowledges nothing waits for all of them, again and again. The time
// runs from the write of its auth packet to the read of the last message.
func (b *bench) replay(ctx context.Context, r *recorder) error {
	received, err := b.replayImgo(ctx, r)
	if err != nil {
		return err
	}
	// For comparison, a server without any logic writes the same bytes.
	d, addr, err := limits{b}.limit(childDoor, limit.DoorRequest{Answers: [][]byte{received}})
	if err != nil {
		return err
	}
	all, cpu, err := b.replays(ctx, addr, d.pid())
	if err := errors.Join(err, d.stop()); err != nil {
		return fmt.Errorf("the same bytes by plain writes: %w", err)
	}
	r.percentiles("accept, read and write the same alone, auth to the last message", &all, true)
	r.limit("accept, read and write the same alone, CPU", "ms", ms(cpu))
	return nil
}

// replayImgo measures imgo. It returns all bytes that a client receives in one replay.
func (b *bench) replayImgo(ctx context.Context, r *recorder) (_ []byte, err error) {
	s, err := b.serve(ctx, serverOptions{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	if err := pushMany(ctx, s.HTTP, b.replayed); err != nil {
		return nil, fmt.Errorf("push what is to be replayed: %w", err)
	}
	var received bytes.Buffer
	if _, err := replayOnce(ctx, s.tcp, b.replayed, &received); err != nil { // this also warms up the server
		return nil, err
	}
	wait := s.profileCPU(ctx, b.profile, "replay", b.duration)
	all, cpu, err := b.replays(ctx, s.tcp, s.pid())
	if err := errors.Join(err, wait(), s.profileAllocs(ctx, b.profile, "replay")); err != nil {
		return nil, err
	}
	r.percentiles("auth to the last message", &all, false)
	r.add("server CPU a replay", "ms", ms(cpu))
	return received.Bytes(), nil
}

// replays repeats the replay. It returns the duration of each replay, and the CPU time
// of process pid for each.
func (b *bench) replays(ctx context.Context, addr string, pid int) (all load.Histogram, cpu time.Duration, err error) {
	before, err := process.CPU(pid)
	if err != nil {
		return all, 0, err
	}
	for begun := time.Now(); time.Since(begun) < b.duration && ctx.Err() == nil; load.Sleep(ctx, replayPause) {
		took, err := replayOnce(ctx, addr, b.replayed, nil)
		if err != nil {
			return all, 0, err
		}
		all.Add(took)
	}
	after, err := process.CPU(pid)
	return all, (after - before) / time.Duration(max(all.N, 1)), err
}

// pushMany pushes count kept messages to user 0.
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

// replayOnce connects user 0 and reads its messages. It copies the incoming bytes to
// received if that is not nil.
func replayOnce(ctx context.Context, addr string, count int, received *bytes.Buffer) (time.Duration, error) {
	c, err := connectInto(ctx, addr, load.UserID(0), received)
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
		if op == protocol.OpMessage {
			n++
		}
	}
	return time.Since(begun), nil
}
