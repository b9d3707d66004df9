//go:build linux

package bench

import (
	"fmt"
	"slices"
	"strings"
)

// targetMostWindow is the target of the scenario max-window, in deliveries a second.
const targetMostWindow = 5_000_000

// target is a bound that a figure should meet. The bounds hold for 2 cores with the
// load on the same machine, and for 10,000 connections.
type target struct {
	name string
	// of names the figure, as "scenario/name". limit names the machine's own figure for
	// comparison, if there is one.
	of, limit string
	// most or least is the bound. It applies to the figure, or to the ratio of the figure
	// and its limit if overLimit is set.
	most, least float64
	overLimit   bool
	// usual is the value of the limit in results/2026-11-24-212752-2acc6e2, when the
	// machine was neither at its fastest nor at its slowest. It is 0 if the limit was not
	// measured then. An absolute figure rises and falls with its limit.
	usual float64
	// known is the figure of comparable servers.
	known string
}

func targets() []target {
	return []target{
		{name: "resident bytes, an idle TCP connection", of: "idle-tcp/resident memory a connection, settled", most: 2000, known: "goim 28,200"},
		{name: "resident bytes, an idle WebSocket connection", of: "idle-ws/resident memory a connection, settled", most: 4500,
			known: "goim 30,400, Centrifugo 53,800"},
		{name: "CPU a delivery, TCP, 15 broadcasts/s", of: "broadcast-tcp/server CPU a delivery",
			limit: "broadcast-tcp/plain write(2), CPU a delivery", usual: 6.94, most: 1.25, overLimit: true, known: "goim 2.5 × limit"},
		{name: "CPU a delivery, WebSocket, 15 broadcasts/s", of: "broadcast-ws/server CPU a delivery",
			limit: "broadcast-ws/plain write(2), CPU a delivery", usual: 7.22, most: 1.35, overLimit: true, known: "goim 2.8, Centrifugo 2.6-4 × " +
				"limit"},
		{name: "CPU a message, 40/s, flush window 500 ms", of: "window/server CPU a message",
			limit: "window/plain write(2) of 20 messages, CPU a message", usual: 0.458, most: 1.25, overLimit: true, known: "goim 2.4, " +
				"Centrifugo 7 × limit"},
		{name: "deliveries a second without a loss", of: "max/deliveries without a loss", limit: "max/two raw writer threads, deliveries",
			usual: 154_000, least: 0.95, overLimit: true, known: "goim 180,000, Centrifugo 385,000"},
		{name: "the same with the window", of: "max-window/deliveries without a loss",
			limit: "max-window/two raw writer threads, writes of 20 messages, deliveries", least: targetMostWindow, known: "goim 3,000,000, " +
				"Centrifugo 1,340,000"},
		{name: "push to receipt in a room of 10, 40/s, p50", of: "room/push to receipt, p50",
			limit: "latency/bare HTTP server, push to answer, p50", most: 1, known: "goim 252 ms"},
		{name: "CPU a connect with auth, TCP", of: "idle-tcp/server CPU a connect, with auth",
			limit: "idle-tcp/accept, read and write alone, CPU a connect", most: 60, known: "goim 70, Centrifugo 124"},
		{name: "CPU a connect with auth, WebSocket", of: "idle-ws/server CPU a connect, with auth",
			limit: "idle-ws/accept, read and write alone, CPU a connect", most: 75, known: "goim 87, Centrifugo 124"},
		{name: "push to receipt, not kept, 250/s, p50", of: "latency/not kept, push to receipt, p50",
			limit: "latency/bare HTTP server, push to answer, p50", usual: 0.154, most: 0.25, known: "goim 0.9, Centrifugo 0.27"},
		{name: "push to receipt, not kept, 250/s, p99", of: "latency/not kept, push to receipt, p99",
			limit: "latency/bare HTTP server, push to answer, p99", usual: 0.293, most: 0.5, known: "goim 1.5, Centrifugo 0.52"},
		{name: "push to receipt, kept, p50 less a sync", of: "latency/kept p50 less one sync",
			limit: "latency/bare HTTP server, push to answer, p50", usual: 0.154, most: 0.25},
		{name: "pushes accepted, not kept, 64 callers", of: "throughput/not kept, accepted", limit: "throughput/bare HTTP server, accepted",
			usual: 61_500, least: 25_000, known: "goim 7,000, Centrifugo 19,500"},
		{name: "pushes accepted, kept, 64 callers", of: "throughput/kept, accepted", limit: "throughput/bare HTTP server, accepted",
			usual: 61_500, least: 20_000},
		{name: "CPU of a kept push with report each, over one without", of: "events/report each over no report, CPU", most: 1.6},
		{name: "reconnect and replay of 1,000, p50", of: "replay/auth to the last message, p50",
			limit: "replay/accept, read and write the same alone, auth to the last message, p50", most: 0.5, known: "Centrifugo 0.7"},
		{name: "CPU of that", of: "replay/server CPU a replay", limit: "replay/accept, read and write the same alone, CPU", most: 0.5,
			known: "Centrifugo 1.0"},
		{name: "GC pause under broadcasts, p99.9", of: "broadcast-tcp/GC pause, p99.9",
			limit: "broadcast-tcp/a bare Go process, GC pause, p99.9", most: 1, known: "goim 504 ms at a million"},
		{name: "CPU a delivery at 1,000 to 19,000 connections, most over least", of: "sizes/the dearest over the cheapest",
			limit: "sizes/plain write(2), the dearest over the cheapest", most: 1.1},
		{name: "memory added by stalled clients, over what is allowed", of: "stalled/memory added by stalled clients, over what is allowed",
			most: 1},
		{name: "p99 of reading clients, with stalled clients over without", of: "stalled/p99 of reading clients, with stalled over without",
			most: 1.5},
	}
}

// maxShare bounds verdict.Share. A result of 0 would have an infinite share, which JSON cannot hold.
const maxShare = 1000

// verdict is a target with the measured result. The arrays hold min, median and max.
type verdict struct {
	Target   string     `json:"target"`
	Bound    string     `json:"bound"`
	Unit     string     `json:"unit"`
	Measured [3]float64 `json:"measured"`
	Limit    float64    `json:"limit,omitempty"` // median of the limit
	// Ratio is measured over limit, computed within each run.
	Ratio   *[3]float64 `json:"ratio,omitempty"`
	Known   string      `json:"known,omitempty"`
	Runs    int         `json:"runs"` // 0: not measured
	Reached bool        `json:"reached"`
	of      *target     // the judged target
	// Slowdown is the cost of the limit relative to its usual cost, if that is known. On a
	// machine that is slow at the time, an absolute figure is worse by about this factor.
	Slowdown float64 `json:"slowdown,omitempty"`
	// Share is how well the target is met. It is 1 at the bound and greater if the result
	// is better.
	Share float64 `json:"share"`
}

// figureOf returns the figure "scenario/name", or nil if there is none.
func (r *report) figureOf(of string) *figure {
	scenario, name, _ := strings.Cut(of, "/")
	for _, f := range r.Figures {
		if f.Scenario == scenario && f.Name == name {
			return f
		}
	}
	return nil
}

// judge compares the figures with the targets. It leaves out the targets of scenarios
// that did not run.
func (r *report) judge(all []target) (verdicts []verdict) {
	ran := map[string]bool{}
	for _, f := range r.Figures {
		ran[f.Scenario] = true
	}
	for i := range all {
		t := &all[i]
		if scenario, _, _ := strings.Cut(t.of, "/"); !ran[scenario] {
			continue
		}
		v := verdict{Target: t.name, Known: t.known, Bound: t.bound(), of: t}
		if f := r.figureOf(t.of); f != nil {
			v.Unit, v.Runs, v.Measured = f.Unit, len(f.Runs), [3]float64{f.Min, f.Median, f.Max}
			judged := f.Median
			if l := r.figureOf(t.limit); l != nil {
				v.Limit = l.Median
				var ratios []float64
				for i := range min(len(f.Runs), len(l.Runs)) {
					ratios = append(ratios, ratio(f.Runs[i], l.Runs[i]))
				}
				v.Ratio = &[3]float64{slices.Min(ratios), median(ratios), slices.Max(ratios)}
				v.Slowdown = t.slowdown(v.Limit)
				if t.overLimit {
					judged = v.Ratio[1]
				}
			}
			if t.least > 0 {
				v.Share = judged / t.least
			} else if v.Share = maxShare; judged > 0 {
				v.Share = min(v.Share, t.most/judged)
			}
			v.Reached = v.Share >= 1
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}

// bound returns the bound as text.
func (t *target) bound() string {
	sign, n := "≤ ", t.most
	if t.least > 0 {
		sign, n = "≥ ", t.least
	}
	text := sign + grouped(int64(n))
	if n < 1000 {
		text = sign + fmt.Sprint(n)
	}
	if t.overLimit {
		text += " × limit"
	}
	return text
}

// slowdown returns the cost of a limit relative to its usual cost, or 0 if the usual cost
// is unknown.
func (t *target) slowdown(limit float64) float64 {
	if t.least > 0 {
		return ratio(t.usual, limit)
	}
	return ratio(limit, t.usual)
}

// atUsual returns what the median would be at the usual cost of the limit.
func (v *verdict) atUsual() float64 {
	if v.of.least > 0 {
		return v.Measured[1] * v.Slowdown
	}
	return v.Measured[1] / v.Slowdown
}
