//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"imgo/transport"
)

const (
	// listeners is how many users listen, each on a connection of its own.
	listeners = 50
	// pacedCallers bounds the calls under way at once: more than a rate of
	// some hundred a second needs, so that a slow answer holds up no other.
	pacedCallers = 16
	// warmPaced is how long pushes are paced before they count.
	warmPaced = time.Second
	// drainPatience is how long nothing may arrive before what has not is
	// taken for lost.
	drainPatience = 3 * time.Second
)

// latency measures from the write of an HTTP request to the read of its
// message at the client, at a steady rate, and beside it a bare HTTP server's
// answers at that rate and single syncs of the disk.
func (b *bench) latency(ctx context.Context, r *recorder) (err error) {
	s, err := b.serve(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	l, err := listen(ctx, s.tcp)
	if err != nil {
		return err
	}
	defer l.close()
	p := &pacer{addr: s.http, rate: b.rate, duration: b.duration, base: l.base}

	var p50 [2]float64
	for i, kind := range []struct {
		name string
		kept bool
	}{{"kept", true}, {"not kept", false}} {
		wait := b.profileCPU(ctx, s, "latency-"+strconv.FormatBool(kind.kept), b.duration)
		answers, err := p.run(ctx, pushCall(kind.kept), l.from)
		if err := errors.Join(err, wait()); err != nil {
			return fmt.Errorf("%s: %w", kind.name, err)
		}
		receipts, lost, doubled := l.take(len(answers))
		if lost > 0 || doubled > 0 {
			r.note("%s: of %d pushes %d did not arrive and %d arrived twice", kind.name, len(answers), lost, doubled)
		}
		r.percentiles(kind.name+", push to receipt", receipts, false)
		r.percentiles(kind.name+", push to answer", answers, false)
		p50[i] = ms(quantile(receipts, 0.5))
	}

	limit, addr, err := b.httpLimit()
	if err != nil {
		return err
	}
	p.addr = addr
	answers, err := p.run(ctx, pushCall(false), func(time.Duration) {})
	if err = errors.Join(err, limit.stop()); err != nil {
		return fmt.Errorf("bare HTTP: %w", err)
	}
	r.percentiles("bare HTTP server, push to answer", answers, true)
	all, err := syncs(b.tmp, min(b.duration, 2*time.Second))
	if err != nil {
		return err
	}
	r.percentiles("one write and fdatasync of 256 bytes", all, true)
	r.add("kept p50 less one sync", "ms", p50[0]-ms(quantile(all, 0.5)))
	r.add("not kept p50 less bare HTTP", "ms", p50[1]-ms(quantile(answers, 0.5)))
	return nil
}

// pacer pushes at a steady rate.
type pacer struct {
	addr     string
	rate     int
	duration time.Duration
	// base is what the times in messages are counted from.
	base time.Time
}

// run pushes for a while and returns how long each answer took. from is told
// the time, counted from base, from which pushes count.
func (p *pacer) run(ctx context.Context, c call, from func(time.Duration)) ([]time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	turns := make(chan int, p.rate) // a second's worth: one that waits longer is an error
	var mu sync.Mutex
	var answers []time.Duration
	counts := p.warmUntil()
	from(counts)
	work := func(caller *caller, c call) error {
		defer caller.close()
		for n := range turns {
			c.to(n % listeners)
			started := time.Since(p.base)
			c.stamp(started)
			ok, why, err := caller.do(c.bytes)
			took := time.Since(p.base) - started
			if err == nil && !ok {
				err = errors.New(why)
			}
			if err != nil {
				return err
			}
			if started >= counts {
				mu.Lock()
				answers = append(answers, took)
				mu.Unlock()
			}
		}
		return nil
	}
	var wg sync.WaitGroup
	for range pacedCallers {
		caller, err := dialCaller(ctx, p.addr)
		if err != nil {
			cancel(err)
			break
		}
		wg.Go(func() {
			if err := work(caller, c.clone()); err != nil {
				cancel(err)
			}
		})
	}
	every := time.Second / time.Duration(p.rate)
	begun := time.Now()
	for n := 0; time.Duration(n)*every < warmPaced+p.duration && ctx.Err() == nil; n++ {
		sleep(ctx, time.Until(begun.Add(time.Duration(n)*every)))
		select {
		case turns <- n:
		default:
			cancel(fmt.Errorf("%d pushes a second are more than are answered", p.rate))
		}
	}
	close(turns)
	wg.Wait()
	return answers, context.Cause(ctx)
}

func (p *pacer) warmUntil() time.Duration { return time.Since(p.base) + warmPaced }

// listening are the clients that receive what the pacer pushes.
type listening struct {
	base    time.Time
	counts  atomic.Int64 // messages stamped before are the warm-up's
	clients []*client
	done    sync.WaitGroup

	mu       sync.Mutex
	receipts []time.Duration
	seen     map[uint64]bool // stamps: no two pushes have the same
	doubled  int
}

func listen(ctx context.Context, addr string) (*listening, error) {
	l := &listening{base: time.Now(), seen: map[uint64]bool{}}
	for n := range listeners {
		c, err := connect(ctx, addr, userID(n))
		if err != nil {
			l.close()
			return nil, fmt.Errorf("client %d: %w", n, err)
		}
		l.clients = append(l.clients, c)
		l.done.Go(func() { l.read(c) })
	}
	return l, nil
}

// close ends the clients and waits for them.
func (l *listening) close() {
	for _, c := range l.clients {
		c.close()
	}
	l.done.Wait()
}

// from begins a measurement: what was pushed before does not count.
func (l *listening) from(d time.Duration) { l.counts.Store(int64(d)) }

// read takes messages until the connection ends. That it ended too early
// shows in what did not arrive.
func (l *listening) read(c *client) {
	for {
		p, err := c.next()
		if err != nil {
			return
		}
		now := time.Since(l.base)
		if p.Op != transport.OpMessage || len(p.Body) != bodySize {
			continue
		}
		if p.ID != 0 {
			ack := request(kindTCP, transport.OpAck, binary.BigEndian.AppendUint64(nil, p.ID))
			if _, err := c.conn.Write(ack); err != nil && !errors.Is(err, net.ErrClosed) {
				return
			}
		}
		stamp, err := strconv.ParseInt(string(p.Body[1:1+stampSize]), 10, 64)
		if err != nil || stamp < l.counts.Load() {
			continue
		}
		l.mu.Lock()
		if l.seen[uint64(stamp)] {
			l.doubled++
		} else {
			l.seen[uint64(stamp)] = true
			l.receipts = append(l.receipts, now-time.Duration(stamp))
		}
		l.mu.Unlock()
	}
}

// take waits until want messages have arrived, and gives them out.
func (l *listening) take(want int) (receipts []time.Duration, lost, doubled int) {
	have, since := -1, time.Now()
	for {
		l.mu.Lock()
		n := len(l.receipts)
		l.mu.Unlock()
		if n != have {
			have, since = n, time.Now()
		}
		if n >= want || time.Since(since) > drainPatience {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	receipts, doubled = l.receipts, l.doubled
	l.receipts, l.doubled, l.seen = nil, 0, map[uint64]bool{}
	return receipts, max(0, want-len(receipts)), doubled
}
