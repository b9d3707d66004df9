package histogram

import (
	"encoding/json"
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	for d := time.Duration(0); d < time.Hour; d = d*9/8 + 1 {
		if up := valueOf(bucketOf(d)); up < d || up > d+d/128+1 {
			t.Fatalf("%d counts as %d", d, up)
		}
		if bucketOf(d+1) < bucketOf(d) {
			t.Fatalf("%d is in a lower bucket than %d", d+1, d)
		}
	}
	var a, b Histogram
	for d := range time.Duration(100) {
		a.Add(d + 1)
	}
	b.Add(-5)
	b.Add(time.Second)
	a.Merge(b)
	data, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	var h Histogram
	if err := json.Unmarshal(data, &h); err != nil || h.N != 102 {
		t.Fatalf("%d, %v", h.N, err)
	}
	for q, want := range map[float64]time.Duration{0: 0, 0.5: 50, 1: valueOf(bucketOf(time.Second))} {
		if got := h.Quantile(q); got != want {
			t.Errorf("quantile %g is %d, want %d", q, got, want)
		}
	}
	var none Histogram
	if none.Quantile(0.5) != 0 {
		t.Error("of nothing there is a quantile")
	}
}
