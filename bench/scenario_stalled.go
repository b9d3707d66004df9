//go:build linux

package bench

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"imgo/bench/load"
)

const (
	// stalledRate and stalledBody give each client 40 KB a second. That fills the outbox
	// of a session and the kernel's buffers within the measured time.
	stalledRate = 40
	stalledBody = 1000
	// recordStep is the time between two readings of the server's memory.
	recordStep = 250 * time.Millisecond
	// pendingBytes is the bound on the waiting bytes of one client (limits.pending_bytes).
	pendingBytes = 256 << 10
)

// stalled broadcasts to clients that read, and then also to as many clients that never
// read. It measures the effect on the latency of the reading clients and on the memory
// of the server.
func stalled(ctx context.Context, t *trial) error {
	o := serverOptions{env: []string{
		fmt.Sprintf("IMGO_LIMITS_PENDING_BYTES=%dKiB", pendingBytes>>10),
		"IMGO_LIMITS_SLOW_TIMEOUT=30m", // the stalled clients must stay connected to the end
	}}
	reading := load.HoldRequest{Kind: load.TCP, Count: t.sleepers, Stamped: true, Window: politeWindow}
	return t.connected(ctx, o, reading, func(f *fleet) error {
		call := load.StampedAllCall(stalledBody)
		if _, err := load.CallAtRate(ctx, f.HTTP, call, broadcastCallers, 0, stalledRate, stalledRate); err != nil {
			return fmt.Errorf("warm up: %w", err)
		}
		if _, err := f.awaitQuiet(); err != nil {
			return err
		}
		before, err := f.stallFor(ctx, min(t.stall, max(t.duration, t.stall/4)))
		if err != nil {
			return err
		}
		rest, err := f.restingMemory(ctx)
		if err != nil {
			return err
		}
		lazy := load.HoldRequest{Addr: f.tcp, Kind: load.TCP, First: t.sleepers, Count: t.sleepers, Stalled: true, Window: politeWindow}
		return t.withClients(lazy, func(*clients) error { return f.withStalled(ctx, before, rest) })
	})
}

// withStalled measures the clients that read while others do not. before and rest are the latencies and the memory without
// the others.
func (f *fleet) withStalled(ctx context.Context, before load.Histogram, rest footprint) error {
	var after load.Histogram
	seconds, mib, err := f.recordMemory(ctx, func() (err error) {
		after, err = f.stallFor(ctx, f.stall)
		return err
	})
	if err != nil {
		return err
	}
	m, err := f.metrics(ctx)
	if err != nil {
		return err
	}
	most, without := slices.Max(append(mib, 0)), rest.rss/(1<<20)
	bound := float64(pendingBytes*f.sleepers) / (1 << 20)
	f.percentiles("reading clients, without stalled ones, push to receipt", &before, false)
	f.percentiles("reading clients, with stalled ones, push to receipt", &after, false)
	f.add("p99 of reading clients, with stalled over without", "×", ratio(ms(after.Quantile(0.99)), ms(before.Quantile(0.99))))
	f.add("resident memory before stalled clients", "MiB", without)
	f.add("resident memory with stalled clients, most", "MiB", most)
	f.limit("what limits.pending_bytes allows stalled clients", "MiB", bound)
	f.add("memory added by stalled clients, over what is allowed", "×", (most-without)/bound)
	f.add("stalled clients still connected at the end", "", sumOf(m, "imgo_comet_sessions")-float64(f.sleepers))
	f.line("resident memory with clients that never read", "s", "MiB", seconds, mib)
	return nil
}

// stallFor broadcasts for d. It returns the latencies of the reading clients.
func (f *fleet) stallFor(ctx context.Context, d time.Duration) (load.Histogram, error) {
	was, err := f.stats()
	if err != nil {
		return load.Histogram{}, err
	}
	times := max(1, int(d.Seconds()*stalledRate))
	if _, err := load.CallAtRate(ctx, f.HTTP, load.StampedAllCall(stalledBody), broadcastCallers, 0, stalledRate, times); err != nil {
		return load.Histogram{}, fmt.Errorf("broadcast: %w", err)
	}
	want := int64(times) * int64(f.count)
	got, err := f.waitFor(drainTimeout, func(s load.Stats) bool { return s.Packets-was.Packets >= want })
	if n := got.Packets - was.Packets; err == nil && (n != want || got.Closed > 0) {
		f.note("of those who read %d deliveries were lost of %d, and %d disconnected", want-n, want, got.Closed)
	}
	return got.Latency, err
}

// sumOf returns the sum of a metric over all its labels.
func sumOf(metrics map[string]float64, name string) (sum float64) {
	for key, v := range metrics {
		if key == name || strings.HasPrefix(key, name+"{") {
			sum += v
		}
	}
	return sum
}

// recordMemory runs do, and returns the server's memory meanwhile, in MiB.
func (s *server) recordMemory(ctx context.Context, do func() error) (seconds, mib []float64, err error) {
	ctx, end := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		for begun := time.Now(); ctx.Err() == nil; load.Sleep(ctx, recordStep) {
			if rss, err := rssOf(s.pid()); err == nil {
				seconds, mib = append(seconds, time.Since(begun).Seconds()), append(mib, float64(rss)/(1<<20))
			}
		}
	})
	err = do()
	end()
	watching.Wait()
	return seconds, mib, err
}
