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
	"imgo/internal/process"
	"imgo/internal/selfsigned"
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
func idle(ctx context.Context, t *trial, kind string) error {
	welcome, err := idleImgo(ctx, t, kind)
	if err != nil || welcome == nil {
		return err
	}
	answers := [][]byte{welcome}
	if kind == load.WS {
		answers = [][]byte{[]byte(upgraded), load.ServerFrame(welcome)}
	}
	err = t.listening(childDoor, func(d *child, addr string) error {
		before, err := process.CPU(d.pid())
		if err != nil {
			return err
		}
		return t.withClients(load.HoldRequest{Addr: addr, Kind: kind, Count: t.conns, Window: politeWindow}, func(*clients) error {
			after, err := process.CPU(d.pid())
			if err == nil {
				t.limit("accept, read and write alone, CPU a connect", "µs", us(after-before)/float64(t.conns))
			}
			return err
		})
	}, limit.DoorRequest{Answers: answers})
	if err != nil {
		return fmt.Errorf("accept, read and write alone: %w", err)
	}
	return nil
}

// upgraded is the response to the WebSocket request of package load.
const upgraded = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"

// idleImgo measures imgo. It returns the bytes that imgo sends to a TCP client on
// admission. It returns nil for TLS, because plain writes are no fair comparison for
// that.
func idleImgo(ctx context.Context, t *trial, kind string) (welcome []byte, err error) {
	err = t.serving(ctx, kind, serverOptions{}, func(s *server) (err error) {
		before, err := s.restingMemory(ctx)
		if err != nil {
			return err
		}
		cpu, err := process.CPU(s.pid())
		if err != nil {
			return err
		}
		tcp, slab := kernelMemory()
		wait := s.profileCPU(ctx, t.profile, "connect-"+kind, connectProfile)
		h, err := t.connect(load.HoldRequest{Addr: s.addr(kind), Kind: kind, Count: t.conns, Ack: true, Window: politeWindow})
		if err != nil {
			return errors.Join(err, wait())
		}
		defer func() { err = errors.Join(err, h.stop()) }()
		cpuAfter, cpuErr := process.CPU(s.pid())
		rss, rssErr := rssOf(s.pid())
		if err := errors.Join(cpuErr, rssErr, wait()); err != nil {
			return err
		}
		after, err := s.restingMemory(ctx)
		if err != nil {
			return err
		}
		tcpAfter, slabAfter := kernelMemory()
		if err := s.profileHeap(ctx, t.profile, "idle-"+kind); err != nil {
			return err
		}
		stats, err := h.stats()
		if err != nil {
			return err
		}
		if stats.Closed > 0 || h.refused > 0 {
			t.note("of %d clients %d were refused at first and %d disconnected", t.conns, h.refused, stats.Closed)
		}
		n := float64(t.conns)
		t.add("resident memory a connection, settled", "bytes", (after.rss-before.rss)/n)
		t.add("resident memory a connection, just connected", "bytes", (float64(rss)-before.rss)/n)
		t.add("of it Go's heap in use, settled", "bytes", (after.heap-before.heap)/n)
		t.add("of it Go's stacks in use, settled", "bytes", (after.stacks-before.stacks)/n)
		t.add("kernel memory a connection, both ends, data", "bytes", float64(tcpAfter-tcp)/n)
		t.add("kernel memory a connection, both ends, slab", "bytes", float64(slabAfter-slab)/n)
		t.add("goroutines a connection", "", (after.goroutines-before.goroutines)/n)
		t.add("resident memory without connections", "MiB", before.rss/(1<<20))
		t.add("connected a second, with auth", "1/s", n/h.took.Seconds())
		t.add("server CPU a connect, with auth", "µs", us(cpuAfter-cpu)/n)
		if kind == load.TLS || kind == load.WSS {
			return nil
		}
		var received bytes.Buffer
		c, err := connect(ctx, s.tcp, load.UserID(0), &received)
		if err != nil {
			return err
		}
		c.close()
		welcome = received.Bytes()
		return nil
	})
	return welcome, err
}

// footprint is the memory of a server at rest, in bytes, and its number of goroutines.
type footprint struct {
	rss, heap, stacks, goroutines float64
}

// restingMemory makes the server collect garbage until its memory is stable, for at
// most restLimit.
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
func storm(ctx context.Context, t *trial) error {
	for _, kind := range []string{load.TCP, load.WS} {
		if err := t.serving(ctx, kind, serverOptions{}, func(s *server) error { return stormOf(ctx, t, s, kind) }); err != nil {
			return err
		}
	}
	return nil
}

func stormOf(ctx context.Context, t *trial, s *server, kind string) (err error) {
	var h *clients
	cpu, err := cpuOf(s.pid(), func() (err error) {
		wait := s.profileCPU(ctx, t.profile, "storm-"+kind, connectProfile)
		h, err = t.connect(load.HoldRequest{Addr: s.addr(kind), Kind: kind, Count: t.conns, Ack: true})
		return errors.Join(err, wait())
	})
	if h != nil {
		defer func() { err = errors.Join(err, h.stop()) }()
	}
	if err != nil {
		return err
	}
	// The connections before 5 % and after 95 % are left out, because they are the start
	// and the stragglers.
	n := float64(t.conns)
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
	t.add(kind+", all are in after", "s", h.took.Seconds())
	t.add(kind+", to be let in, p50", "ms", ms(h.connects.Quantile(0.5)))
	t.add(kind+", to be let in, p99", "ms", ms(h.connects.Quantile(0.99)))
	t.add(kind+", longest pause of admission", "ms", ms(time.Duration(longest)*load.Step))
	t.add(kind+", refused and tried again", "", float64(h.refused))
	t.add(kind+", server CPU a connect, with auth", "µs", us(cpu)/n)
	t.line("clients that are in, "+kind, "s", "clients", grid, floats(h.admitted))
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
		cert, key, err := selfsigned.Write(b.tmp, "imgo bench")
		if err != nil {
			return nil, err
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
