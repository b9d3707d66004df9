//go:build linux

package bench

import (
	"context"
	"math"
	"time"

	"imgo/bench/limit"
	"imgo/bench/load"
)

const (
	// probes is the number of rates that the search tries. While the server keeps up, each
	// rate is probeStep times the previous one. After the first failure, the search halves
	// the interval.
	probes    = 8
	probeStep = 4
	// probeFor is the duration of one probe.
	probeFor = 1200 * time.Millisecond
	// probeGrace bounds the time from the last push to its last receipt, beyond the flush
	// window. The server did not keep up if it takes longer.
	probeGrace = 300 * time.Millisecond
	// probeDrain bounds the time that a failed probe waits for late messages.
	probeDrain = 1500 * time.Millisecond
	// blastFor is the approximate writing time of the raw writers.
	blastFor = 1500 * time.Millisecond
)

// most searches for the highest rate of broadcasts that reach everyone in time.
func most(ctx context.Context, t *trial) error {
	return mostOf(ctx, t, serverOptions{}, 0, "two raw writer threads, deliveries", 1, 0)
}

// mostWindow is like most, with a flush window.
func mostWindow(ctx context.Context, t *trial) error {
	return mostOf(ctx, t, windowed, flushWindow, "two raw writer threads, writes of 20 messages, deliveries", windowBatch, targetMostWindow)
}

// mostOf measures the limit first, with batch messages in a write. The search begins at the limit, and at least at from
// deliveries a second.
func mostOf(ctx context.Context, t *trial, o serverOptions, window time.Duration, limit string, batch int, from float64) error {
	two, err := rawRate(t, 2, batch)
	if err != nil {
		return err
	}
	t.limit(limit, "1/s", two)
	var best float64
	err = t.broadcastTo(ctx, load.TCP, t.conns, o, func(f *fleet) (err error) {
		best, err = f.search(ctx, window, max(two, from)/float64(t.conns))
		return err
	})
	if err != nil {
		return err
	}
	t.add("deliveries without a loss", "1/s", best*float64(t.conns))
	return nil
}

// rawRate returns the number of messages a second that raw writers deliver to the
// readers, with batch messages in a write.
func rawRate(t *trial, threads, batch int) (perSecond float64, err error) {
	times := 12 // enough for 10,000 connections; each further try connects all of them again
	for {
		done, err := t.plain(load.TCP, t.conns, limit.WriteRequest{Times: times, Payload: frame(load.TCP, batch), Threads: threads}, 0)
		if err != nil {
			return 0, err
		}
		perSecond = float64(done.writes*int64(batch)) / done.took.Seconds()
		want := min(blastFor, t.duration)
		if done.took >= want/2 {
			return perSecond, nil
		}
		times = int(math.Ceil(1.2 * float64(times) * min(20, want.Seconds()/max(done.took.Seconds(), 0.001))))
	}
}

// search returns the highest rate, in broadcasts a second, at which the server keeps
// up. It starts at first. It returns 0 if the server kept up with no tried rate.
func (f *fleet) search(ctx context.Context, window time.Duration, first float64) (float64, error) {
	if _, err := f.broadcast(ctx, float64(f.broadcasts), warmBroadcasts, drainTimeout); err != nil {
		return 0, err
	}
	d := min(f.duration, probeFor)
	low, high, shared := 0.0, math.Inf(1), 0.0
	rate := first
	for range probes {
		times := max(1, int(rate*d.Seconds()))
		sp, err := f.broadcast(ctx, rate, times, probeDrain+window)
		if err != nil {
			return 0, err
		}
		should := time.Duration(float64(times) / rate * float64(time.Second))
		ok := sp.lost == 0 && sp.took <= should+window+probeGrace
		f.say("%s broadcasts/s: %s lost, the last after %.2f s of %.2f s: %s", digits(rate), grouped(sp.lost),
			sp.took.Seconds(), should.Seconds(), map[bool]string{true: "kept up", false: "too much"}[ok])
		if sp.closed > 0 {
			f.note("%d clients were disconnected at %s broadcasts/s", sp.closed, digits(rate))
			break
		}
		if ok {
			shared = float64(sp.delivered) / float64(max(sp.reads, 1))
		}
		low, high, rate = nextProbe(low, high, rate, ok)
	}
	// Messages that arrive faster than the server writes to a socket share the next write.
	f.add("messages a read of the clients", "", shared)
	return low, nil
}

// nextProbe computes the next step of a search. low is the highest rate that succeeded,
// and high the lowest that failed, or infinity. ok reports whether the last rate
// succeeded.
func nextProbe(low, high, rate float64, ok bool) (newLow, newHigh, next float64) {
	if ok {
		low = rate
	} else {
		high = rate
	}
	switch {
	case math.IsInf(high, 1):
		return low, high, low * probeStep
	case low == 0:
		return low, high, high / 2
	}
	return low, high, math.Sqrt(low * high)
}
