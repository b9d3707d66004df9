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
	// probes is how often the search halves: its answer is within 1/2^probes of
	// the rate that it began with.
	probes = 7
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
	one, err := b.blast(r, 1, 1)
	if err != nil {
		return err
	}
	two, err := b.blast(r, 2, 1)
	if err != nil {
		return err
	}
	r.limit("one raw writer thread, deliveries", "1/s", one)
	r.limit("two raw writer threads, deliveries", "1/s", two)
	best, err := b.search(ctx, r, serverOptions{}, 0, 2*max(one, two)/float64(b.conns))
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
	two, err := b.blast(r, 2, windowBatch)
	if err != nil {
		return err
	}
	r.limit("two raw writer threads, writes of 20 messages, deliveries", "1/s", two)
	best, err := b.search(ctx, r, o, flushWindow, 2*max(two, targetMostWindow)/float64(b.conns))
	if err != nil {
		return err
	}
	r.add("deliveries without a loss", "1/s", best*float64(b.conns))
	return nil
}

// blast is how many messages a second raw writers get to the readers, batch
// in a write.
func (b *bench) blast(r *recorder, threads, batch int) (perSecond float64, err error) {
	times := 4
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

// search halves its way to the highest rate that is kept up with, of at most
// high broadcasts a second.
func (b *bench) search(ctx context.Context, r *recorder, o serverOptions, window time.Duration, high float64) (_ float64, err error) {
	f, err := b.fanout(ctx, load.TCP, b.conns, o)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	if _, err := f.broadcast(ctx, float64(b.broadcasts), warmBroadcasts, drainPatience); err != nil {
		return 0, err
	}
	d := min(b.duration, 1500*time.Millisecond)
	low := 0.0
	for range probes {
		rate := (low + high) / 2
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
			low = rate
		} else {
			high = rate
		}
	}
	return low, nil
}
