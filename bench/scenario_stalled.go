//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"imgo/bench/load"
)

const (
	// stalledRate and stalledBody give each client 40 KB a second. That fills the outbox
	// of a session and the kernel's buffers within the measured time.
	stalledRate = 40
	stalledBody = 1000
	// watchStep is the time between two readings of the server's memory.
	watchStep = 250 * time.Millisecond
	// pendingBytes is the bound on the waiting bytes of one client (limits.pending_bytes).
	pendingBytes = 256 << 10
)

// stalled broadcasts to clients that read, and then also to as many clients that never
// read. It measures the effect on the latency of the reading clients and on the memory
// of the server.
func (b *bench) stalled(ctx context.Context, r *recorder) (err error) {
	s, err := b.serve(ctx, serverOptions{env: []string{
		fmt.Sprintf("IMGO_LIMITS_PENDING_BYTES=%dKiB", pendingBytes>>10),
		"IMGO_LIMITS_SLOW_TIMEOUT=30m", // the stalled clients must stay connected to the end
	}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	healthy, err := b.hold(load.HoldRequest{Addr: s.tcp, Kind: load.TCP, Count: b.sleepers, Stamped: true, Window: politeWindow})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, healthy.stop()) }()
	call := load.StampedAllCall(stalledBody)
	without := min(b.stall, max(b.duration, b.stall/4))
	if _, err := load.Pace(ctx, s.HTTP, call, broadcastCallers, 0, stalledRate, stalledRate); err != nil {
		return fmt.Errorf("warm up: %w", err)
	}
	if _, err := healthy.waitFor(quiet, func(load.Stats) bool { return false }); err != nil {
		return err
	}
	before, err := b.stallFor(ctx, r, s, healthy, without)
	if err != nil {
		return err
	}
	rest, err := s.restingMemory(ctx)
	if err != nil {
		return err
	}
	lazy, err := b.hold(load.HoldRequest{Addr: s.tcp, Kind: load.TCP, First: b.sleepers, Count: b.sleepers, Stalled: true,
		Window: politeWindow})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lazy.stop()) }()
	w := s.watch(ctx)
	after, err := b.stallFor(ctx, r, s, healthy, b.stall)
	seconds, rss := w.stop()
	if err != nil {
		return err
	}
	m, err := s.metrics(ctx)
	if err != nil {
		return err
	}
	most := 0.0
	for _, v := range rss {
		most = max(most, v)
	}
	bound := float64(pendingBytes) * float64(b.sleepers)
	r.percentiles("the others without them, push to receipt", &before, false)
	r.percentiles("the others with them, push to receipt", &after, false)
	r.add("p99 of the others, with over without", "×", ratio(ms(after.Quantile(0.99)), ms(before.Quantile(0.99))))
	r.add("resident memory before them", "MiB", rest.rss/(1<<20))
	r.add("resident memory with them, most", "MiB", most/(1<<20))
	r.limit("what limits.pending_bytes allows them", "MiB", bound/(1<<20))
	r.add("memory that came with them, over what is allowed", "×", (most-rest.rss)/bound)
	r.add("stalled clients still connected at the end", "", sumOf(m, "imgo_comet_sessions")-float64(b.sleepers))
	r.line("resident memory with clients that never read", "s", "MiB", seconds, mebi(rss))
	return nil
}

// stallFor broadcasts for d. It returns the latencies of the reading clients.
func (b *bench) stallFor(ctx context.Context, r *recorder, s *server, healthy *clients, d time.Duration) (load.Histogram, error) {
	was, err := healthy.stats()
	if err != nil {
		return load.Histogram{}, err
	}
	times := max(1, int(d.Seconds()*stalledRate))
	if _, err := load.Pace(ctx, s.HTTP, load.StampedAllCall(stalledBody), broadcastCallers, 0, stalledRate, times); err != nil {
		return load.Histogram{}, fmt.Errorf("broadcast: %w", err)
	}
	want := int64(times) * int64(healthy.count)
	got, err := healthy.waitFor(drainTimeout, func(s load.Stats) bool { return s.Packets-was.Packets >= want })
	if n := got.Packets - was.Packets; err == nil && (n != want || got.Closed > 0) {
		r.note("of those who read %d deliveries were lost of %d, and %d disconnected", want-n, want, got.Closed)
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

func mebi(bytes []float64) []float64 {
	all := make([]float64, len(bytes))
	for i, v := range bytes {
		all[i] = v / (1 << 20)
	}
	return all
}

// watch records a server's memory until it is stopped.
type watch struct {
	end     context.CancelFunc
	done    chan struct{}
	seconds []float64
	rss     []float64
}

func (s *server) watch(ctx context.Context) *watch {
	ctx, end := context.WithCancel(ctx)
	w := &watch{end: end, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for begun := time.Now(); ctx.Err() == nil; load.Sleep(ctx, watchStep) {
			if rss, err := rssOf(s.pid()); err == nil {
				w.seconds, w.rss = append(w.seconds, time.Since(begun).Seconds()), append(w.rss, float64(rss))
			}
		}
	}()
	return w
}

func (w *watch) stop() (seconds, rss []float64) {
	w.end()
	<-w.done
	return w.seconds, w.rss
}
