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
	// warmBroadcasts are sent before those that count.
	warmBroadcasts = 3
	// writeTimeout bounds the limit's work beyond the time that it should take.
	writeTimeout = time.Minute
	// drainPatience is how long nothing may arrive before what has not is
	// taken for lost.
	drainPatience = 3 * time.Second
	// broadcastCallers is how many broadcasts may wait for their answer at once.
	broadcastCallers = 4
	// flushWindow is the comet's setting of the scenarios with a window, and
	// windowRate the broadcasts a second of window: 20 to a write.
	flushWindow = 500 * time.Millisecond
	windowRate  = 40
	windowBatch = 20
	// sizesRate times --conns are the deliveries a second of sizes, whatever the
	// size: 60,000, which leaves the machine room for the clients to be awake.
	sizesRate = 6
)

// fanout is a running imgo with clients that a broadcast goes to.
type fanout struct {
	*server
	*clients
	b *bench
}

// fanout starts imgo and connects clients, which do not acknowledge anything:
// nothing is kept.
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

// spread is what some broadcasts came to.
type spread struct {
	delivered, lost, closed int64
	reads                   int64         // of the clients, for what was delivered
	took                    time.Duration // from the first push to the last receipt
	cpu                     time.Duration // the server's
}

// broadcast pushes times times to everyone and waits for all of it to arrive.
func (f *fanout) broadcast(ctx context.Context, rate float64, times int, patience time.Duration) (sp spread, err error) {
	was, err := f.stats()
	if err != nil {
		return sp, err
	}
	before, err := cpuOf(f.pid())
	if err != nil {
		return sp, err
	}
	begun := time.Now()
	if _, err := load.Pace(ctx, f.http, load.AllCall(), broadcastCallers, 0, rate, times); err != nil {
		return sp, fmt.Errorf("broadcast: %w", err)
	}
	want := int64(times) * int64(f.count)
	got, err := f.await(patience, func(s load.Stats) bool { return s.Packets-was.Packets >= want })
	if err != nil {
		return sp, err
	}
	sp.took = time.Since(begun)
	after, err := cpuOf(f.pid())
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

// broadcast measures the server's CPU for each delivery of pushes to everyone,
// beside a thread that writes the same bytes to as many sockets at the same
// rate; and the pauses of garbage collections under that load.
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
	sp, err := f.measured(ctx, r, kind, float64(b.broadcasts), times, drainPatience)
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
	if kind == load.TCP { // pauses do not depend on what clients speak
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

// measured warms up, broadcasts under a CPU profile where one is wanted, and
// notes what was lost.
func (f *fanout) measured(ctx context.Context, r *recorder, name string, rate float64, times int,
	patience time.Duration) (spread, error) {
	if _, err := f.broadcast(ctx, rate, warmBroadcasts, patience); err != nil {
		return spread{}, err
	}
	wait := f.server.profileCPU(ctx, f.b.profile, "broadcast-"+name, f.b.duration)
	sp, err := f.broadcast(ctx, rate, times, patience)
	if err := errors.Join(err, wait()); err != nil {
		return sp, err
	}
	if sp.lost != 0 || sp.closed > 0 {
		r.note("%d deliveries were lost of %d; %d of %d clients were disconnected", sp.lost, sp.lost+sp.delivered, sp.closed, f.count)
	}
	if should := time.Duration(float64(times) / rate * float64(time.Second)); name != "window" && sp.took > should+probeGrace {
		// What is late goes out together, and costs less than its limit does.
		r.note("at %d clients it took %.1f s instead of %.1f s: deliveries were late and shared writes, so they are cheaper than they should be",
			f.count, sp.took.Seconds(), should.Seconds())
	}
	return sp, nil
}

// frame is what the clients of a kind receive n times: the bytes of n messages.
func frame(kind string, n int) []byte {
	p := transport.AppendPacket(nil, protocol.Version2, protocol.HeaderV2, protocol.OpMessage, 0, 0, []byte("hi"))
	if kind == load.WS || kind == load.WSS {
		p = load.ServerFrame(p)
	}
	return bytes.Repeat(p, n)
}

// written is what plain writes came to.
type written struct {
	writes int64
	took   time.Duration // until all was read
	cpu    time.Duration
	pauses []time.Duration
}

// plain is the limit of a broadcast; collect, if not 0, has it go on with
// garbage collections so often.
func (b limits) plain(r *recorder, kind string, count int, req limit.WriteRequest, collect time.Duration) (done written, err error) {
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
	// It accepts while the clients connect; the answer is read after that.
	if err := w.tell(limit.WriteRequest{Accept: count}); err != nil {
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
	if _, err := h.await(drainPatience, func(s load.Stats) bool { return s.Bytes >= size*int64(warm.Times) }); err != nil {
		return done, err
	}
	before, err := cpuOf(w.pid())
	if err != nil {
		return done, err
	}
	begun := time.Now()
	reply, err := ask(req)
	if err != nil {
		return done, err
	}
	after, err := cpuOf(w.pid())
	if err != nil {
		return done, err
	}
	if _, err := h.await(drainPatience, func(s load.Stats) bool { return s.Bytes >= size*int64(warm.Times+req.Times) }); err != nil {
		return done, err
	}
	if reply.Short > 0 && req.Every > 0 {
		r.note("%d of %d plain writes found no room", reply.Short, reply.Writes)
	}
	done = written{writes: reply.Writes, took: time.Since(begun), cpu: after - before}
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

// window is broadcast at 40/s where messages are held back to go in one write.
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
	sp, err := f.measured(ctx, r, "window", windowRate, times, drainPatience)
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

// windowed are the options for a flush window; false where there is none.
func (b *bench) windowed(r *recorder) (serverOptions, bool) {
	if !hasSetting(b.settings, "flush_interval") {
		r.note("this imgo has no comet.flush_interval: not measured")
		return serverOptions{}, false
	}
	return serverOptions{env: []string{"IMGO_COMET_FLUSH_INTERVAL=" + flushWindow.String()}}, true
}

// sizes measures whether a delivery costs more where there are more clients:
// as many deliveries a second at each size, so that nothing else differs, and
// plain writes to as many sockets beside them, from a thread a core: as many as
// imgo has, since with one the clients are woken otherwise.
func (b *bench) sizes(ctx context.Context, r *recorder) error {
	var counts, costs, limits, ratios []float64
	for _, of := range []int{1_000, 5_000, 19_000} {
		count := max(1, of*b.conns/10_000) // as they stand here with the default of --conns
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

// sizeOf is what a delivery to count clients costs, and a plain write.
func (b *bench) sizeOf(ctx context.Context, r *recorder, count int) (cost, limited float64, err error) {
	f, err := b.fanout(ctx, load.TCP, count, serverOptions{})
	if err != nil {
		return 0, 0, err
	}
	rate := sizesRate * float64(b.conns) / float64(count)
	times := max(1, int(b.duration.Seconds()*rate))
	sp, err := f.measured(ctx, r, fmt.Sprintf("sizes-%d", count), rate, times, drainPatience)
	if err := errors.Join(err, f.stop()); err != nil {
		return 0, 0, err
	}
	plain, err := limits{b}.plain(r, load.TCP, count,
		limit.WriteRequest{Times: max(1, times/3), Every: time.Duration(float64(time.Second) / rate), Payload: frame(load.TCP, 1),
			Threads: runtime.NumCPU()}, 0)
	return us(sp.cpu) / float64(max(sp.delivered, 1)), us(plain.cpu) / float64(max(plain.writes, 1)), err
}
