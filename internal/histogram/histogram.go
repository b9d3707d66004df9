// Package histogram counts durations, for quantiles. It keeps counts, not samples; a quantile is exact to 0.8 %.
// It does not lock.
package histogram

import (
	"math/bits"
	"time"
)

// subBits sets the resolution of a Histogram to one part in 2^subBits.
const subBits = 7

// Histogram counts durations with a resolution of 0.8 %. The zero value is empty. Its
// JSON contains only the buckets in use. It is not safe for concurrent use.
type Histogram struct {
	Buckets map[int]int64 `json:"buckets,omitempty"`
	N       int64         `json:"n"`
}

// bucketOf returns the number of the bucket of d. It consists of the exponent and the
// subBits bits after the leading one.
func bucketOf(d time.Duration) int {
	v := uint64(max(d, 0))
	if v < 1<<subBits {
		return int(v)
	}
	shift := bits.Len64(v) - subBits - 1
	return (shift+1)<<subBits + int(v>>shift) - 1<<subBits
}

// valueOf returns the upper end of a bucket.
func valueOf(bucket int) time.Duration {
	shift := bucket>>subBits - 1
	if shift < 0 {
		return time.Duration(bucket)
	}
	return time.Duration((uint64(bucket&(1<<subBits-1))+1<<subBits+1)<<shift - 1)
}

// Add counts a duration. A negative one counts as 0.
func (h *Histogram) Add(d time.Duration) {
	if h.Buckets == nil {
		h.Buckets = map[int]int64{}
	}
	h.Buckets[bucketOf(d)]++
	h.N++
}

// Merge adds the counts of another histogram.
func (h *Histogram) Merge(other Histogram) {
	if h.Buckets == nil {
		h.Buckets = map[int]int64{}
	}
	for b, n := range other.Buckets {
		h.Buckets[b] += n
	}
	h.N += other.N
}

// Quantile returns the duration that a share q of all durations does not exceed. It
// returns 0 if the histogram is empty.
func (h *Histogram) Quantile(q float64) time.Duration {
	last, seen := 0, int64(0)
	for b := range h.Buckets {
		last = max(last, b)
	}
	for b := range last + 1 {
		if seen += h.Buckets[b]; seen > 0 && float64(seen) >= q*float64(h.N) {
			return valueOf(b)
		}
	}
	return 0
}
