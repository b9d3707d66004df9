//go:build linux

package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"imgo/bench/limit"
	"imgo/bench/load"
	"imgo/protocol"
)

const (
	// replayPause lets the server finish the work of one replay before the next one
	// begins.
	replayPause = 5 * time.Millisecond
	// replayCallers is the number of callers that push the messages, and atOnce a rate without pauses.
	replayCallers, atOnce = 16, 1e9
	// replayTimeout bounds one replay.
	replayTimeout = 20 * time.Second
)

// replay pushes kept messages to a user that is offline. It then measures how long a
// client that acknowledges nothing waits for all of them, again and again. The time
// runs from the write of its auth packet to the read of the last message.
func replay(ctx context.Context, t *trial) error {
	received, err := replayImgo(ctx, t)
	if err != nil {
		return err
	}
	// For comparison, a server without any logic writes the same bytes.
	err = t.listening(childDoor, func(d *child, addr string) error {
		all, cpu, err := replays(ctx, t, addr, d.pid())
		if err == nil {
			t.percentiles("accept, read and write the same alone, auth to the last message", &all, true)
			t.limit("accept, read and write the same alone, CPU", "ms", ms(cpu))
		}
		return err
	}, limit.DoorRequest{Answers: [][]byte{received}})
	if err != nil {
		return fmt.Errorf("the same bytes by plain writes: %w", err)
	}
	return nil
}

// replayImgo measures imgo. It returns all bytes that a client receives in one replay.
func replayImgo(ctx context.Context, t *trial) ([]byte, error) {
	var received bytes.Buffer
	err := t.serving(ctx, load.TCP, serverOptions{}, func(s *server) error {
		if _, err := load.CallAtRate(ctx, s.HTTP, load.PushCall(true), replayCallers, 1, atOnce, t.replayed); err != nil {
			return fmt.Errorf("push what is to be replayed: %w", err)
		}
		if _, err := replayOnce(ctx, s.tcp, t.replayed, &received); err != nil { // this also warms up the server
			return err
		}
		wait := s.profileCPU(ctx, t.profile, "replay", t.duration)
		all, cpu, err := replays(ctx, t, s.tcp, s.pid())
		if err := errors.Join(err, wait(), s.profileAllocs(ctx, t.profile, "replay")); err != nil {
			return err
		}
		t.percentiles("auth to the last message", &all, false)
		t.add("server CPU a replay", "ms", ms(cpu))
		return nil
	})
	return received.Bytes(), err
}

// replays repeats the replay. It returns the duration of each replay, and the CPU time
// of process pid for each.
func replays(ctx context.Context, t *trial, addr string, pid int) (all load.Histogram, cpu time.Duration, err error) {
	cpu, err = cpuOf(pid, func() error {
		for begun := time.Now(); time.Since(begun) < t.duration && ctx.Err() == nil; load.Sleep(ctx, replayPause) {
			took, err := replayOnce(ctx, addr, t.replayed, nil)
			if err != nil {
				return err
			}
			all.Add(took)
		}
		return nil
	})
	return all, cpu / time.Duration(max(all.N, 1)), err
}

// replayOnce connects user 0 and reads its messages. It copies the incoming bytes to
// received if that is not nil.
func replayOnce(ctx context.Context, addr string, count int, received *bytes.Buffer) (time.Duration, error) {
	c, err := connect(ctx, addr, load.UserID(0), received)
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
