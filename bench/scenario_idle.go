//go:build linux

package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"imgo/bench/limit"
	"imgo/bench/load"
	"imgo/bench/process"
)

const (
	// restStep is the time between two readings of a server's memory.
	restStep = 400 * time.Millisecond
	// restLimit bounds the wait for stable memory, because Go returns memory to the
	// system slowly.
	restLimit = 6 * time.Second
	// connectProfile is the length of the CPU profile of connecting, if one is wanted.
	connectProfile = 4 * time.Second
)

// idle measures the cost of idle connections: resident bytes, kernel memory,
// goroutines, and the CPU time of connecting. For comparison, a single thread accepts
// as many connections and reads and writes the same bytes.
func (b *bench) idle(ctx context.Context, r *recorder, kind string) (err error) {
	welcome, err := b.idleImgo(ctx, r, kind)
	if err != nil || welcome == nil {
		return err
	}
	answers := [][]byte{welcome}
	if kind == load.WS {
		answers = [][]byte{[]byte(upgraded), load.ServerFrame(welcome)}
	}
	d, addr, err := limits{b}.limit(childDoor, limit.DoorRequest{Answers: answers})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	before, err := process.CPU(d.pid())
	if err != nil {
		return err
	}
	h, err := b.hold(load.HoldRequest{Addr: addr, Kind: kind, Count: b.conns, Window: politeWindow})
	if err != nil {
		return fmt.Errorf("accept, read and write alone: %w", err)
	}
	after, err := process.CPU(d.pid())
	if err := errors.Join(err, h.stop()); err != nil {
		return err
	}
	r.limit("accept, read and write alone, CPU a connect", "µs", us(after-before)/float64(b.conns))
	return nil
}

// upgraded is the response to the WebSocket request of package load.
const upgraded = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"

// idleImgo measures imgo. It returns the bytes that imgo sends to a TCP client on
// admission. It returns nil for TLS, because plain writes are no fair comparison for
// that.
func (b *bench) idleImgo(ctx context.Context, r *recorder, kind string) (_ []byte, err error) {
	s, err := b.serveFor(ctx, kind, serverOptions{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	before, err := s.restingMemory(ctx)
	if err != nil {
		return nil, err
	}
	cpu, err := process.CPU(s.pid())
	if err != nil {
		return nil, err
	}
	tcp, slab := kernelMemory()
	wait := s.profileCPU(ctx, b.profile, "connect-"+kind, connectProfile)
	h, err := b.hold(load.HoldRequest{Addr: s.addr(kind), Kind: kind, Count: b.conns, Ack: true, Window: politeWindow})
	if err != nil {
		return nil, errors.Join(err, wait())
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	cpuAfter, err := process.CPU(s.pid())
	if err != nil {
		return nil, err
	}
	rss, err := rssOf(s.pid())
	if err != nil {
		return nil, err
	}
	if err := wait(); err != nil {
		return nil, err
	}
	after, err := s.restingMemory(ctx)
	if err != nil {
		return nil, err
	}
	tcpAfter, slabAfter := kernelMemory()
	if err := s.profileHeap(ctx, b.profile, "idle-"+kind); err != nil {
		return nil, err
	}
	stats, err := h.stats()
	if err != nil {
		return nil, err
	}
	if stats.Closed > 0 || h.refused > 0 {
		r.note("of %d clients %d were refused at first and %d disconnected", b.conns, h.refused, stats.Closed)
	}
	n := float64(b.conns)
	r.add("resident memory a connection, settled", "bytes", (after.rss-before.rss)/n)
	r.add("resident memory a connection, just connected", "bytes", (float64(rss)-before.rss)/n)
	r.add("of it Go's heap in use, settled", "bytes", (after.heap-before.heap)/n)
	r.add("of it Go's stacks in use, settled", "bytes", (after.stacks-before.stacks)/n)
	r.add("kernel memory a connection, both ends, data", "bytes", float64(tcpAfter-tcp)/n)
	r.add("kernel memory a connection, both ends, slab", "bytes", float64(slabAfter-slab)/n)
	r.add("goroutines a connection", "", (after.goroutines-before.goroutines)/n)
	r.add("resident memory without connections", "MiB", before.rss/(1<<20))
	r.add("connected a second, with auth", "1/s", n/h.took.Seconds())
	r.add("server CPU a connect, with auth", "µs", us(cpuAfter-cpu)/n)
	if kind == load.TLS || kind == load.WSS {
		return nil, nil
	}
	var welcome bytes.Buffer
	c, err := connectInto(ctx, s.tcp, load.UserID(0), &welcome)
	if err != nil {
		return nil, err
	}
	c.close()
	return welcome.Bytes(), nil
}

// footprint is the memory of a server at rest, in bytes, and its number of goroutines.
type footprint struct {
	rss, heap, stacks, goroutines float64
}

// restingMemory makes the server collect garbage and waits until its memory is stable.
func (s *server) restingMemory(ctx context.Context) (f footprint, err error) {
	begun := time.Now()
	calm := 0
	for {
		// Two collections are needed: the first moves pooled objects aside and the second
		// frees them.
		if err := errors.Join(s.collect(ctx), s.collect(ctx)); err != nil {
			return f, err
		}
		load.Sleep(ctx, restStep)
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
		if calm == 2 || time.Since(begun) > restLimit || ctx.Err() != nil {
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

// storm connects all clients at the same moment, as after a restart, and measures
// their admission.
func (b *bench) storm(ctx context.Context, r *recorder) error {
	for _, kind := range []string{load.TCP, load.WS} {
		if err := b.stormOf(ctx, r, kind); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) stormOf(ctx context.Context, r *recorder, kind string) (err error) {
	s, err := b.serve(ctx, serverOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	cpu, err := process.CPU(s.pid())
	if err != nil {
		return err
	}
	wait := s.profileCPU(ctx, b.profile, "storm-"+kind, connectProfile)
	h, err := b.hold(load.HoldRequest{Addr: s.addr(kind), Kind: kind, Count: b.conns, Ack: true})
	if err := errors.Join(err, wait()); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	after, err := process.CPU(s.pid())
	if err != nil {
		return err
	}
	// The connections before 5 % and after 95 % are left out, because they are the start
	// and the stragglers.
	n := float64(b.conns)
	var grid []float64
	from, to := -1, 0
	for i, in := range h.admitted {
		grid = append(grid, load.Step.Seconds()*float64(i+1))
		if from < 0 && float64(in) >= 0.05*n {
			from = i
		}
		if float64(in) <= 0.95*n {
			to = i + 1
		}
	}
	longest := 0
	for i, still := max(from, 0)+1, 0; i < min(to, len(h.admitted)); i++ {
		if still++; h.admitted[i] > h.admitted[i-1] {
			still = 0
		}
		longest = max(longest, still)
	}
	r.add(kind+", all are in after", "s", h.took.Seconds())
	r.add(kind+", to be let in, p50", "ms", ms(h.connects.Quantile(0.5)))
	r.add(kind+", to be let in, p99", "ms", ms(h.connects.Quantile(0.99)))
	r.add(kind+", longest pause of admission", "ms", ms(time.Duration(longest)*load.Step))
	r.add(kind+", refused and tried again", "", float64(h.refused))
	r.add(kind+", server CPU a connect, with auth", "µs", us(after-cpu)/n)
	r.line("clients that are in, "+kind, "s", "clients", grid, floats(h.admitted))
	return nil
}

func floats(values []int) []float64 {
	all := make([]float64, len(values))
	for i, v := range values {
		all[i] = float64(v)
	}
	return all
}

// serveFor starts imgo for a kind of connection. It makes a certificate for the kinds
// with TLS.
func (b *bench) serveFor(ctx context.Context, kind string, o serverOptions) (*server, error) {
	if kind == load.TLS || kind == load.WSS {
		cert, key, err := b.certificate()
		if err != nil {
			return nil, fmt.Errorf("make a certificate: %w", err)
		}
		o.env = append(o.env, "IMGO_COMET_TLS_CERT="+cert, "IMGO_COMET_TLS_KEY="+key)
	}
	return b.serve(ctx, o)
}

// addr returns the address at which clients of the kind connect.
func (s *server) addr(kind string) string {
	if kind == load.WS || kind == load.WSS {
		return s.ws
	}
	return s.tcp
}
