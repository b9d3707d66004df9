//go:build linux

package load

import (
	"math/bits"
	"time"
)

// subBits is how finely a Histogram tells values apart: to a part in 2^subBits.
const subBits = 7

// Histogram counts durations, each to within 0.8 %. The zero value is empty.
// As JSON it holds only the buckets that are in use. Not safe for concurrent use.
type Histogram struct {
	Buckets map[int]int64 `json:"buckets,omitempty"`
	N       int64         `json:"n"`
}

// bucketOf is a bucket's number: the exponent and the bits after the first one.
func bucketOf(d time.Duration) int {
	v := uint64(max(d, 0))
	if v < 1<<subBits {
		return int(v)
	}
	shift := bits.Len64(v) - subBits - 1
	return (shift+1)<<subBits + int(v>>shift) - 1<<subBits
}

// valueOf is a bucket's upper end.
func valueOf(bucket int) time.Duration {
	shift := bucket>>subBits - 1
	if shift < 0 {
		return time.Duration(bucket)
	}
	return time.Duration((uint64(bucket&(1<<subBits-1))+1<<subBits+1)<<shift - 1)
}

// Add counts a duration; a negative one as 0.
func (h *Histogram) Add(d time.Duration) {
	if h.Buckets == nil {
		h.Buckets = map[int]int64{}
	}
	h.Buckets[bucketOf(d)]++
	h.N++
}

// Merge counts what another has counted.
func (h *Histogram) Merge(other Histogram) {
	if h.Buckets == nil {
		h.Buckets = map[int]int64{}
	}
	for b, n := range other.Buckets {
		h.Buckets[b] += n
	}
	h.N += other.N
}

// Quantile is what share q of the durations do not exceed; 0 of none.
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
