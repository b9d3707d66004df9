//go:build linux

package bench

import (
	"context"
	"errors"
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
func (b *bench) most(ctx context.Context, r *recorder) error {
	two, err := limits{b}.rawRate(r, 2, 1)
	if err != nil {
		return err
	}
	r.limit("two raw writer threads, deliveries", "1/s", two)
	best, err := b.search(ctx, r, serverOptions{}, 0, two/float64(b.conns))
	if err != nil {
		return err
	}
	r.add("deliveries without a loss", "1/s", best*float64(b.conns))
	return nil
}

// mostWindow is like most, with a flush window.
func (b *bench) mostWindow(ctx context.Context, r *recorder) error {
	o, ok := b.windowed(r)
	if !ok {
		return nil
	}
	two, err := limits{b}.rawRate(r, 2, windowBatch)
	if err != nil {
		return err
	}
	r.limit("two raw writer threads, writes of 20 messages, deliveries", "1/s", two)
	best, err := b.search(ctx, r, o, flushWindow, max(two, targetMostWindow)/float64(b.conns))
	if err != nil {
		return err
	}
	r.add("deliveries without a loss", "1/s", best*float64(b.conns))
	return nil
}

// rawRate returns the number of messages a second that raw writers deliver to the
// readers, with batch messages in a write.
func (b limits) rawRate(r *recorder, threads, batch int) (perSecond float64, err error) {
	times := 12 // enough for 10,000 connections; each further try connects all of them again
	for {
		done, err := b.plain(r, load.TCP, b.conns, limit.WriteRequest{Times: times, Payload: frame(load.TCP, batch), Threads: threads}, 0)
		if err != nil {
			return 0, err
		}
		perSecond = float64(done.writes*int64(batch)) / done.took.Seconds()
		want := min(blastFor, b.duration)
		if done.took >= want/2 {
			return perSecond, nil
		}
		times = int(math.Ceil(1.2 * float64(times) * min(20, want.Seconds()/max(done.took.Seconds(), 0.001))))
	}
}

// search returns the highest rate, in broadcasts a second, at which the server keeps
// up. It starts at first. It returns 0 if the server kept up with no tried rate.
func (b *bench) search(ctx context.Context, r *recorder, o serverOptions, window time.Duration, first float64) (_ float64, err error) {
	f, err := b.fanout(ctx, load.TCP, b.conns, o)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	if _, err := f.broadcast(ctx, float64(b.broadcasts), warmBroadcasts, drainTimeout); err != nil {
		return 0, err
	}
	d := min(b.duration, probeFor)
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
		r.say("%s broadcasts/s: %s lost, the last after %.2f s of %.2f s: %s", digits(rate), grouped(sp.lost),
			sp.took.Seconds(), should.Seconds(), map[bool]string{true: "kept up", false: "too much"}[ok])
		if sp.closed > 0 {
			r.note("%d clients were disconnected at %s broadcasts/s", sp.closed, digits(rate))
			break
		}
		if ok {
			shared = float64(sp.delivered) / float64(max(sp.reads, 1))
		}
		low, high, rate = nextProbe(low, high, rate, ok)
	}
	// Messages that arrive faster than the server writes to a socket share the next write.
	r.add("messages a read of the clients", "", shared)
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
