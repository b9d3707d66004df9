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
	// probes is how many rates the search tries, and probeStep how many times the
	// one before each is for as long as all is kept up with; after that it halves
	// what is between.
	probes    = 8
	probeStep = 4
	// probeFor is how long each is tried.
	probeFor = 1200 * time.Millisecond
	// probeGrace is how long after the last push its last receipt may be, beside
	// the flush window. Longer: it did not keep up.
	probeGrace = 300 * time.Millisecond
	// probeDrain is how long a failed probe may take to drain.
	probeDrain = 1500 * time.Millisecond
	// blastFor is about how long the raw writers write.
	blastFor = 1500 * time.Millisecond
)

// most searches for the most broadcasts a second that reach everyone in time.
func (b *bench) most(ctx context.Context, r *recorder) error {
	two, err := limits{b}.blast(r, 2, 1)
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

// mostWindow is most with the flush window.
func (b *bench) mostWindow(ctx context.Context, r *recorder) error {
	o, ok := b.windowed(r)
	if !ok {
		return nil
	}
	two, err := limits{b}.blast(r, 2, windowBatch)
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

// blast is how many messages a second raw writers get to the readers, batch
// in a write.
func (b limits) blast(r *recorder, threads, batch int) (perSecond float64, err error) {
	times := 12 // enough for 10,000 connections: each try connects all of them anew
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

// search looks for the highest rate that is kept up with, in broadcasts a
// second, from first on; 0: for none that it tried.
func (b *bench) search(ctx context.Context, r *recorder, o serverOptions, window time.Duration, first float64) (_ float64, err error) {
	f, err := b.fanout(ctx, load.TCP, b.conns, o)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	if _, err := f.broadcast(ctx, float64(b.broadcasts), warmBroadcasts, drainPatience); err != nil {
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
		low, high, rate = narrow(low, high, rate, ok)
	}
	// What comes faster than a socket is written to goes with the next write.
	r.add("messages a read of the clients", "", shared)
	return low, nil
}

// narrow is the next step of a search: low was kept up with, high was too much
// (infinite: nothing was yet), and rate was just tried.
func narrow(low, high, rate float64, ok bool) (newLow, newHigh, next float64) {
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
