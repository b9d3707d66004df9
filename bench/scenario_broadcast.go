//go:build linux

package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"imgo/bench/limit"
	"imgo/bench/load"
	"imgo/protocol"
	"imgo/transport"
)

const (
	// warmBroadcasts are sent before the measured ones.
	warmBroadcasts = 3
	// writeTimeout bounds the work of the writer beyond its expected duration.
	writeTimeout = time.Minute
	// drainTimeout is how long nothing may arrive before the missing deliveries count as
	// lost.
	drainTimeout = 3 * time.Second
	// broadcastCallers is the number of broadcasts that may wait for their answer at the
	// same time.
	broadcastCallers = 4
	// flushWindow is the comet's flush interval in the scenarios with a flush window.
	// windowRate is the rate of window in broadcasts a second. It makes windowBatch
	// messages a write.
	flushWindow = 500 * time.Millisecond
	windowRate  = 40
	windowBatch = 20
	// sizesRate times --conns is the number of deliveries a second in sizes, at every
	// number of connections. With the default it is 60,000, which leaves enough of the
	// machine for the clients.
	sizesRate = 6
)

// broadcastTo runs do with an imgo and clients that receive broadcasts. They acknowledge nothing, because no
// message is kept.
func (t *trial) broadcastTo(ctx context.Context, kind string, count int, o serverOptions, do func(*fleet) error) error {
	return t.connected(ctx, o, load.HoldRequest{Kind: kind, Count: count, Window: politeWindow}, do)
}

// broadcastResult is the result of a series of broadcasts.
type broadcastResult struct {
	delivered, lost, closed int64
	reads                   int64         // read calls of the clients for the delivered messages
	took                    time.Duration // from the first push to the last receipt
	cpu                     time.Duration // CPU time of the server
}

// broadcast pushes to everyone, times times, and waits for all deliveries. It gives up
// when nothing arrives for quietLimit.
func (f *fleet) broadcast(ctx context.Context, rate float64, times int, quietLimit time.Duration) (sp broadcastResult, err error) {
	was, err := f.stats()
	if err != nil {
		return sp, err
	}
	want := int64(times) * int64(f.count)
	sp.cpu, err = cpuOf(f.pid(), func() error {
		begun := time.Now()
		if _, err := load.CallAtRate(ctx, f.HTTP, load.AllCall(), broadcastCallers, 0, rate, times); err != nil {
			return fmt.Errorf("broadcast: %w", err)
		}
		got, err := f.waitFor(quietLimit, func(s load.Stats) bool { return s.Packets-was.Packets >= want })
		sp.took = time.Since(begun)
		sp.delivered, sp.reads, sp.closed = got.Packets-was.Packets, got.Reads-was.Reads, got.Closed
		return err
	})
	sp.lost = want - sp.delivered
	if err == nil && sp.delivered <= 0 {
		err = errors.New("nothing was delivered")
	}
	return sp, err
}

// broadcast measures the CPU time of the server for each delivery of pushes to
// everyone. For comparison, a thread writes the same bytes to as many sockets at the
// same rate. For TCP it also measures the pauses of garbage collections under that
// load.
func broadcast(ctx context.Context, t *trial, kind string) error {
	times := t.times(float64(t.broadcasts))
	var every time.Duration
	err := t.broadcastTo(ctx, kind, t.conns, serverOptions{}, func(f *fleet) error {
		before, err := f.collections(ctx)
		if err != nil {
			return err
		}
		sp, err := f.measured(ctx, kind, float64(t.broadcasts), times)
		if err != nil {
			return err
		}
		after, err := f.collections(ctx)
		if err != nil {
			return err
		}
		t.addDeliveries(sp)
		t.add("messages a read of the clients", "", float64(sp.delivered)/float64(max(sp.reads, 1)))
		t.add("garbage collections meanwhile", "", float64(after.count-before.count))
		if kind == load.TCP { // the pauses do not depend on the client protocol
			every, err = f.pauses(ctx, "GC pause")
		}
		return err
	})
	if err != nil {
		return err
	}
	plain, err := t.plain(kind, t.conns,
		limit.WriteRequest{Times: times, Every: time.Second / time.Duration(t.broadcasts), Payload: frame(kind, 1)}, every)
	if err != nil {
		return err
	}
	t.limit("plain write(2), CPU a delivery", "µs", us(plain.cpu)/float64(plain.writes))
	if every > 0 {
		t.recorder.pauses("a bare Go process, GC pause", plain.pauses, true)
		return pausesOnOne(ctx, t)
	}
	return nil
}

// addDeliveries adds how many deliveries there were a second, and their cost.
func (t *trial) addDeliveries(sp broadcastResult) {
	t.add("deliveries", "1/s", float64(sp.delivered)/sp.took.Seconds())
	t.add("server CPU a delivery", "µs", us(sp.cpu)/float64(sp.delivered))
}

// withoutRing measures broadcasts like broadcast-tcp, but without io_uring, which most containers forbid.
func withoutRing(ctx context.Context, t *trial) error {
	o := serverOptions{env: []string{"IMGO_COMET_IO_URING=false"}}
	return t.broadcastTo(ctx, load.TCP, t.conns, o, func(f *fleet) error {
		sp, err := f.measured(ctx, "no-uring", float64(t.broadcasts), t.times(float64(t.broadcasts)))
		if err != nil {
			return err
		}
		t.addDeliveries(sp)
		return nil
	})
}

// measured sends warm-up broadcasts and then the measured ones, with a CPU profile if
// one is wanted. It records the losses.
func (f *fleet) measured(ctx context.Context, name string, rate float64, times int) (broadcastResult, error) {
	if _, err := f.broadcast(ctx, rate, warmBroadcasts, drainTimeout); err != nil {
		return broadcastResult{}, err
	}
	wait := f.profileCPU(ctx, f.profile, "broadcast-"+name, f.duration)
	sp, err := f.broadcast(ctx, rate, times, drainTimeout)
	if err := errors.Join(err, wait()); err != nil {
		return sp, err
	}
	if sp.lost != 0 || sp.closed > 0 {
		f.note("%d deliveries were lost of %d; %d of %d clients were disconnected", sp.lost, sp.lost+sp.delivered, sp.closed, f.count)
	}
	if should := time.Duration(float64(times) / rate * float64(time.Second)); name != "window" && sp.took > should+probeGrace {
		// Late messages share writes, which makes them cheaper than in the comparison.
		f.note("at %d clients it took %.1f s instead of %.1f s: deliveries were late and shared writes, so they are cheaper than they should be",
			f.count, sp.took.Seconds(), should.Seconds())
	}
	return sp, nil
}

// frame returns the bytes of n messages as clients of the kind receive them.
func frame(kind string, n int) []byte {
	p := transport.AppendPacket(nil, protocol.Version2, protocol.HeaderV2, protocol.OpMessage, 0, 0, []byte("hi"))
	if kind == load.WS || kind == load.WSS {
		p = load.ServerFrame(p)
	}
	return bytes.Repeat(p, n)
}

// plainResult is the result of plain writes.
type plainResult struct {
	writes int64
	took   time.Duration // until all was read
	cpu    time.Duration
	pauses []time.Duration
}

// plain measures the limit of a broadcast: plain writes to as many sockets. If collect
// is not 0, it repeats them with a garbage collection every collect.
func (t *trial) plain(kind string, count int, req limit.WriteRequest, collect time.Duration) (done plainResult, err error) {
	err = t.listening(childWriter, func(w *child, addr string) error {
		// The child accepts while the clients connect. Its answer is read afterwards.
		if err := w.send(limit.WriteRequest{Accept: count}); err != nil {
			return err
		}
		return t.withClients(load.HoldRequest{Addr: addr, Kind: load.Raw, Count: count, Window: politeWindow}, func(h *clients) error {
			if _, err := written(w, 0); err != nil {
				return err
			}
			done, err = t.plainWrites(w, h, req, collect)
			return err
		})
	})
	return done, err
}

// written reads an answer of the child that writes, which it gives within writeTimeout and the expected duration.
func written(w *child, expected time.Duration) (reply limit.WriteReply, err error) {
	err = w.answer(writeTimeout+expected, &reply)
	if err == nil && reply.Error != "" {
		err = errors.New(reply.Error)
	}
	return reply, err
}

// plainWrites has a child write to all clients, as plain measures it.
func (t *trial) plainWrites(w *child, h *clients, req limit.WriteRequest, collect time.Duration) (done plainResult, err error) {
	ask := func(req limit.WriteRequest) (limit.WriteReply, error) {
		if err := w.send(req); err != nil {
			return limit.WriteReply{}, err
		}
		return written(w, time.Duration(req.Times)*req.Every)
	}
	size, sent := int64(len(req.Payload))*int64(h.count), int64(0)
	drain := func(times int) error {
		sent += size * int64(times)
		_, err := h.waitFor(drainTimeout, func(s load.Stats) bool { return s.Bytes >= sent })
		return err
	}
	warm := req
	warm.Times = min(warmBroadcasts, req.Times)
	if _, err := ask(warm); err != nil {
		return done, err
	}
	if err := drain(warm.Times); err != nil {
		return done, err
	}
	begun := time.Now()
	var reply limit.WriteReply
	done.cpu, err = cpuOf(w.pid(), func() (err error) {
		reply, err = ask(req)
		return err
	})
	if err != nil {
		return done, err
	}
	if err := drain(req.Times); err != nil {
		return done, err
	}
	if reply.Short > 0 && req.Every > 0 {
		t.note("%d of %d plain writes found no room", reply.Short, reply.Writes)
	}
	done.writes, done.took = reply.Writes, time.Since(begun)
	if collect > 0 {
		req.Collect, req.Threads, req.Times = collect, runtime.NumCPU(), t.pauseTimes()
		reply, err = ask(req)
		done.pauses = reply.Pauses
	}
	return done, err
}

// windowed are the options for a flush window.
var windowed = serverOptions{env: []string{"IMGO_COMET_FLUSH_INTERVAL=" + flushWindow.String()}}

// window measures broadcasts at 40 a second with a flush window, so that several
// messages share one write.
func window(ctx context.Context, t *trial) error {
	times := max(windowBatch, int(t.duration.Seconds()*windowRate)/windowBatch*windowBatch)
	var sp broadcastResult
	err := t.broadcastTo(ctx, load.TCP, t.conns, windowed, func(f *fleet) (err error) {
		sp, err = f.measured(ctx, "window", windowRate, times)
		return err
	})
	if err != nil {
		return err
	}
	plain, err := t.plain(load.TCP, t.conns,
		limit.WriteRequest{Times: times / windowBatch, Every: flushWindow, Payload: frame(load.TCP, windowBatch)}, 0)
	if err != nil {
		return err
	}
	t.add("deliveries", "1/s", float64(sp.delivered)/sp.took.Seconds())
	t.add("server CPU a message", "µs", us(sp.cpu)/float64(sp.delivered))
	t.limit("plain write(2) of 20 messages, CPU a message", "µs", us(plain.cpu)/float64(plain.writes*windowBatch))
	return nil
}

// sizes measures whether a delivery costs more with more clients. The number of
// deliveries a second is the same at each size, so that nothing else differs. For
// comparison, one thread a core writes to as many sockets. imgo also has one thread a
// core, and with a single thread the clients would wake up in another pattern.
func sizes(ctx context.Context, t *trial) error {
	var counts, costs, limits, ratios []float64
	for _, of := range []int{1_000, 5_000, 19_000} {
		count := max(1, of*t.conns/10_000) // the sizes above are for the default of --conns
		cost, plain, err := sizeOf(ctx, t, count)
		if err != nil {
			return err
		}
		t.add(fmt.Sprintf("server CPU a delivery, %s connections", grouped(int64(of))), "µs", cost)
		t.limit(fmt.Sprintf("plain write(2), CPU a delivery, %s connections", grouped(int64(of))), "µs", plain)
		counts, costs = append(counts, float64(count)), append(costs, cost)
		limits, ratios = append(limits, plain), append(ratios, ratio(cost, plain))
	}
	t.add("the dearest over the cheapest", "×", ratio(slices.Max(costs), slices.Min(costs)))
	t.limit("plain write(2), the dearest over the cheapest", "×", ratio(slices.Max(limits), slices.Min(limits)))
	t.add("the dearest over the cheapest, each over its limit", "×", ratio(slices.Max(ratios), slices.Min(ratios)))
	t.line("CPU a delivery", "connections", "µs", counts, costs)
	t.line("CPU of a plain write(2)", "connections", "µs", counts, limits)
	return nil
}

// sizeOf returns the CPU time of a delivery to count clients, and that of a plain
// write.
func sizeOf(ctx context.Context, t *trial, count int) (cost, limited float64, err error) {
	rate := sizesRate * float64(t.conns) / float64(count)
	times := t.times(rate)
	var sp broadcastResult
	err = t.broadcastTo(ctx, load.TCP, count, serverOptions{}, func(f *fleet) (err error) {
		sp, err = f.measured(ctx, fmt.Sprintf("sizes-%d", count), rate, times)
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	plain, err := t.plain(load.TCP, count,
		limit.WriteRequest{Times: max(1, times/3), Every: time.Duration(float64(time.Second) / rate), Payload: frame(load.TCP, 1),
			Threads: runtime.NumCPU()}, 0)
	return us(sp.cpu) / float64(max(sp.delivered, 1)), us(plain.cpu) / float64(max(plain.writes, 1)), err
}
