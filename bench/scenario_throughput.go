//go:build linux

package main

import (
	"context"
	"errors"
	"time"
)

const (
	// warmLoad is how long callers call before they are measured.
	warmLoad = time.Second
	// quiet is how long nothing arrives before what was pushed has arrived.
	quiet = 500 * time.Millisecond
)

// throughput measures how many pushes are accepted a second from many callers
// at once, one push after another on each connection, and the server's CPU for
// each: to users who are away, to users who are connected and acknowledge, and
// not kept; beside it a bare HTTP server with the same requests.
func (b *bench) throughput(ctx context.Context, r *recorder) error {
	if err := b.loadAway(ctx, r); err != nil {
		return err
	}
	if err := b.loadConnected(ctx, r); err != nil {
		return err
	}
	limit, addr, err := b.httpLimit()
	if err != nil {
		return err
	}
	l, err := load(ctx, addr, limit.pid(), pushCall(true), b.callers, b.users, warmLoad, b.duration)
	if err = errors.Join(err, limit.stop()); err != nil {
		return err
	}
	b.loaded(r, "bare HTTP server", l, true)
	return nil
}

func (b *bench) loadAway(ctx context.Context, r *recorder) (err error) {
	s, err := b.serve(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	return b.loadServer(ctx, r, s, "kept, users away", "throughput-kept-away", true)
}

func (b *bench) loadConnected(ctx context.Context, r *recorder) (err error) {
	s, err := b.serve(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	h, err := b.hold(s.tcp, kindTCP, b.users, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	for _, kind := range []struct {
		name, file string
		kept       bool
	}{
		{"not kept, users connected", "throughput-not-kept", false},
		{"kept, users connected", "throughput-kept-connected", true},
	} {
		before, err := h.stats()
		if err != nil {
			return err
		}
		if err := b.loadServer(ctx, r, s, kind.name, kind.file, kind.kept); err != nil {
			return err
		}
		after, err := h.await(quiet, func(holdStats) bool { return false })
		if err != nil {
			return err
		}
		if after.Closed > before.Closed {
			r.note("%s: %d clients were disconnected", kind.name, after.Closed-before.Closed)
		}
		if after.AcksLost > before.AcksLost {
			r.note("%s: %d acknowledgements had no room", kind.name, after.AcksLost-before.AcksLost)
		}
	}
	return nil
}

// loadServer loads imgo with pushes.
func (b *bench) loadServer(ctx context.Context, r *recorder, s *server, name, file string, kept bool) error {
	wait := b.profileCPU(ctx, s, file, warmLoad+b.duration)
	l, err := load(ctx, s.http, s.pid(), pushCall(kept), b.callers, b.users, warmLoad, b.duration)
	if err := errors.Join(err, wait(), b.profileAllocs(ctx, s, file)); err != nil {
		return err
	}
	b.loaded(r, name, l, false)
	return nil
}

// loaded notes what a load came to.
func (b *bench) loaded(r *recorder, name string, l *loaded, limit bool) {
	if l.refused > 0 {
		r.note("%s: %d pushes were refused, the first with %s", name, l.refused, l.why)
	}
	if l.accepted == 0 {
		return
	}
	r.put(name+", accepted", "pushes/s", l.perSecond(), limit)
	r.put(name+", server CPU a push", "µs", us(l.server)/float64(l.accepted), limit)
	r.put(name+", bench CPU a push", "µs", us(l.bench)/float64(l.accepted), limit)
	r.percentiles(name+", answer", l.answers, limit)
}
