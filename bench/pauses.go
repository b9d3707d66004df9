//go:build linux

package bench

import (
	"context"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"imgo/bench/load"
)

const (
	// pauseFor is how long garbage is collected repeatedly under load.
	pauseFor = 3 * time.Second
	// pauseRing is the number of pauses that the Go runtime remembers. pauseLook is the
	// number of collections between two readings, small enough that none is missed.
	pauseRing = 256
	pauseLook = 64
)

// collections are the garbage collections of a server as its Go runtime reports them.
type collections struct {
	count  int
	recent []time.Duration // the last pauseRing pauses, the newest last
}

// since returns the pauses after collection number before. It returns only those that
// the ring still holds.
func (c *collections) since(before int) []time.Duration {
	return c.recent[len(c.recent)-min(c.count-before, len(c.recent)):]
}

// collections returns the number of collections and the pause of each, in nanoseconds.
// A pause is the sum of both stops of one collection. The metrics would only give a
// histogram whose buckets differ by a factor of ten.
func (s *server) collections(ctx context.Context) (c collections, err error) {
	text, err := s.get(ctx, "/debug/pprof/heap?debug=1")
	if err != nil {
		return c, err
	}
	return parseCollections(string(text))
}

// parseCollections parses runtime.MemStats in the text format of net/http/pprof.
func parseCollections(text string) (c collections, err error) {
	c.count = -1
	var ring []time.Duration
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, "# NumGC = "); ok {
			c.count, err = strconv.Atoi(strings.TrimSpace(v))
		} else if v, ok := strings.CutPrefix(line, "# PauseNs = ["); ok {
			for _, f := range strings.Fields(strings.TrimRight(v, "]\n")) {
				n, e := strconv.ParseInt(f, 10, 64)
				ring, err = append(ring, time.Duration(n)), errors.Join(err, e)
			}
		}
	}
	if err != nil || c.count < 0 || len(ring) != pauseRing {
		return c, errors.Join(errors.New("the heap profile does not say how long collections paused"), err)
	}
	for n := max(0, c.count-pauseRing); n < c.count; n++ {
		c.recent = append(c.recent, ring[n%pauseRing])
	}
	return c, nil
}

// pauseTimes returns the number of broadcasts during the repeated collections.
func (t *trial) pauseTimes() int {
	return max(1, int(min(pauseFor, t.duration).Seconds()*float64(t.broadcasts)))
}

// pausesOnOne measures pauses with GOMAXPROCS=1. Then a pause never waits for a thread
// that the kernel has suspended in favour of a client.
func pausesOnOne(ctx context.Context, t *trial) error {
	return t.broadcastTo(ctx, load.TCP, t.conns, serverOptions{env: []string{"GOMAXPROCS=1"}}, func(f *fleet) error {
		if _, err := f.broadcast(ctx, float64(t.broadcasts), warmBroadcasts, drainTimeout); err != nil {
			return err
		}
		_, err := f.pauses(ctx, "GC pause with GOMAXPROCS=1")
		return err
	})
}

// pauses runs garbage collections under the load of broadcasts and records the pauses.
// every is the mean time between two collections.
func (f *fleet) pauses(ctx context.Context, name string) (every time.Duration, err error) {
	before, err := f.collections(ctx)
	if err != nil {
		return 0, err
	}
	var all []time.Duration
	seen := before.count
	look := func() error {
		now, err := f.collections(ctx)
		all, seen = append(all, now.since(seen)...), now.count
		return err
	}
	until := min(pauseFor, f.duration)
	done := make(chan error, 1)
	go func() {
		for begun, n := time.Now(), 1; time.Since(begun) < until && ctx.Err() == nil; n++ {
			err := f.collect(ctx)
			if err == nil && n%pauseLook == 0 {
				err = look()
			}
			if err != nil {
				done <- err
				return
			}
		}
		done <- look()
	}()
	_, err = f.broadcast(ctx, float64(f.broadcasts), f.pauseTimes(), drainTimeout)
	if err := errors.Join(err, <-done); err != nil {
		return 0, err
	}
	if len(all) == 0 {
		return 0, errors.New("no garbage was collected")
	}
	f.recorder.pauses(name, all, false)
	return until / time.Duration(len(all)), nil
}

// pauses records p50 and p99.9 of the pauses, which may be in any order.
func (r *recorder) pauses(name string, all []time.Duration, limit bool) {
	if len(all) == 0 {
		return
	}
	slices.Sort(all)
	at := func(q float64) float64 { return ms(all[int(math.Ceil(q*float64(len(all))))-1]) }
	r.put(name+", p50", "ms", at(0.5), limit)
	r.put(name+", p99.9", "ms", at(0.999), limit)
}
