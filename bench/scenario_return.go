//go:build linux

package bench

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"imgo/bench/load"
)

const (
	// returnWindow is the number of simultaneous connection attempts of the clients of one
	// comet when all clients come back at once.
	returnWindow = 4096
	// returnWithin bounds the time in which all clients connect.
	returnWithin = 15 * time.Minute
	// returnProfile is the length of the CPU profiles of the return, if they are wanted.
	returnProfile = 15 * time.Second
)

// reconnectAll disconnects all clients at once, and then connects as many again at once.
func (c *scaled) reconnectAll(ctx context.Context) error {
	var errs []error
	for _, h := range c.clients {
		errs = append(errs, h.stop())
	}
	c.clients = nil
	if err := errors.Join(errs...); err != nil {
		return err
	}
	before, err := c.cpuByRole()
	if err != nil {
		return err
	}
	var waits []func() error
	for _, s := range c.nodes[:min(len(c.nodes), 4)] { // one of each role
		waits = append(waits, s.server.profileCPU(ctx, c.profile, "return-"+s.role, returnProfile))
	}
	all, errs := c.connectAll()
	for _, wait := range waits {
		errs = append(errs, wait())
	}
	if err := errors.Join(errs...); err != nil {
		// The figures that were measured before remain valid.
		c.note("not all clients came back: %v", err)
		return nil
	}
	if err := c.refusals(ctx); err != nil {
		return err
	}
	after, err := c.cpuByRole()
	if err != nil {
		return err
	}
	n := float64(len(c.comets) * c.perComet)
	c.add("all come back: everyone is in after", "s", all.took.Seconds())
	c.add("all come back: to be let in, p50", "s", all.connects.Quantile(0.5).Seconds())
	c.add("all come back: to be let in, p99", "s", all.connects.Quantile(0.99).Seconds())
	c.add("all come back: refused and tried again", "", float64(all.refused))
	total := time.Duration(0)
	for _, role := range slices.Sorted(maps.Keys(after)) {
		total += after[role] - before[role]
		c.add("all come back: CPU of "+role+" a connect, the old session's end included", "µs", us(after[role]-before[role])/n)
	}
	c.add("all come back: CPU of all nodes a connect, the old session's end included", "µs", us(total)/n)
	var grid []float64
	for i := range all.admitted {
		grid = append(grid, load.Step.Seconds()*float64(i+1))
	}
	c.lineIn("return", "clients that are in", "s", "clients", grid, floats(all.admitted))
	rates := perSecond(all.admitted)
	var seconds []float64
	for i := range rates {
		seconds = append(seconds, float64(i+1))
	}
	c.lineIn("rate", "clients that are let in, all comets", "s", "clients/s", seconds, rates)
	// The first seconds are spent on making sockets, and the last one is incomplete.
	first := slices.IndexFunc(rates, func(in float64) bool { return in >= 0.01*n }) + 1
	if first > 0 && len(rates)-1 > first {
		rates = slices.Sorted(slices.Values(rates[first : len(rates)-1]))
		c.add("all come back: let in a second, the least", "1/s", rates[0])
		c.add("all come back: let in a second, the middle", "1/s", rates[len(rates)/2])
		c.add("all come back: let in a second, the most", "1/s", rates[len(rates)-1])
	}
	return nil
}

// refusals records why clients were refused, and which calls between nodes failed.
func (c *scaled) refusals(ctx context.Context) error {
	sum := make(map[string]float64)
	for _, s := range c.nodes {
		all, err := s.metrics(ctx)
		if err != nil {
			return err
		}
		for name, n := range all {
			refused := strings.HasPrefix(name, "imgo_comet_refused_total{")
			failed := strings.HasPrefix(name, "imgo_rpc_client_calls_total{") && !strings.Contains(name, `code="ok"`)
			if n > 0 && (refused || failed) {
				sum[name] += n
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(sum)) {
		c.note("since the start: %s %.0f", name, sum[name])
	}
	return nil
}

// perSecond returns the number of admitted clients in each second. in is the number of
// connected clients at the end of each load.Step.
func perSecond(in []int) (rates []float64) {
	const steps = int(time.Second / load.Step)
	last := 0
	for i := steps - 1; i < len(in)+steps-1; i += steps {
		now := in[min(i, len(in)-1)]
		rates = append(rates, float64(now-last))
		last = now
	}
	return rates
}

// connectAll connects the clients of all comets at the same time. all is the sum of their
// results.
func (c *scaled) connectAll() (all clients, errs []error) {
	type answer struct {
		h   *clients
		err error
	}
	answers := make(chan answer)
	for i := range c.comets {
		go func() {
			h, err := c.connect(i, returnWindow)
			answers <- answer{h, err}
		}()
	}
	for range c.comets {
		a := <-answers
		if errs = append(errs, a.err); a.err != nil {
			continue
		}
		c.clients = append(c.clients, a.h)
		all.took = max(all.took, a.h.took)
		all.refused += a.h.refused
		all.connects.Merge(a.h.connects)
		all.admit(a.h.admitted)
	}
	return all, errs
}
