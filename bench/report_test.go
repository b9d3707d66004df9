//go:build linux

package bench

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"imgo/internal/process"
)

func TestFigures(t *testing.T) {
	if got := median([]float64{9, 1, 5}); got != 5 {
		t.Errorf("the median of three is %g", got)
	}
	if got := median([]float64{9, 1}); got != 5 {
		t.Errorf("the median of two is %g", got)
	}
	for v, want := range map[float64]string{0: "0", 0.1234: "0.123", 1.234: "1.23", 12.34: "12.3", 123.4: "123", 1234.5: "1,230",
		1234567: "1,230,000", -98765: "-98,800"} {
		if got := digits(v); got != want {
			t.Errorf("%g is written %s, want %s", v, got, want)
		}
	}
	r := &report{}
	(&recorder{report: r}).pauses("pause", []time.Duration{3e6, 1e6, 2e6}, true)
	if got := []float64{r.figureOf("/pause, p50").Runs[0], r.figureOf("/pause, p99.9").Runs[0]}; got[0] != 2 || got[1] != 3 {
		t.Errorf("the quantiles of 1, 2 and 3 ms are %g", got)
	}
}

// TestCollections checks that only the new pauses of the ring are returned.
func TestCollections(t *testing.T) {
	text := func(count int, ring string) string {
		return "heap profile: 1: 2\n# GCSys = 5\n# NumGC = " + fmt.Sprint(count) + "\n# PauseNs = [" + ring + "]\n"
	}
	ring := make([]string, pauseRing)
	for i := range ring {
		ring[i] = fmt.Sprint(i)
	}
	whole := strings.Join(ring, " ")
	for _, test := range []struct {
		count, before int
		want          []time.Duration
	}{
		{3, 3, nil}, {3, 1, []time.Duration{1, 2}}, {258, 255, []time.Duration{255, 0, 1}},
	} {
		c, err := parseCollections(strings.Replace(text(test.count, whole), "# NumGC", "# Frees = 1\n# NumGC", 1))
		if got := c.since(test.before); err != nil || !slices.Equal(got, test.want) {
			t.Errorf("of %d collections those after %d paused %v, %v; want %v", test.count, test.before, got, err, test.want)
		}
	}
	if c, err := parseCollections(text(1000, whole)); err != nil || len(c.since(0)) != pauseRing {
		t.Errorf("%d pauses are known of 1000, %v", len(c.since(0)), err)
	}
	for _, bad := range []string{"", text(1, "1 2 3"), text(1, "x"+whole), strings.Replace(text(1, whole), "NumGC", "Num", 1)} {
		if _, err := parseCollections(bad); err == nil {
			t.Errorf("%.60q is taken for the pauses of collections", bad)
		}
	}
}

// TestTargets checks that judge uses the median, and the ratio to the limit within
// each run if the target has a limit.
func TestTargets(t *testing.T) {
	r := &report{}
	for _, run := range [][4]float64{{10, 8, 100, 3}, {30, 10, 90, 5}, {12, 10, 50, 4}} {
		rec := &recorder{report: r, scenario: "s"}
		rec.add("cost", "µs", run[0])
		rec.limit("plain", "µs", run[1])
		rec.add("rate", "1/s", run[2])
		rec.add("bytes", "bytes", run[3])
		rec.add("nonsense", "", math.NaN())
	}
	all := []target{
		{name: "cost", of: "s/cost", limit: "s/plain", most: 1.25, overLimit: true},
		{name: "cost, harder", of: "s/cost", limit: "s/plain", most: 1.2, overLimit: true},
		{name: "rate", of: "s/rate", least: 90},
		{name: "rate, harder", of: "s/rate", least: 1000},
		{name: "bytes", of: "s/bytes", most: 4},
		{name: "missing", of: "s/missing", most: 1},
		{name: "not run", of: "other/x", most: 1},
	}
	r.finish()
	r.Verdicts = r.judge(all)
	want := []struct {
		reached bool
		share   float64
	}{{true, 1}, {false, 0.96}, {true, 1}, {false, 0.09}, {true, 1}, {false, 0}}
	if len(r.Verdicts) != len(want) || len(r.Notes) != 3 {
		t.Fatalf("%d verdicts, notes %q", len(r.Verdicts), r.Notes)
	}
	for i, w := range want {
		if v := r.Verdicts[i]; v.Reached != w.reached || math.Abs(v.Share-w.share) > 1e-9 {
			t.Errorf("%s: reached %t, share %g, want %t, %g", v.Target, v.Reached, v.Share, w.reached, w.share)
		}
	}
	if v := r.Verdicts[0]; *v.Ratio != [3]float64{1.2, 1.25, 3} || v.Limit != 10 || v.Measured != [3]float64{10, 12, 30} {
		t.Errorf("the first is %+v", v)
	}
	table := r.table()
	for _, want := range []string{
		"3 of 6 targets fall short", "- cost, harder: 1.25 × limit, target ≤ 1.2 × limit", "- rate, harder: 90.0 1/s, target ≥ 1,000",
		"- missing: not measured", "  | plain ", "\ns\n",
	} {
		if !strings.Contains(table, want) {
			t.Errorf("the table has no %q:\n%s", want, table)
		}
	}
	if len(r.plots()) != 1 {
		t.Errorf("%d plots", len(r.plots()))
	}
}

// TestTargetsAreMeasured checks that every target names an existing scenario.
func TestTargetsAreMeasured(t *testing.T) {
	for _, tt := range targets() {
		found := false
		scenario, name, _ := strings.Cut(tt.of, "/")
		for _, s := range scenarios() {
			found = found || s.name == scenario && name != ""
		}
		if !found || (tt.most > 0) == (tt.least > 0) || (tt.overLimit || tt.usual > 0) && tt.limit == "" {
			t.Errorf("target %+v", tt)
		}
	}
}

// TestSlowdown checks that an absolute figure is also shown as scaled to the usual speed
// of the limit. The scaling must not change a verdict.
func TestSlowdown(t *testing.T) {
	r := &report{}
	rec := &recorder{report: r, scenario: "s"}
	rec.add("time", "ms", 0.4)
	rec.add("rate", "1/s", 900)
	rec.limit("bare time", "ms", 0.3)
	rec.limit("bare rate", "1/s", 2000)
	r.finish()
	r.Verdicts = r.judge([]target{
		{name: "time", of: "s/time", limit: "s/bare time", usual: 0.15, most: 0.25},
		{name: "time, no usual", of: "s/time", limit: "s/bare time", most: 0.25},
		{name: "time, as usual", of: "s/time", limit: "s/bare time", usual: 0.29, most: 0.25},
		{name: "rate", of: "s/rate", limit: "s/bare rate", usual: 4000, least: 1000},
	})
	for i, slowdown := range []float64{2, 0, 0.3 / 0.29, 2} {
		if v := r.Verdicts[i]; v.Reached || math.Abs(v.Slowdown-slowdown) > 1e-9 {
			t.Errorf("%s: reached %t, slowdown %g, want %g", v.Target, v.Reached, v.Slowdown, slowdown)
		}
	}
	const slow = "; the machine's own limit is 2.00 × what it usually is, at which this would be "
	table := r.table()
	for _, want := range []string{
		"- time: 0.400 ms, target ≤ 0.25" + slow + "0.200\n", "- time, no usual: 0.400 ms, target ≤ 0.25\n",
		"- time, as usual: 0.400 ms, target ≤ 0.25\n", "- rate: 900 1/s, target ≥ 1,000" + slow + "1,800\n",
		"The machine was slow: its own limits were 2.00 × what they usually are.",
	} {
		if !strings.Contains(table, want) {
			t.Errorf("the table has no %q:\n%s", want, table)
		}
	}
}

// TestNarrow checks that the search converges for limits of any size.
func TestNarrow(t *testing.T) {
	for _, limit := range []float64{0.3, 1, 3, 70, 900} {
		low, high, rate := 0.0, math.Inf(1), 1.0
		for range probes {
			low, high, rate = nextProbe(low, high, rate, rate <= limit)
		}
		if low > limit || high <= limit || low < limit/1.4 {
			t.Errorf("a limit of %g is found between %g and %g", limit, low, high)
		}
	}
}

func TestAdmit(t *testing.T) {
	var h clients
	h.admit([]int{1, 3})
	h.admit([]int{0, 2, 4, 7})
	h.admit(nil)
	if got := h.admitted; len(got) != 4 || got[0] != 1 || got[1] != 5 || got[2] != 7 || got[3] != 10 {
		t.Errorf("admitted %v", got)
	}
}

func TestShare(t *testing.T) {
	for _, n := range []int{1, 499, 10_000, 200_000} {
		if s := share(n); s < 1 || s > 1<<20 {
			t.Errorf("of %d clients a process holds %d", n, s)
		}
	}
}

func TestSizesUpTo(t *testing.T) {
	for most, want := range map[int]string{1: "[1]", 2: "[1 2]", 11: "[1 2 4 7 10 11]"} {
		if got := fmt.Sprint(sizesUpTo(most)); got != want {
			t.Errorf("up to %d: %s, want %s", most, got, want)
		}
	}
}

func TestProc(t *testing.T) {
	rss, err := rssOf(os.Getpid())
	if err != nil || rss < 1<<20 || rss > 1<<34 {
		t.Errorf("resident memory %d, %v", rss, err)
	}
	before, err := process.CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for begun := time.Now(); time.Since(begun) < 30*time.Second; {
		if now, err := process.CPU(os.Getpid()); err != nil || now > before {
			break
		}
	}
	if now, err := process.CPU(os.Getpid()); err != nil || now <= before {
		t.Errorf("CPU time does not grow: %s, %v", now, err)
	}
	if m := describeMachine(); m.Cores < 1 || m.Memory == 0 || m.Kernel == "" {
		t.Errorf("the machine is %+v", m)
	}
	if _, slab := kernelMemory(); slab == 0 {
		t.Error("the kernel has no slab")
	}
}
