//go:build linux

package bench

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"time"

	"imgo/bench/load"
)

const (
	// spareFiles is the number of files that a process opens beside its clients.
	spareFiles = 100
	// fewClients is the number of clients below which a second process is not worthwhile.
	fewClients = 500
	// quickPorts is the number of clients for which one source address has ports quickly
	// available (see load.HoldRequest.Sources). More clients use several source addresses.
	quickPorts = 14_000
	// holdTimeout bounds the connecting of all clients. It comes on top of the time in the
	// request, and is longer than the request's default of 2 minutes.
	holdTimeout = 3 * time.Minute
	// statsTimeout bounds one request for statistics to a child.
	statsTimeout = 20 * time.Second
	// politeWindow is the number of simultaneous connection attempts in scenarios that do
	// not measure connecting.
	politeWindow = 128
)

// clients are the processes that hold the clients of a scenario.
type clients struct {
	all []*child
	// took is the connecting time of the slowest process.
	took     time.Duration
	refused  int64
	connects load.Histogram
	// admitted is the number of connected clients at the end of each load.Step.
	admitted []int
	count    int
}

// mostFiles returns the number of clients that the limit of open files allows one
// process.
func mostFiles() int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil && limit.Cur > 2*spareFiles {
		return int(min(limit.Cur, 1<<20)) - spareFiles
	}
	return 1000
}

// share returns the number of clients for one process. It spreads the clients over one
// process a core, with at least fewClients in each. The limit of open files bounds it.
func share(count int) int {
	most := mostFiles()
	even := (count + runtime.NumCPU() - 1) / runtime.NumCPU()
	return min(most, max(even, fewClients))
}

// connect connects req.Count clients, for the users from req.First on. The processes that
// hold them share the window.
func (b *bench) connect(req load.HoldRequest) (*clients, error) {
	return b.connectIn(req, share(req.Count))
}

// connectIn is like connect, with each clients in one process.
func (b *bench) connectIn(req load.HoldRequest, each int) (_ *clients, err error) {
	h := &clients{count: req.Count}
	if len(req.Sources) == 0 && req.Count > quickPorts {
		for n := range (req.Count + quickPorts - 1) / quickPorts {
			req.Sources = append(req.Sources, fmt.Sprintf("127.0.0.%d", n+1))
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.stop())
		}
	}()
	processes := (req.Count + each - 1) / each
	for first := 0; first < req.Count; first += each {
		c, err := b.spawn(childHold)
		if err != nil {
			return nil, err
		}
		h.all = append(h.all, c)
	}
	for i, c := range h.all {
		part := req
		part.First, part.Count = req.First+i*each, min(each, req.Count-i*each)
		if req.Window > 0 {
			part.Window = max(1, req.Window/processes)
		}
		if err := c.send(part); err != nil {
			return nil, err
		}
	}
	for _, c := range h.all {
		var s load.Stats
		if err := c.answer(req.Within+holdTimeout, &s); err != nil {
			return nil, err
		}
		if s.Error != "" {
			return nil, fmt.Errorf("connect %d %s clients: %s", req.Count, req.Kind, s.Error)
		}
		h.took = max(h.took, s.Took)
		h.refused += s.Refused
		h.connects.Merge(s.Connects)
		h.admit(s.Admitted)
	}
	return h, nil
}

// admit adds the timeline of one process. After its end, a timeline continues with its
// last value.
func (h *clients) admit(line []int) {
	n := max(len(line), len(h.admitted))
	at := func(line []int, i int) int {
		if len(line) == 0 {
			return 0
		}
		return line[min(i, len(line)-1)]
	}
	sum := make([]int, n)
	for i := range sum {
		sum[i] = at(line, i) + at(h.admitted, i)
	}
	h.admitted = sum
}

// stats returns the sum of the counts of all processes. Its latencies are those since
// the previous call.
func (h *clients) stats() (sum load.Stats, err error) {
	for _, c := range h.all {
		if err := c.send(struct{}{}); err != nil {
			return sum, err
		}
	}
	for _, c := range h.all {
		var s load.Stats
		if err := c.answer(statsTimeout, &s); err != nil {
			return sum, err
		}
		sum.Packets += s.Packets
		sum.Bytes += s.Bytes
		sum.Reads += s.Reads
		sum.Closed += s.Closed
		sum.Acks += s.Acks
		sum.AcksLost += s.AcksLost
		sum.Latency.Merge(s.Latency)
	}
	return sum, nil
}

// waitFor polls until enough returns true, or until nothing new has arrived for
// quietLimit. The result has all latencies that were measured meanwhile.
func (h *clients) waitFor(quietLimit time.Duration, enough func(load.Stats) bool) (load.Stats, error) {
	last, since := int64(-1), time.Now()
	var latency load.Histogram
	for {
		s, err := h.stats()
		latency.Merge(s.Latency)
		s.Latency = latency
		if err != nil || enough(s) || s.Bytes+s.Closed == last && time.Since(since) > quietLimit {
			return s, err
		}
		if s.Bytes+s.Closed != last {
			last, since = s.Bytes+s.Closed, time.Now()
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// awaitQuiet waits until nothing arrives any more.
func (h *clients) awaitQuiet() (load.Stats, error) {
	return h.waitFor(quiet, func(load.Stats) bool { return false })
}

func (h *clients) stop() error {
	for _, c := range h.all {
		_ = c.in.Close() // so that all end at the same time; stop reports an error
	}
	var errs []error
	for _, c := range h.all {
		errs = append(errs, c.stop())
	}
	return errors.Join(errs...)
}
