//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"imgo/bench/load"
)

// scenario is one measurement. run performs it once and records its figures.
type scenario struct {
	name string
	what string
	// extra scenarios run only when they are named on the command line.
	extra bool
	// once scenarios take long, so only the first run includes them.
	once bool
	run  func(context.Context, *trial) error
}

// on returns run bound to one kind of connection.
func on(kind string, run func(context.Context, *trial, string) error) func(context.Context, *trial) error {
	return func(ctx context.Context, t *trial) error { return run(ctx, t, kind) }
}

func scenarios() []scenario {
	return []scenario{
		{name: "idle-tcp", what: "memory of an idle TCP connection, user and kernel; CPU a connect", run: on(load.TCP, idle)},
		{name: "idle-ws", what: "the same, WebSocket", run: on(load.WS, idle)},
		{name: "broadcast-tcp", what: "CPU a delivery to all TCP connections, beside plain writes; GC pauses",
			run: on(load.TCP, broadcast)},
		{name: "broadcast-ws", what: "the same, WebSocket", run: on(load.WS, broadcast)},
		{name: "broadcast-no-uring", what: "broadcast-tcp without io_uring, as in most containers: CPU a delivery", run: withoutRing},
		{name: "window", what: "broadcast-tcp at 40/s with a flush window of 500 ms, beside one write of 20 messages", run: window},
		{name: "max", what: "the most deliveries a second without a loss, beside two raw writer threads", run: most},
		{name: "max-window", what: "the same with the flush window", run: mostWindow},
		{name: "sizes", what: "CPU a delivery at 1,000, 5,000 and 19,000 connections", run: sizes},
		{name: "room", what: "from push to receipt in a room of 10, at 40/s", run: room},
		{name: "latency", what: "from HTTP push to client receipt, beside a bare HTTP server and a sync of the disk", run: latency},
		{name: "throughput", what: "pushes accepted a second, and their CPU", run: throughput},
		{name: "events", what: "what reports cost: CPU of a kept push with one, events a second, deliveries of a hook", run: events},
		{name: "replay", what: "reconnect and replay of 1,000 kept messages", run: replay},
		{name: "storm", what: "all clients connect at once: how they are let in", run: storm},
		{name: "start", what: "from `imgo` typed to the first delivery", run: start},
		{name: "stalled", what: "clients that never read among those that do: memory, latency of the others", run: stalled},
		{name: "scale", what: "a cluster with many comets, on the Kafka of --kafka: what a connection and a delivery cost as it grows",
			extra: true, once: true, run: scale},
		{name: "idle-tls", what: "idle-tcp with TLS", extra: true, run: on(load.TLS, idle)},
		{name: "idle-wss", what: "idle-ws with TLS", extra: true, run: on(load.WSS, idle)},
		{name: "broadcast-tls", what: "broadcast-tcp with TLS", extra: true, run: on(load.TLS, broadcast)},
		{name: "broadcast-wss", what: "broadcast-ws with TLS", extra: true, run: on(load.WSS, broadcast)},
	}
}

// options are the command-line options.
type options struct {
	runs       int
	budget     time.Duration
	scenarios  []string
	duration   time.Duration
	conns      int
	callers    int
	users      int
	rate       int
	broadcasts int
	replayed   int
	sleepers   int
	stall      time.Duration
	kafka      string
	comets     int
	perComet   int
	imgo       string
	dir        string
	out        string
	json       string
	profile    string
}

// usageError is an invalid command line.
type usageError struct{ error }

// ExitCode returns the conventional exit code of a usage error.
func (usageError) ExitCode() int { return 64 }

// check fills in defaults. It returns an error if an option is invalid.
func (o *options) check(names string) error {
	if o.duration < 100*time.Millisecond || o.stall < 100*time.Millisecond {
		return usageError{errors.New("--duration and --stall must be at least 100ms")}
	}
	if o.comets > 200 {
		return usageError{errors.New("--comets must be at most 200: each has an address of 127.1.0.0/24")}
	}
	var known []string
	for _, s := range scenarios() {
		known = append(known, s.name)
	}
	for name := range strings.SplitSeq(names, ",") {
		name = strings.TrimSpace(name)
		switch {
		case name == "":
		case !slices.Contains(known, name):
			return usageError{fmt.Errorf("scenario %q is not one of %s", name, strings.Join(known, ", "))}
		default:
			o.scenarios = append(o.scenarios, name)
		}
	}
	if len(o.scenarios) == 0 {
		for _, s := range scenarios() {
			if !s.extra {
				o.scenarios = append(o.scenarios, s.name)
			}
		}
	}
	return nil
}

// bench is one invocation.
type bench struct {
	*options
	tmp   string // removed at the end
	self  string // this executable
	log   io.Writer
	began time.Time
}

// say logs the progress of the bench, with the seconds since its start.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.log, "%5.0fs  %s\n", time.Since(b.began).Seconds(), fmt.Sprintf(format, args...))
}

// run performs the measurements that the options ask for, and prints the table.
func run(ctx context.Context, o *options, stdout, stderr io.Writer) (err error) {
	b := &bench{options: o, log: stderr, began: time.Now()}
	if b.self, err = os.Executable(); err != nil {
		return fmt.Errorf("find this executable: %w", err)
	}
	if b.imgo == "" {
		b.imgo = b.self
	}
	if b.tmp, err = os.MkdirTemp(o.dir, "imgo-bench-"); err != nil {
		return fmt.Errorf("make a temporary directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.tmp)) }()
	if o.profile != "" {
		if err := os.MkdirAll(o.profile, 0o755); err != nil {
			return fmt.Errorf("make the folder for profiles: %w", err)
		}
	}
	report := newReport(ctx, b)
	slowest := time.Duration(0)
	for n := range o.runs {
		// Do not begin a run that cannot end within the time budget.
		if left := o.budget - time.Since(b.began); n > 0 && o.budget > 0 && slowest > left {
			report.Notes = append(report.Notes, fmt.Sprintf("only %d of %d runs: there was no time for more", n, o.runs))
			break
		}
		begun := time.Now()
		if err := b.round(ctx, report, n); err != nil {
			return err
		}
		slowest = max(slowest, time.Since(begun))
	}
	report.finish()
	return b.write(report, stdout)
}

// round runs every selected scenario once.
func (b *bench) round(ctx context.Context, report *report, n int) error {
	for _, s := range scenarios() {
		if !slices.Contains(b.scenarios, s.name) || s.once && n > 0 {
			continue
		}
		b.say("run %d of %d: %s", n+1, b.runs, s.name)
		t := &trial{b, &recorder{report: report, scenario: s.name}}
		meter := startMachine()
		if err := s.run(ctx, t); err != nil {
			return fmt.Errorf("run %d, %s: %w", n+1, s.name, err)
		}
		t.others(meter.others())
	}
	return nil
}
