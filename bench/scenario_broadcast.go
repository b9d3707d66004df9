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
	"imgo/bench/process"
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

// fanout is a running imgo with connected clients that receive broadcasts.
type fanout struct {
	*server
	*clients
	b *bench
}

// fanout starts imgo and connects the clients. They acknowledge nothing, because no
// message is kept.
func (b *bench) fanout(ctx context.Context, kind string, count int, o serverOptions) (_ *fanout, err error) {
	s, err := b.serveFor(ctx, kind, o)
	if err != nil {
		return nil, err
	}
	h, err := b.hold(load.HoldRequest{Addr: s.addr(kind), Kind: kind, Count: count, Window: politeWindow})
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return &fanout{server: s, clients: h, b: b}, nil
}

func (f *fanout) stop() error { return errors.Join(f.clients.stop(), f.server.stop()) }

// broadcastResult is the result of a series of broadcasts.
type broadcastResult struct {
	delivered, lost, closed int64
	reads                   int64         // read calls of the clients for the delivered messages
	took                    time.Duration // from the first push to the last receipt
	cpu                     time.Duration // CPU time of the server
}

// broadcast pushes to everyone, times times, and waits for all deliveries. It gives up
// when nothing arrives for quietLimit.
func (f *fanout) broadcast(ctx context.Context, rate float64, times int, quietLimit time.Duration) (sp broadcastResult, err error) {
	was, err := f.stats()
	if err != nil {
		return sp, err
	}
	before, err := process.CPU(f.pid())
	if err != nil {
		return sp, err
	}
	begun := time.Now()
	if _, err := load.Pace(ctx, f.HTTP, load.AllCall(), broadcastCallers, 0, rate, times); err != nil {
		return sp, fmt.Errorf("broadcast: %w", err)
	}
	want := int64(times) * int64(f.count)
	got, err := f.waitFor(quietLimit, func(s load.Stats) bool { return s.Packets-was.Packets >= want })
	if err != nil {
		return sp, err
	}
	sp.took = time.Since(begun)
	after, err := process.CPU(f.pid())
	if err != nil {
		return sp, err
	}
	sp.cpu, sp.delivered = after-before, got.Packets-was.Packets
	sp.reads = got.Reads - was.Reads
	sp.lost, sp.closed = want-sp.delivered, got.Closed
	if sp.delivered <= 0 {
		return sp, errors.New("nothing was delivered")
	}
	return sp, nil
}

// broadcast measures the CPU time of the server for each delivery of pushes to
// everyone. For comparison, a thread writes the same bytes to as many sockets at the
// same rate. For TCP it also measures the pauses of garbage collections under that
// load.
func (b *bench) broadcast(ctx context.Context, r *recorder, kind string) (err error) {
	times := max(1, int(b.duration.Seconds()*float64(b.broadcasts)))
	f, err := b.fanout(ctx, kind, b.conns, serverOptions{})
	if err != nil {
		return err
	}
	defer func() {
		if f != nil {
			err = errors.Join(err, f.stop())
		}
	}()
	before, err := f.collections(ctx)
	if err != nil {
		return err
	}
	sp, err := f.measured(ctx, r, kind, float64(b.broadcasts), times, drainTimeout)
	if err != nil {
		return err
	}
	after, err := f.collections(ctx)
	if err != nil {
		return err
	}
	r.add("deliveries", "1/s", float64(sp.delivered)/sp.took.Seconds())
	cost := us(sp.cpu) / float64(sp.delivered)
	r.add("server CPU a delivery", "µs", cost)
	r.add("messages a read of the clients", "", float64(sp.delivered)/float64(max(sp.reads, 1)))
	r.add("garbage collections meanwhile", "", float64(after.count-before.count))
	var every time.Duration
	if kind == load.TCP { // the pauses do not depend on the client protocol
		if every, err = f.pauses(ctx, r, "GC pause"); err != nil {
			return err
		}
	}
	err, f = f.stop(), nil
	if err != nil {
		return err
	}
	plain, err := limits{b}.plain(r, kind, b.conns,
		limit.WriteRequest{Times: times, Every: time.Second / time.Duration(b.broadcasts), Payload: frame(kind, 1)}, every)
	if err != nil {
		return err
	}
	r.limit("plain write(2), CPU a delivery", "µs", us(plain.cpu)/float64(plain.writes))
	if every > 0 {
		r.pauses("a bare Go process, GC pause", plain.pauses, true)
		return b.pausesOnOne(ctx, r)
	}
	return nil
}

// measured sends warm-up broadcasts and then the measured ones, with a CPU profile if
// one is wanted. It records the losses.
func (f *fanout) measured(ctx context.Context, r *recorder, name string, rate float64, times int,
	quietLimit time.Duration) (broadcastResult, error) {
	if _, err := f.broadcast(ctx, rate, warmBroadcasts, quietLimit); err != nil {
		return broadcastResult{}, err
	}
	wait := f.server.profileCPU(ctx, f.b.profile, "broadcast-"+name, f.b.duration)
	sp, err := f.broadcast(ctx, rate, times, quietLimit)
	if err := errors.Join(err, wait()); err != nil {
		return sp, err
	}
	if sp.lost != 0 || sp.closed > 0 {
		r.note("%d deliveries were lost of %d; %d of %d clients were disconnected", sp.lost, sp.lost+sp.delivered, sp.closed, f.count)
	}
	if should := time.Duration(float64(times) / rate * float64(time.Second)); name != "window" && sp.took > should+probeGrace {
		// Late messages share writes, which makes them cheaper than in the comparison.
		r.note("at %d clients it took %.1f s instead of %.1f s: deliveries were late and shared writes, so they are cheaper than they should be",
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
func (b limits) plain(r *recorder, kind string, count int, req limit.WriteRequest, collect time.Duration) (done plainResult, err error) {
	w, addr, err := b.limit(childWriter)
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, w.stop()) }()
	ask := func(req limit.WriteRequest) (reply limit.WriteReply, err error) {
		err = w.ask(writeTimeout+time.Duration(req.Times)*req.Every, req, &reply)
		if err == nil && reply.Error != "" {
			err = errors.New(reply.Error)
		}
		return reply, err
	}
	// The child accepts while the clients connect. Its answer is read afterwards.
	if err := w.send(limit.WriteRequest{Accept: count}); err != nil {
		return done, err
	}
	h, err := b.hold(load.HoldRequest{Addr: addr, Kind: load.Raw, Count: count, Window: politeWindow})
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	var accepted limit.WriteReply
	if err := w.answer(writeTimeout, &accepted); err != nil {
		return done, err
	}
	if accepted.Error != "" {
		return done, errors.New(accepted.Error)
	}
	warm := req
	warm.Times = min(warmBroadcasts, req.Times)
	if _, err := ask(warm); err != nil {
		return done, err
	}
	size := int64(len(req.Payload)) * int64(count)
	if _, err := h.waitFor(drainTimeout, func(s load.Stats) bool { return s.Bytes >= size*int64(warm.Times) }); err != nil {
		return done, err
	}
	before, err := process.CPU(w.pid())
	if err != nil {
		return done, err
	}
	begun := time.Now()
	reply, err := ask(req)
	if err != nil {
		return done, err
	}
	after, err := process.CPU(w.pid())
	if err != nil {
		return done, err
	}
	if _, err := h.waitFor(drainTimeout, func(s load.Stats) bool { return s.Bytes >= size*int64(warm.Times+req.Times) }); err != nil {
		return done, err
	}
	if reply.Short > 0 && req.Every > 0 {
		r.note("%d of %d plain writes found no room", reply.Short, reply.Writes)
	}
	done = plainResult{writes: reply.Writes, took: time.Since(begun), cpu: after - before}
	if collect > 0 {
		req.Collect, req.Threads, req.Times = collect, runtime.NumCPU(), b.pauseTimes()
		reply, err := ask(req)
		if err != nil {
			return done, err
		}
		done.pauses = reply.Pauses
	}
	return done, nil
}

// window measures broadcasts at 40 a second with a flush window, so that several
// messages share one write.
func (b *bench) window(ctx context.Context, r *recorder) (err error) {
	o, ok := b.windowed(r)
	if !ok {
		return nil
	}
	times := max(windowBatch, int(b.duration.Seconds()*windowRate)/windowBatch*windowBatch)
	f, err := b.fanout(ctx, load.TCP, b.conns, o)
	if err != nil {
		return err
	}
	defer func() {
		if f != nil {
			err = errors.Join(err, f.stop())
		}
	}()
	sp, err := f.measured(ctx, r, "window", windowRate, times, drainTimeout)
	if err != nil {
		return err
	}
	err, f = f.stop(), nil
	if err != nil {
		return err
	}
	plain, err := limits{b}.plain(r, load.TCP, b.conns,
		limit.WriteRequest{Times: times / windowBatch, Every: flushWindow, Payload: frame(load.TCP, windowBatch)}, 0)
	if err != nil {
		return err
	}
	r.add("deliveries", "1/s", float64(sp.delivered)/sp.took.Seconds())
	r.add("server CPU a message", "µs", us(sp.cpu)/float64(sp.delivered))
	r.limit("plain write(2) of 20 messages, CPU a message", "µs", us(plain.cpu)/float64(plain.writes*windowBatch))
	return nil
}

// windowed returns the options for a flush window. ok is false if this imgo has no
// such setting.
func (b *bench) windowed(r *recorder) (serverOptions, bool) {
	if !hasSetting(b.settings, "flush_interval") {
		r.note("this imgo has no comet.flush_interval: not measured")
		return serverOptions{}, false
	}
	return serverOptions{env: []string{"IMGO_COMET_FLUSH_INTERVAL=" + flushWindow.String()}}, true
}

// sizes measures whether a delivery costs more with more clients. The number of
// deliveries a second is the same at each size, so that nothing else differs. For
// comparison, one thread a core writes to as many sockets. imgo also has one thread a
// core, and with a single thread the clients would wake up in another pattern.
func (b *bench) sizes(ctx context.Context, r *recorder) error {
	var counts, costs, limits, ratios []float64
	for _, of := range []int{1_000, 5_000, 19_000} {
		count := max(1, of*b.conns/10_000) // the sizes above are for the default of --conns
		cost, plain, err := b.sizeOf(ctx, r, count)
		if err != nil {
			return err
		}
		r.add(fmt.Sprintf("server CPU a delivery, %s connections", grouped(int64(of))), "µs", cost)
		r.limit(fmt.Sprintf("plain write(2), CPU a delivery, %s connections", grouped(int64(of))), "µs", plain)
		counts, costs = append(counts, float64(count)), append(costs, cost)
		limits, ratios = append(limits, plain), append(ratios, ratio(cost, plain))
	}
	r.add("the dearest over the cheapest", "×", ratio(slices.Max(costs), slices.Min(costs)))
	r.limit("plain write(2), the dearest over the cheapest", "×", ratio(slices.Max(limits), slices.Min(limits)))
	r.add("the dearest over the cheapest, each over its limit", "×", ratio(slices.Max(ratios), slices.Min(ratios)))
	r.line("CPU a delivery", "connections", "µs", counts, costs)
	r.line("CPU of a plain write(2)", "connections", "µs", counts, limits)
	return nil
}

// sizeOf returns the CPU time of a delivery to count clients, and that of a plain
// write.
func (b *bench) sizeOf(ctx context.Context, r *recorder, count int) (cost, limited float64, err error) {
	f, err := b.fanout(ctx, load.TCP, count, serverOptions{})
	if err != nil {
		return 0, 0, err
	}
	rate := sizesRate * float64(b.conns) / float64(count)
	times := max(1, int(b.duration.Seconds()*rate))
	sp, err := f.measured(ctx, r, fmt.Sprintf("sizes-%d", count), rate, times, drainTimeout)
	if err := errors.Join(err, f.stop()); err != nil {
		return 0, 0, err
	}
	plain, err := limits{b}.plain(r, load.TCP, count,
		limit.WriteRequest{Times: max(1, times/3), Every: time.Duration(float64(time.Second) / rate), Payload: frame(load.TCP, 1),
			Threads: runtime.NumCPU()}, 0)
	return us(sp.cpu) / float64(max(sp.delivered, 1)), us(plain.cpu) / float64(max(plain.writes, 1)), err
}
