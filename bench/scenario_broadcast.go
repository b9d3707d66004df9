//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"imgo/transport"
)

const (
	// warmBroadcasts are sent before those that count.
	warmBroadcasts = 5
	// writeTimeout bounds the limit's work beyond the time that it should take.
	writeTimeout = time.Minute
)

// broadcast measures the server's CPU for each delivery of pushes to everyone,
// beside a thread that writes the same bytes to as many sockets at the same
// rate.
func (b *bench) broadcast(ctx context.Context, r *recorder, kind string) error {
	times := max(1, int(b.duration.Seconds()*float64(b.broadcasts)))
	every := time.Second / time.Duration(b.broadcasts)
	cost, err := b.broadcastImgo(ctx, r, kind, times, every)
	if err != nil {
		return err
	}
	limit, err := b.broadcastLimit(r, kind, times, every)
	if err != nil {
		return err
	}
	r.add("server CPU a delivery", "µs", cost)
	r.limit("plain write(2), CPU a delivery", "µs", limit)
	if limit > 0 {
		r.add("server CPU over that of plain writes", "×", cost/limit)
	}
	return nil
}

// broadcastImgo is imgo's CPU a delivery, in µs.
func (b *bench) broadcastImgo(ctx context.Context, r *recorder, kind string, times int, every time.Duration) (cost float64, err error) {
	s, err := b.serve(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	addr := s.tcp
	if kind == kindWS {
		addr = s.ws
	}
	h, err := b.hold(addr, kind, b.conns, true)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	caller, err := dialCaller(ctx, s.http)
	if err != nil {
		return 0, err
	}
	defer caller.close()
	want := int64(0)
	send := func(times int) error {
		c := broadcastCall()
		begun := time.Now()
		for n := range times {
			sleep(ctx, time.Until(begun.Add(time.Duration(n)*every)))
			ok, why, err := caller.do(c.bytes)
			if err == nil && !ok {
				err = errors.New(why)
			}
			if err != nil {
				return fmt.Errorf("broadcast: %w", err)
			}
			want += int64(b.conns)
		}
		return ctx.Err()
	}
	all := func(s holdStats) bool { return s.Packets >= want }
	if err := send(warmBroadcasts); err != nil {
		return 0, err
	}
	warm, err := h.await(drainPatience, all)
	if err != nil {
		return 0, err
	}
	before, err := cpuOf(s.pid())
	if err != nil {
		return 0, err
	}
	wait := b.profileCPU(ctx, s, "broadcast-"+kind, time.Duration(times)*every)
	begun := time.Now()
	if err := errors.Join(send(times), wait()); err != nil {
		return 0, err
	}
	got, err := h.await(drainPatience, all)
	if err != nil {
		return 0, err
	}
	seconds := time.Since(begun).Seconds()
	after, err := cpuOf(s.pid())
	if err != nil {
		return 0, err
	}
	if lost := want - got.Packets; lost != 0 || got.Closed > 0 {
		r.note("of %d deliveries %d were lost; %d of %d clients were disconnected", want, lost, got.Closed, b.conns)
	}
	delivered := got.Packets - warm.Packets
	if delivered <= 0 {
		return 0, errors.New("nothing was delivered")
	}
	r.add("deliveries", "1/s", float64(delivered)/seconds)
	return us(after-before) / float64(delivered), nil
}

// broadcastLimit is the CPU of plain writes, in µs each.
func (b *bench) broadcastLimit(r *recorder, kind string, times int, every time.Duration) (cost float64, err error) {
	w, addr, err := b.limit(childWriter)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, w.stop()) }()
	ask := func(req writeRequest) (reply writeReply, err error) {
		err = w.ask(writeTimeout+time.Duration(req.Times)*req.Every, req, &reply)
		if err == nil && reply.Error != "" {
			err = errors.New(reply.Error)
		}
		return reply, err
	}
	// It accepts while the holders connect; the answer is read after that.
	if err := w.tell(writeRequest{Accept: b.conns}); err != nil {
		return 0, err
	}
	h, err := b.hold(addr, kindRaw, b.conns, false)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	var accepted writeReply
	if err := w.answer(writeTimeout, &accepted); err != nil {
		return 0, err
	}
	if accepted.Error != "" {
		return 0, errors.New(accepted.Error)
	}
	payload := transport.AppendPacket(nil, transport.Version2, transport.HeaderV2, transport.OpMessage, 0, 0, []byte("hi"))
	if kind == kindWS {
		payload = append([]byte{0x82, byte(len(payload))}, payload...)
	}
	if _, err := ask(writeRequest{Times: warmBroadcasts, Every: every, Payload: payload}); err != nil {
		return 0, err
	}
	before, err := cpuOf(w.pid())
	if err != nil {
		return 0, err
	}
	done, err := ask(writeRequest{Times: times, Every: every, Payload: payload})
	if err != nil {
		return 0, err
	}
	after, err := cpuOf(w.pid())
	if err != nil {
		return 0, err
	}
	if done.Short > 0 {
		r.note("%d of %d plain writes found no room", done.Short, done.Writes)
	}
	return us(after-before) / float64(done.Writes), nil
}
