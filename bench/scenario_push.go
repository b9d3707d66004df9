//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"imgo/bench/limit"
	"imgo/bench/load"
	"imgo/bench/process"
)

const (
	// listeners is the number of listening users. Each has its own connection.
	listeners = 50
	// pacedCallers bounds the simultaneous calls. It is more than a rate of some hundred a
	// second needs, so that a slow answer delays no other call.
	pacedCallers = 16
	// roomSize is the number of members of the room, and roomRate the number of messages a
	// second.
	roomSize = 10
	roomRate = 40
	// warmLoad is how long callers push before the measurement.
	warmLoad = time.Second
	// quiet is how long nothing must arrive until all earlier pushes count as delivered.
	quiet = 500 * time.Millisecond
)

// latency measures the time from the write of an HTTP request to the read of its
// message at the client, at a steady rate. For comparison it measures the answers of a
// bare HTTP server at the same rate, and single syncs of the disk.
func (b *bench) latency(ctx context.Context, r *recorder) (err error) {
	s, err := b.serve(ctx, serverOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	h, err := b.hold(load.HoldRequest{Addr: s.tcp, Kind: load.TCP, Count: listeners, Ack: true, Stamped: true, Window: politeWindow})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	var p50 [2]time.Duration
	for i, kind := range []struct {
		name string
		kept bool
	}{{"kept", true}, {"not kept", false}} {
		answers, receipts, err := b.paced(ctx, r, s, h, load.PushCall(kind.kept), listeners, float64(b.rate), "latency-"+kind.name)
		if err != nil {
			return fmt.Errorf("%s: %w", kind.name, err)
		}
		r.percentiles(kind.name+", push to receipt", &receipts, false)
		r.percentiles(kind.name+", push to answer", &answers, false)
		p50[i] = receipts.Quantile(0.5)
	}
	web, addr, err := limits{b}.limit(childHTTP)
	if err != nil {
		return err
	}
	answers, err := load.Pace(ctx, addr, load.PushCall(false), pacedCallers, listeners, float64(b.rate), b.times(float64(b.rate)))
	if err = errors.Join(err, web.stop()); err != nil {
		return fmt.Errorf("bare HTTP: %w", err)
	}
	r.percentiles("bare HTTP server, push to answer", &answers, true)
	// A sync at the same rate belongs beside a push. After a rest, the disk and the
	// processor take twice as long for a sync.
	var all load.Histogram
	for _, of := range []struct {
		name  string
		every time.Duration
	}{
		{"one write and fdatasync of 256 bytes", time.Second / time.Duration(b.rate)},
		{"one write and fdatasync of 256 bytes right after the last one", 0},
	} {
		syncs, err := limit.Syncs(b.tmp, min(b.duration, 2*time.Second), of.every)
		if err != nil {
			return err
		}
		var took load.Histogram
		for _, d := range syncs {
			took.Add(d)
		}
		r.percentiles(of.name, &took, true)
		if of.every > 0 {
			all = took
		}
	}
	r.add("kept p50 less one sync", "ms", ms(p50[0]-all.Quantile(0.5)))
	r.add("not kept p50 less bare HTTP", "ms", ms(p50[1]-answers.Quantile(0.5)))
	return nil
}

// times returns the number of calls at a rate within one measurement.
func (b *bench) times(rate float64) int { return max(1, int(b.duration.Seconds()*rate)) }

// paced pushes at a rate and returns the durations until the answers and until the
// receipts. Each push must reach all clients of h, or a single one of them if users is
// more than 0.
func (b *bench) paced(ctx context.Context, r *recorder, s *server, h *clients, c load.Call, users int, rate float64,
	name string) (answers, receipts load.Histogram, err error) {
	if _, err := load.Pace(ctx, s.HTTP, c, pacedCallers, users, rate, b.times(rate)/4+1); err != nil {
		return answers, receipts, fmt.Errorf("warm up: %w", err)
	}
	was, err := h.waitFor(quiet, func(load.Stats) bool { return false })
	if err != nil {
		return answers, receipts, err
	}
	wait := s.profileCPU(ctx, b.profile, name, b.duration)
	answers, err = load.Pace(ctx, s.HTTP, c, pacedCallers, users, rate, b.times(rate))
	if err := errors.Join(err, wait()); err != nil {
		return answers, receipts, err
	}
	want := int64(b.times(rate))
	if users == 0 {
		want *= int64(h.count)
	}
	got, err := h.waitFor(drainTimeout, func(s load.Stats) bool { return s.Packets-was.Packets >= want })
	if err != nil {
		return answers, receipts, err
	}
	if n := got.Packets - was.Packets; n != want {
		r.note("%s: %d messages arrived of %d", name, n, want)
	}
	return answers, got.Latency, nil
}

// room measures the time from push to receipt in a room, at a steady rate.
func (b *bench) room(ctx context.Context, r *recorder) (err error) {
	s, err := b.serve(ctx, serverOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	h, err := b.hold(load.HoldRequest{Addr: s.tcp, Kind: load.TCP, Count: roomSize, Ack: true, Stamped: true, Room: "bench"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	_, receipts, err := b.paced(ctx, r, s, h, load.RoomCall("bench"), 0, roomRate, "room")
	if err != nil {
		return err
	}
	r.percentiles("push to receipt", &receipts, false)
	return nil
}

// throughput measures how many pushes a second are accepted from many concurrent
// callers, and the CPU time of the server for each. Each connection sends one push
// after another. The pushes go to connected users that acknowledge, first not kept and
// then kept. For comparison, a bare HTTP server receives the same requests.
func (b *bench) throughput(ctx context.Context, r *recorder) error {
	if err := b.loadConnected(ctx, r); err != nil {
		return err
	}
	web, addr, err := limits{b}.limit(childHTTP)
	if err != nil {
		return err
	}
	err = b.flood(ctx, r, addr, web.pid(), true, "bare HTTP server", true)
	return errors.Join(err, web.stop())
}

func (b *bench) loadConnected(ctx context.Context, r *recorder) (err error) {
	s, err := b.serve(ctx, serverOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	h, err := b.hold(load.HoldRequest{Addr: s.tcp, Kind: load.TCP, Count: b.users, Ack: true, Window: politeWindow})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	for _, kind := range []struct {
		name, file string
		kept       bool
	}{
		{"not kept", "throughput-not-kept", false},
		{"kept", "throughput-kept", true},
	} {
		before, err := h.stats()
		if err != nil {
			return err
		}
		wait := s.profileCPU(ctx, b.profile, kind.file, warmLoad+b.duration)
		err = b.flood(ctx, r, s.HTTP, s.pid(), kind.kept, kind.name, false)
		if err := errors.Join(err, wait(), s.profileAllocs(ctx, b.profile, kind.file)); err != nil {
			return err
		}
		after, err := h.waitFor(quiet, func(load.Stats) bool { return false })
		if err != nil {
			return err
		}
		if after.Closed > before.Closed || after.AcksLost > before.AcksLost {
			r.note("%s: %d clients were disconnected, %d acknowledgements had no room", kind.name,
				after.Closed-before.Closed, after.AcksLost-before.AcksLost)
		}
	}
	return nil
}

// flood sends pushes to a server at full speed and records the result.
func (b *bench) flood(ctx context.Context, r *recorder, addr string, pid int, kept bool, name string, limit bool) error {
	var server, own [2]time.Duration
	n := 0
	mark := func() (err error) {
		server[n], err = process.CPU(pid)
		own[n], _ = ownCPU()
		n++
		return err
	}
	l, err := load.Flood(ctx, addr, load.PushCall(kept), b.callers, b.users, min(warmLoad, b.duration), b.duration, mark)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if l.Refused > 0 {
		r.note("%s: %d pushes were refused, the first with %s", name, l.Refused, l.Why)
	}
	if l.Accepted == 0 {
		return nil
	}
	r.put(name+", accepted", "pushes/s", float64(l.Accepted)/l.Seconds, limit)
	r.put(name+", server CPU a push", "µs", us(server[1]-server[0])/float64(l.Accepted), limit)
	r.put(name+", bench CPU a push", "µs", us(own[1]-own[0])/float64(l.Accepted), limit)
	r.percentiles(name+", answer", &l.Answers, limit)
	return nil
}
