//go:build linux

// Command bench measures a real imgo process from outside: it builds imgo (or
// takes -imgo), starts it with a temporary data directory and ports of its
// own, drives it as callers and clients do, and ends it by its pid. Beside
// each figure it measures, in the same run and on the same machine, what the
// work would cost without imgo (a "limit": plain writes, a bare net/http
// server, a sync of the disk), so that figures of noisy machines compare.
//
// It asserts nothing: a slow machine is no failure. Clients and limits run in
// processes of their own (bench child KIND), because a process may open only
// so many files, and so that the server's costs are the server's alone.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "child" {
		if err := runChild(os.Args[2], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintf(os.Stderr, "bench child %s: %v\n", os.Args[2], err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	runs       int
	scenarios  []string
	duration   time.Duration
	conns      int
	callers    int
	users      int
	rate       int
	broadcasts int
	imgo       string
	dir        string
	out        string
	json       string
	profile    string
}

// scenario measures one thing, once, into r.
type scenario struct {
	name string
	what string
	// extra ones run only when they are named.
	extra bool
	run   func(*bench, context.Context, *recorder) error
}

func scenarios() []scenario {
	return []scenario{
		{name: "start", what: "from `imgo` typed to the first delivery", run: (*bench).start},
		{name: "latency", what: "from HTTP push to client receipt, beside a bare HTTP server and a sync of the disk", run: (*bench).latency},
		{name: "throughput", what: "pushes accepted a second, and their CPU", run: (*bench).throughput},
		{name: "idle-tcp", what: "what an idle TCP connection costs", run: func(b *bench, ctx context.Context, r *recorder) error { return b.idle(ctx, r, kindTCP) }},
		{name: "idle-ws", what: "the same, WebSocket", run: func(b *bench, ctx context.Context, r *recorder) error { return b.idle(ctx, r, kindWS) }},
		{name: "broadcast-tcp", what: "CPU a delivery to all TCP connections, beside plain writes", run: func(b *bench, ctx context.Context, r *recorder) error { return b.broadcast(ctx, r, kindTCP) }},
		{name: "broadcast-ws", what: "the same, WebSocket", extra: true, run: func(b *bench, ctx context.Context, r *recorder) error { return b.broadcast(ctx, r, kindWS) }},
	}
}

func parse(args []string, stderr io.Writer) (*options, error) {
	var o options
	var names string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.IntVar(&o.runs, "runs", 3, "how often each scenario is run; the table has min, median and max")
	f.StringVar(&names, "scenarios", "", "comma-separated `names`; empty: all but those marked *")
	f.DurationVar(&o.duration, "duration", 4*time.Second, "how long each measurement lasts, without its warm-up")
	f.IntVar(&o.conns, "conns", 10_000, "connections of idle and broadcast")
	f.IntVar(&o.callers, "callers", 64, "concurrent HTTP callers of throughput")
	f.IntVar(&o.users, "users", 10_000, "user ids that throughput pushes to")
	f.IntVar(&o.rate, "rate", 250, "pushes a second of latency")
	f.IntVar(&o.broadcasts, "broadcasts", 15, "broadcasts a second of broadcast")
	f.StringVar(&o.imgo, "imgo", "", "the imgo `executable` to measure; empty: build the one of this module")
	f.StringVar(&o.dir, "dir", "", "where temporary data directories are made, on the `disk` to measure; empty: the system's place")
	f.StringVar(&o.out, "out", "", "`folder` to write the dated table and JSON to; empty: nowhere")
	f.StringVar(&o.json, "json", "", "`file` to write the JSON to; - is standard output, in the table's place")
	f.StringVar(&o.profile, "profile", "", "`folder` for CPU and heap profiles; taking them costs some of what is measured")
	f.Usage = func() {
		fmt.Fprintln(stderr, "Usage: go run ./bench [flags]")
		f.PrintDefaults()
		fmt.Fprintln(stderr, "Scenarios:")
		for _, s := range scenarios() {
			mark := " "
			if s.extra {
				mark = "*"
			}
			fmt.Fprintf(stderr, "  %-14s%s %s\n", s.name, mark, s.what)
		}
	}
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("argument %q is not understood", f.Arg(0))
	}
	for name, n := range map[string]int{"runs": o.runs, "conns": o.conns, "callers": o.callers, "users": o.users, "rate": o.rate, "broadcasts": o.broadcasts} {
		if n < 1 {
			return nil, fmt.Errorf("-%s must be at least 1", name)
		}
	}
	if o.duration < 100*time.Millisecond {
		return nil, errors.New("-duration must be at least 100ms")
	}
	for name := range strings.SplitSeq(names, ",") {
		if name = strings.TrimSpace(name); name != "" {
			o.scenarios = append(o.scenarios, name)
		}
	}
	var known []string
	for _, s := range scenarios() {
		known = append(known, s.name)
		if len(names) == 0 && !s.extra {
			o.scenarios = append(o.scenarios, s.name)
		}
	}
	for _, name := range o.scenarios {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("scenario %q is not one of %s", name, strings.Join(known, ", "))
		}
	}
	return &o, nil
}

// bench is one invocation.
type bench struct {
	*options
	tmp  string // removed at the end
	self string // this executable
	log  io.Writer
}

// run measures what args ask for and prints the table.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	b := &bench{options: o, log: stderr}
	if b.self, err = os.Executable(); err != nil {
		return fmt.Errorf("find this executable: %w", err)
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
	if b.imgo == "" {
		if err := b.build(ctx); err != nil {
			return err
		}
	}
	report := newReport(ctx, o)
	for n := range o.runs {
		for _, s := range scenarios() {
			if !slices.Contains(o.scenarios, s.name) {
				continue
			}
			fmt.Fprintf(b.log, "run %d of %d: %s\n", n+1, o.runs, s.name)
			r := &recorder{report: report, scenario: s.name}
			meter := startMachine()
			if err := s.run(b, ctx, r); err != nil {
				return fmt.Errorf("run %d, %s: %w", n+1, s.name, err)
			}
			r.others(meter.others())
		}
	}
	report.finish()
	return b.write(report, stdout)
}

// build makes the executable to measure.
func (b *bench) build(ctx context.Context) error {
	b.imgo = filepath.Join(b.tmp, "imgo")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", b.imgo, "imgo")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build imgo: %w\n%s", err, out)
	}
	return nil
}
