//go:build linux

package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"imgo/bench/load"
	"imgo/bench/machine"
)

// figure is one number that is measured in each run.
type figure struct {
	Scenario string `json:"scenario"`
	Name     string `json:"name"`
	Unit     string `json:"unit"`
	// Limit reports whether the figure is a limit of the machine, and not a figure of
	// imgo.
	Limit  bool      `json:"limit,omitempty"`
	Runs   []float64 `json:"runs"`
	Min    float64   `json:"min"`
	Median float64   `json:"median"`
	Max    float64   `json:"max"`
}

// series is one line of a plot, from one run.
type series struct {
	Scenario string    `json:"scenario"`
	Name     string    `json:"name"`
	XUnit    string    `json:"x_unit"`
	YUnit    string    `json:"y_unit"`
	X        []float64 `json:"x"`
	Y        []float64 `json:"y"`
}

// report is everything that one invocation measured.
type report struct {
	Date    time.Time   `json:"date"`
	Seconds float64     `json:"seconds"`
	Commit  string      `json:"commit"`
	Changed bool        `json:"uncommitted_changes"`
	Machine machineInfo `json:"machine"`
	// Imgo is the version that the measured executable prints.
	Imgo    string `json:"imgo"`
	Options struct {
		Runs       int     `json:"runs"`
		Duration   float64 `json:"duration_seconds"`
		Conns      int     `json:"conns"`
		Callers    int     `json:"callers"`
		Users      int     `json:"users"`
		Rate       int     `json:"rate"`
		Broadcasts int     `json:"broadcasts"`
		Profiled   bool    `json:"profiled,omitempty"`
	} `json:"options"`
	Verdicts []verdict `json:"targets"`
	Figures  []*figure `json:"figures"`
	Series   []series  `json:"series,omitempty"`
	// Notes describe everything that did not go as it should.
	Notes []string `json:"notes,omitempty"`
}

func newReport(ctx context.Context, b *bench) *report {
	r := &report{Date: time.Now().UTC().Truncate(time.Second), Machine: describeMachine()}
	r.Options.Runs, r.Options.Duration, r.Options.Conns = b.runs, b.duration.Seconds(), b.conns
	r.Options.Callers, r.Options.Users, r.Options.Rate = b.callers, b.users, b.rate
	r.Options.Broadcasts, r.Options.Profiled = b.broadcasts, b.profile != ""
	r.Imgo = b.imgo
	r.Commit, r.Changed = machine.Commit(ctx)
	if out, err := exec.CommandContext(ctx, b.imgo, "version").Output(); err == nil {
		r.Imgo = strings.TrimSpace(string(out))
	}
	return r
}

// recorder adds the figures of one scenario to a report.
type recorder struct {
	report   *report
	scenario string
}

// add records a figure of this run.
func (r *recorder) add(name, unit string, value float64) { r.put(name, unit, value, false) }

// limit records a limit of the machine.
func (r *recorder) limit(name, unit string, value float64) { r.put(name, unit, value, true) }

func (r *recorder) put(name, unit string, value float64, limit bool) {
	if math.IsNaN(value) || math.IsInf(value, 0) {
		r.note("%s is no number: %g", name, value)
		return
	}
	for _, f := range r.report.Figures {
		if f.Scenario == r.scenario && f.Name == name && f.Unit == unit {
			f.Runs = append(f.Runs, value)
			return
		}
	}
	f := &figure{Scenario: r.scenario, Name: name, Unit: unit, Limit: limit, Runs: []float64{value}}
	// The figures of one scenario stay together, whatever the order of the runs.
	at := len(r.report.Figures)
	for i, other := range r.report.Figures {
		if other.Scenario == r.scenario {
			at = i + 1
		}
	}
	r.report.Figures = slices.Insert(r.report.Figures, at, f)
}

// others records how much of the machine other processes used.
func (r *recorder) others(share float64) {
	r.limit("the machine, busy with something else", "%", 100*share)
}

func (r *recorder) note(format string, args ...any) {
	r.report.Notes = append(r.report.Notes, r.scenario+": "+fmt.Sprintf(format, args...))
}

// percentiles records p50, p99 and the maximum of durations.
func (r *recorder) percentiles(name string, all *load.Histogram, limit bool) {
	r.put(name+", p50", "ms", ms(all.Quantile(0.50)), limit)
	r.put(name+", p99", "ms", ms(all.Quantile(0.99)), limit)
	r.put(name+", max", "ms", ms(all.Quantile(1)), limit)
}

// line records a line of a plot. It replaces the line of an earlier run.
func (r *recorder) line(name, xUnit, yUnit string, x, y []float64) {
	s := series{Scenario: r.scenario, Name: name, XUnit: xUnit, YUnit: yUnit, X: x, Y: y}
	for i, old := range r.report.Series {
		if old.Scenario == s.Scenario && old.Name == s.Name {
			r.report.Series[i] = s
			return
		}
	}
	r.report.Series = append(r.report.Series, s)
}

// ratio returns a/b, or 0 if b is 0.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// median returns the middle value, or the mean of the two middle values.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// finish computes the summaries and verdicts after the last run.
func (r *report) finish() {
	r.Seconds = math.Round(time.Since(r.Date).Seconds())
	for _, f := range r.Figures {
		f.Min, f.Median, f.Max = slices.Min(f.Runs), median(f.Runs), slices.Max(f.Runs)
	}
	r.Verdicts = r.judge(targets())
}

// digits returns v with three significant digits.
func digits(v float64) string {
	a := math.Abs(v)
	switch {
	case a >= 1000:
		round := math.Pow(10, math.Floor(math.Log10(a))-2)
		return grouped(int64(math.Round(v/round) * round))
	case a >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a >= 1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case a == 0:
		return "0"
	}
	return strconv.FormatFloat(v, 'f', 3, 64)
}

// grouped returns n with commas: 1,234,567 for 1234567.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	from := 0
	if n < 0 {
		from = 1
	}
	for i := len(s) - 3; i > from; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// write prints the report, and stores it in the folder that the options name.
func (b *bench) write(r *report, stdout io.Writer) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	data = append(data, '\n')
	table := r.table()
	var errs []error
	if b.json == "-" {
		_, err = stdout.Write(data)
	} else {
		_, err = io.WriteString(stdout, table)
	}
	errs = append(errs, err)
	if b.json != "" && b.json != "-" {
		errs = append(errs, os.WriteFile(b.json, data, 0o644))
	}
	if b.out != "" {
		name := filepath.Join(b.out, r.Date.Format("2006-01-02-150405")+"-"+r.Commit)
		errs = append(errs, os.MkdirAll(b.out, 0o755), os.WriteFile(name+".json", data, 0o644), os.WriteFile(name+".txt", []byte(table), 0o644))
		for plot, svg := range r.plots() {
			errs = append(errs, os.WriteFile(name+"-"+plot+".svg", svg, 0o644))
		}
		b.say("written: %s.txt, .json and plots", name)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// machineInfo describes the machine on which the figures were measured.
type machineInfo struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory int64  `json:"memory_bytes"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
	Load   string `json:"load_average_before"`
}

func (m machineInfo) String() string {
	return fmt.Sprintf("%s, %d cores, %.0f GiB, Linux %s, %s, load %s", m.CPU, m.Cores, float64(m.Memory)/(1<<30), m.Kernel, m.Go, m.Load)
}

// describeMachine reads the description of this machine. It omits what it cannot read.
func describeMachine() machineInfo {
	m := machineInfo{CPU: machine.Processor(), Cores: runtime.NumCPU(), Go: runtime.Version()}
	m.Memory = kiloField(readText("/proc/meminfo"), "MemTotal")
	m.Kernel = strings.TrimSpace(readText("/proc/sys/kernel/osrelease"))
	if load := strings.Fields(readText("/proc/loadavg")); len(load) > 2 {
		m.Load = strings.Join(load[:3], " ")
	}
	return m
}
