//go:build linux

package bench

import (
	"context"
	"errors"
	"time"

	"imgo/bench/limit"
	"imgo/bench/load"
	"imgo/internal/process"
)

// trial is one run of one scenario: it starts what the scenario needs, and records the figures.
type trial struct {
	*bench
	*recorder
}

// fleet is a running imgo with connected clients.
type fleet struct {
	*trial
	*server
	*clients
}

// serving runs do with an imgo for clients of a kind, and ends it afterwards.
func (t *trial) serving(ctx context.Context, kind string, o serverOptions, do func(*server) error) (err error) {
	s, err := t.serveFor(ctx, kind, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	return do(s)
}

// withClients runs do with connected clients, and ends them afterwards.
func (t *trial) withClients(req load.HoldRequest, do func(*clients) error) (err error) {
	h, err := t.connect(req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	return do(h)
}

// connected runs do with an imgo and clients that are connected to it, and ends both afterwards.
func (t *trial) connected(ctx context.Context, o serverOptions, req load.HoldRequest, do func(*fleet) error) error {
	return t.serving(ctx, req.Kind, o, func(s *server) error {
		req.Addr = s.addr(req.Kind)
		return t.withClients(req, func(h *clients) error { return do(&fleet{t, s, h}) })
	})
}

// listening runs do with a child that listens, and ends the child afterwards. The requests are those that must precede
// the first connection.
func (t *trial) listening(kind string, do func(c *child, addr string) error, requests ...any) (err error) {
	c, err := t.spawn(kind)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	for _, request := range requests {
		if err := c.send(request); err != nil {
			return err
		}
	}
	var a limit.Addr
	if err := c.answer(statsTimeout, &a); err != nil {
		return err
	}
	return do(c, a.Addr)
}

// times returns the number of calls at a rate within one measurement.
func (t *trial) times(rate float64) int { return max(1, int(t.duration.Seconds()*rate)) }

// cpuOf returns the CPU time that a process uses while do runs.
func cpuOf(pid int, do func() error) (time.Duration, error) {
	before, err := process.CPU(pid)
	if err != nil {
		return 0, err
	}
	if err := do(); err != nil {
		return 0, err
	}
	after, err := process.CPU(pid)
	return after - before, err
}
