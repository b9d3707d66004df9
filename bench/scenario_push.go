//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"imgo/bench/limit"
	"imgo/bench/load"
	"imgo/internal/process"
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
func latency(ctx context.Context, t *trial) error {
	listening := load.HoldRequest{Kind: load.TCP, Count: listeners, Ack: true, Stamped: true, Window: politeWindow}
	return t.connected(ctx, serverOptions{}, listening, func(f *fleet) error {
		var p50 [2]time.Duration
		for i, kind := range []struct {
			name string
			kept bool
		}{{"kept", true}, {"not kept", false}} {
			answers, receipts, err := f.paced(ctx, load.PushCall(kind.kept), listeners, float64(t.rate), "latency-"+kind.name)
			if err != nil {
				return fmt.Errorf("%s: %w", kind.name, err)
			}
			t.percentiles(kind.name+", push to receipt", &receipts, false)
			t.percentiles(kind.name+", push to answer", &answers, false)
			p50[i] = receipts.Quantile(0.5)
		}
		return latencyLimits(ctx, t, p50)
	})
}

// latencyLimits measures what the machine can do at the rate of the pushes, whose medians are p50.
func latencyLimits(ctx context.Context, t *trial, p50 [2]time.Duration) error {
	var answers load.Histogram
	err := t.listening(childHTTP, func(_ *child, addr string) (err error) {
		answers, err = load.CallAtRate(ctx, addr, load.PushCall(false), pacedCallers, listeners, float64(t.rate), t.times(float64(t.rate)))
		return err
	})
	if err != nil {
		return fmt.Errorf("bare HTTP: %w", err)
	}
	t.percentiles("bare HTTP server, push to answer", &answers, true)
	// A sync at the same rate belongs beside a push. After a rest, the disk and the
	// processor take twice as long for a sync.
	var all load.Histogram
	for _, of := range []struct {
		name  string
		every time.Duration
	}{
		{"one write and fdatasync of 256 bytes", time.Second / time.Duration(t.rate)},
		{"one write and fdatasync of 256 bytes right after the last one", 0},
	} {
		syncs, err := limit.Syncs(t.tmp, min(t.duration, 2*time.Second), of.every)
		if err != nil {
			return err
		}
		var took load.Histogram
		for _, d := range syncs {
			took.Add(d)
		}
		t.percentiles(of.name, &took, true)
		if of.every > 0 {
			all = took
		}
	}
	t.add("kept p50 less one sync", "ms", ms(p50[0]-all.Quantile(0.5)))
	t.add("not kept p50 less bare HTTP", "ms", ms(p50[1]-answers.Quantile(0.5)))
	return nil
}

// paced pushes at a rate and returns the durations until the answers and until the
// receipts. Each push must reach all clients, or a single one of them if users is
// more than 0.
func (f *fleet) paced(ctx context.Context, c load.Call, users int, rate float64,
	name string) (answers, receipts load.Histogram, err error) {
	if _, err := load.CallAtRate(ctx, f.HTTP, c, pacedCallers, users, rate, f.times(rate)/4+1); err != nil {
		return answers, receipts, fmt.Errorf("warm up: %w", err)
	}
	was, err := f.awaitQuiet()
	if err != nil {
		return answers, receipts, err
	}
	wait := f.profileCPU(ctx, f.profile, name, f.duration)
	answers, err = load.CallAtRate(ctx, f.HTTP, c, pacedCallers, users, rate, f.times(rate))
	if err := errors.Join(err, wait()); err != nil {
		return answers, receipts, err
	}
	want := int64(f.times(rate))
	if users == 0 {
		want *= int64(f.count)
	}
	got, err := f.waitFor(drainTimeout, func(s load.Stats) bool { return s.Packets-was.Packets >= want })
	if err != nil {
		return answers, receipts, err
	}
	if n := got.Packets - was.Packets; n != want {
		f.note("%s: %d messages arrived of %d", name, n, want)
	}
	return answers, got.Latency, nil
}

// room measures the time from push to receipt in a room, at a steady rate.
func room(ctx context.Context, t *trial) error {
	members := load.HoldRequest{Kind: load.TCP, Count: roomSize, Ack: true, Stamped: true, Room: "bench"}
	return t.connected(ctx, serverOptions{}, members, func(f *fleet) error {
		_, receipts, err := f.paced(ctx, load.RoomCall("bench"), 0, roomRate, "room")
		if err == nil {
			t.percentiles("push to receipt", &receipts, false)
		}
		return err
	})
}

// receivers are connected users that acknowledge.
func (t *trial) receivers() load.HoldRequest {
	return load.HoldRequest{Kind: load.TCP, Count: t.users, Ack: true, Window: politeWindow}
}

// throughput measures how many pushes a second are accepted from many concurrent
// callers, and the CPU time of the server for each. Each connection sends one push
// after another. The pushes go to connected users that acknowledge, first not kept and
// then kept. For comparison, a bare HTTP server receives the same requests.
func throughput(ctx context.Context, t *trial) error {
	err := t.connected(ctx, serverOptions{}, t.receivers(), func(f *fleet) error {
		for _, kind := range []struct {
			name, file string
			kept       bool
		}{
			{"not kept", "throughput-not-kept", false},
			{"kept", "throughput-kept", true},
		} {
			before, err := f.stats()
			if err != nil {
				return err
			}
			wait := f.profileCPU(ctx, t.profile, kind.file, warmLoad+t.duration)
			err = t.flood(ctx, f.HTTP, f.pid(), kind.kept, kind.name, false)
			if err := errors.Join(err, wait(), f.profileAllocs(ctx, t.profile, kind.file)); err != nil {
				return err
			}
			after, err := f.awaitQuiet()
			if err != nil {
				return err
			}
			if after.Closed > before.Closed || after.AcksLost > before.AcksLost {
				t.note("%s: %d clients were disconnected, %d acknowledgements had no room", kind.name,
					after.Closed-before.Closed, after.AcksLost-before.AcksLost)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return t.listening(childHTTP, func(web *child, addr string) error {
		return t.flood(ctx, addr, web.pid(), true, "bare HTTP server", true)
	})
}

// flood sends pushes to a server at full speed and records the result.
func (t *trial) flood(ctx context.Context, addr string, pid int, kept bool, name string, limit bool) error {
	var server, own [2]time.Duration
	n := 0
	mark := func() (err error) {
		server[n], err = process.CPU(pid)
		own[n], _ = ownCPU()
		n++
		return err
	}
	l, err := load.Flood(ctx, addr, load.PushCall(kept), t.callers, t.users, min(warmLoad, t.duration), t.duration, mark)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if l.Refused > 0 {
		t.note("%s: %d pushes were refused, the first with %s", name, l.Refused, l.Why)
	}
	if l.Accepted == 0 {
		return nil
	}
	t.put(name+", accepted", "pushes/s", float64(l.Accepted)/l.Seconds, limit)
	t.put(name+", server CPU a push", "µs", us(server[1]-server[0])/float64(l.Accepted), limit)
	t.put(name+", bench CPU a push", "µs", us(own[1]-own[0])/float64(l.Accepted), limit)
	t.percentiles(name+", answer", &l.Answers, limit)
	return nil
}
