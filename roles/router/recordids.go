package router

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// recordIDsKept is how many record ids a partition remembers at least. It holds up to
	// twice as many while they are enough.
	recordIDsKept = 1 << 14
	// recordIDsMost bounds each of the two maps: about 2.5 MB.
	recordIDsMost = 1 << 16
)

// recordIDs are the ids of the records that were applied lately, with their
// offsets: of those that may still be repeated, by the log's clock. They are for one
// goroutine at a time.
type recordIDs struct {
	newer, older map[[12]byte]int64
	// sinceMS is when the first record in newer was appended, Unix milliseconds.
	sinceMS int64
	// repeats is Config.Repeats. forgotten counts ids that recordIDsMost has cost.
	repeats   time.Duration
	forgotten prometheus.Counter
}

// repeated remembers the id of a record that was appended at a time. It reports whether another
// record of the partition had the id before.
func (r *recordIDs) repeated(recordID []byte, offset, timeMS int64) bool {
	if len(recordID) != 12 {
		return false
	}
	id := [12]byte(recordID)
	first, ok := r.newer[id]
	if !ok {
		first, ok = r.older[id]
	}
	if ok {
		return first != offset
	}
	r.makeRoom(timeMS)
	r.newer[id] = offset
	return false
}

// makeRoom forgets the older ids if all of them are from so long ago that none is repeated, or if there are
// too many.
func (r *recordIDs) makeRoom(timeMS int64) {
	n, over := len(r.newer), timeMS-r.sinceMS >= r.repeats.Milliseconds()
	switch {
	case n > 0 && n < recordIDsKept, n > 0 && n < recordIDsMost && !over:
		return
	case !over:
		r.forgotten.Add(float64(len(r.older)))
	}
	r.older, r.newer, r.sinceMS = r.newer, make(map[[12]byte]int64), timeMS
}
