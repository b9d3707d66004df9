//go:build linux

package main

import (
	"context"
	"errors"
	"math"
	"time"
)

const (
	// settleStep is how often a server's memory is looked at until it rests.
	settleStep = 500 * time.Millisecond
	// settleMost bounds that: Go gives memory back slowly.
	settleMost = 8 * time.Second
	// connectProfile is how long connecting is profiled, where it is.
	connectProfile = 4 * time.Second
)

// idle measures what connections cost that do nothing: resident bytes,
// goroutines, and the CPU that connecting took.
func (b *bench) idle(ctx context.Context, r *recorder, kind string) (err error) {
	s, err := b.serve(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	before, err := s.settle(ctx)
	if err != nil {
		return err
	}
	cpu, err := cpuOf(s.pid())
	if err != nil {
		return err
	}
	addr := s.tcp
	if kind == kindWS {
		addr = s.ws
	}
	wait := b.profileCPU(ctx, s, "connect-"+kind, connectProfile)
	h, err := b.hold(addr, kind, b.conns, true)
	if err != nil {
		return errors.Join(err, wait())
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	cpuAfter, err := cpuOf(s.pid())
	if err != nil {
		return err
	}
	rss, err := rssOf(s.pid())
	if err != nil {
		return err
	}
	if err := wait(); err != nil {
		return err
	}
	after, err := s.settle(ctx)
	if err != nil {
		return err
	}
	if err := b.profileHeap(ctx, s, "idle-"+kind); err != nil {
		return err
	}
	stats, err := h.stats()
	if err != nil {
		return err
	}
	if stats.Closed > 0 {
		r.note("%d of %d clients were disconnected", stats.Closed, b.conns)
	}
	n := float64(b.conns)
	r.add("resident memory a connection, settled", "bytes", (after.rss-before.rss)/n)
	r.add("resident memory a connection, just connected", "bytes", (float64(rss)-before.rss)/n)
	r.add("of it Go's heap in use, settled", "bytes", (after.heap-before.heap)/n)
	r.add("of it Go's stacks in use, settled", "bytes", (after.stacks-before.stacks)/n)
	r.add("goroutines a connection", "", (after.goroutines-before.goroutines)/n)
	r.add("resident memory without connections", "MiB", before.rss/(1<<20))
	r.add("connected a second, with auth", "1/s", n/h.seconds)
	r.add("server CPU a connect, with auth", "µs", us(cpuAfter-cpu)/n)
	return nil
}

// footprint is a server's memory at rest, in bytes.
type footprint struct {
	rss, heap, stacks, goroutines float64
}

// settle has the server collect garbage and waits until its memory rests.
func (s *server) settle(ctx context.Context) (f footprint, err error) {
	begun := time.Now()
	calm := 0
	for {
		// Twice: what a pool held dies with the second collection.
		if err := errors.Join(s.collect(ctx), s.collect(ctx)); err != nil {
			return f, err
		}
		sleep(ctx, settleStep)
		rss, err := rssOf(s.pid())
		if err != nil {
			return f, err
		}
		if math.Abs(float64(rss)-f.rss) < 0.005*f.rss {
			calm++
		} else {
			calm = 0
		}
		f.rss = float64(rss)
		if calm == 2 || time.Since(begun) > settleMost || ctx.Err() != nil {
			break
		}
	}
	m, err := s.metrics(ctx)
	if err != nil {
		return f, err
	}
	f.heap, f.stacks, f.goroutines = m["go_memstats_heap_inuse_bytes"], m["go_memstats_stack_inuse_bytes"], m["go_goroutines"]
	return f, nil
}
