//go:build linux

package main

import (
	"errors"
	"fmt"
	"time"
)

const (
	// perHolder is how many connections one holder has at most: the limit of
	// open files is 20,000 here and 1,024 there, and two share the work.
	perHolder = 5000
	// parallelDials is how many connections are made at a time.
	parallelDials = 32
	// holdTimeout bounds the connecting of all.
	holdTimeout = 2 * time.Minute
	// statsTimeout bounds a question to a holder.
	statsTimeout = 10 * time.Second
)

// holders are the processes that hold the clients of a scenario.
type holders struct {
	all []*child
	// seconds is how long connecting took.
	seconds float64
}

// hold connects count clients, users 0 to count-1.
func (b *bench) hold(addr, kind string, count int, ack bool) (_ *holders, err error) {
	h := &holders{}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.stop())
		}
	}()
	started := time.Now()
	for first := 0; first < count; first += perHolder {
		c, err := b.spawn(childHold)
		if err != nil {
			return nil, err
		}
		h.all = append(h.all, c)
		if err := c.tell(holdRequest{
			Addr: addr, Kind: kind, First: first, Count: min(perHolder, count-first), Ack: ack, Parallel: parallelDials,
		}); err != nil {
			return nil, err
		}
	}
	for _, c := range h.all {
		var s holdStats
		if err := c.answer(holdTimeout, &s); err != nil {
			return nil, err
		}
		if s.Error != "" {
			return nil, fmt.Errorf("connect %d %s clients: %s", count, kind, s.Error)
		}
	}
	h.seconds = time.Since(started).Seconds()
	return h, nil
}

// stats sums what all holders have counted.
func (h *holders) stats() (sum holdStats, err error) {
	for _, c := range h.all {
		var s holdStats
		if err := c.ask(statsTimeout, struct{}{}, &s); err != nil {
			return sum, err
		}
		sum.Packets += s.Packets
		sum.Bytes += s.Bytes
		sum.Closed += s.Closed
		sum.Acks += s.Acks
		sum.AcksLost += s.AcksLost
	}
	return sum, nil
}

// await waits until enough says that all has arrived that is to arrive, or for
// patience without anything new.
func (h *holders) await(patience time.Duration, enough func(holdStats) bool) (holdStats, error) {
	var last holdStats
	since := time.Now()
	for {
		s, err := h.stats()
		if err != nil || enough(s) || s == last && time.Since(since) > patience {
			return s, err
		}
		if s != last {
			last, since = s, time.Now()
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (h *holders) stop() error {
	var errs []error
	for _, c := range h.all {
		errs = append(errs, c.stop())
	}
	return errors.Join(errs...)
}
