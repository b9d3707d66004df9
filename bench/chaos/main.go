//go:build linux

// Command chaos injects faults into a cluster of real imgo processes on a real Apache
// Kafka, all on this machine. Meanwhile package verify connects clients and pushes to
// them. Each fault happens once, and then faults happen at random. They kill and
// suspend processes, delete disks, stop Kafka and cut gossip. They also add, remove
// and restart nodes. The command ends with a verdict and a table. For each fault, the
// table has the time without accepted pushes and the longest delivery.
//
// It acts on the processes only from outside, by signals and by their disks, and
// checks them as callers and clients see them. Gossip passes through a relay that can
// cut it off. The command needs Linux and Java, and Maven the first time.
//
// With -serve it only runs the cluster, for trying it out. With -measure it measures a
// cluster without faults.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"imgo/cluster/bus/kafkatest"
	"imgo/internal/process"
	"imgo/verify"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

// settings are the command-line options.
type settings struct {
	serve, measure bool

	faults  []string // nil means all
	random  time.Duration
	brokers int
	scale   float64
	users   int
	rate    float64
	seed    uint64

	runs     int
	messages int

	net   string
	imgo  string
	race  bool
	dir   string
	keep  bool
	out   string
	each  int
	short bool
}

func parse(args []string, stderr io.Writer) (*settings, error) {
	var s settings
	var names string
	f := flag.NewFlagSet("chaos", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.BoolVar(&s.serve, "serve", false, "run only the cluster, until Ctrl-C")
	f.BoolVar(&s.measure, "measure", false, "measure a cluster without faults")
	f.StringVar(&names, "faults", "", "`names` of faults, separated by commas, or none; by default all")
	f.DurationVar(&s.random, "random", 10*time.Minute, "`time` of random faults after each fault has happened once")
	f.IntVar(&s.brokers, "brokers", 1, "`number` of Kafka brokers, 1 or 3")
	f.Float64Var(&s.scale, "scale", 1, "factor on the duration of faults; with 1 most last 20 s")
	f.IntVar(&s.users, "users", 1000, "`number` of users with 2 devices each")
	f.Float64Var(&s.rate, "rate", 100, "`number` of pushes a second")
	f.Uint64Var(&s.seed, "seed", 0, "repeat the random choices of an earlier run: the `number` is its seed; 0 means any")
	f.IntVar(&s.runs, "runs", 3, "`number` of measurements with -measure; the table has min, median and max")
	f.IntVar(&s.messages, "messages", 1_000_000, "`number` of kept messages that a router with an empty disk reads back with -measure")
	f.StringVar(&s.net, "net", "127.0.0", "the first three numbers of all `addresses` of nodes")
	f.StringVar(&s.imgo, "imgo", "", "the imgo `executable` to run; by default this module is built")
	f.BoolVar(&s.race, "race", false, "build imgo with the race detector")
	f.StringVar(&s.dir, "dir", "", "keep data and logs in this `folder`; by default a temporary folder is removed at the end")
	f.BoolVar(&s.short, "short", false, "start a Kafka that needs less CPU time to start and has less throughput")
	f.BoolVar(&s.keep, "keep", false, "keep the temporary folder")
	f.StringVar(&s.out, "out", "", "write the dated table and JSON to this `folder`")
	f.IntVar(&s.each, "each", 2, "`number` of nodes of each role")
	f.Usage = func() {
		fmt.Fprintln(stderr, "Usage: go run ./bench/chaos [flags]")
		f.PrintDefaults()
		fmt.Fprintln(stderr, "Faults:")
		for _, one := range faults {
			fmt.Fprintf(stderr, "  %s\n", one.name)
		}
	}
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("there are no arguments besides flags: %q", f.Arg(0))
	}
	switch {
	case s.brokers != 1 && s.brokers != 3:
		return nil, fmt.Errorf("-brokers %d: must be 1 or 3", s.brokers)
	case s.scale <= 0 || s.scale > 10:
		return nil, fmt.Errorf("-scale %v: must be more than 0 and at most 10", s.scale)
	case s.users < 1 || s.rate <= 0 || s.runs < 1 || s.messages < 1:
		return nil, errors.New("-users, -rate, -runs and -messages must be more than 0")
	case s.each < 1 || s.each > 4:
		return nil, fmt.Errorf("-each %d: must be 1 to 4", s.each)
	case s.serve && s.measure:
		return nil, errors.New("-serve or -measure, not both")
	}
	for name := range strings.SplitSeq(names, ",") {
		switch {
		case name == "":
		case name == "none":
			s.faults = []string{}
		case !slices.ContainsFunc(faults, func(f fault) bool { return f.name == name }):
			return nil, fmt.Errorf("-faults: there is no %q; -help shows all", name)
		default:
			s.faults = append(s.faults, name)
		}
	}
	return &s, nil
}

// stage is the cluster with its Kafka.
type stage struct {
	s     *settings
	c     *cluster
	kafka *kafkatest.Real
	rng   *rand.Rand // of the faults
	say   func(format string, args ...any)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	s, err := parse(args, stderr)
	if err != nil {
		return err
	}
	began := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(stderr, "chaos: %6s  %s\n", time.Since(began).Round(100*time.Millisecond), fmt.Sprintf(format, args...))
	}
	dir := s.dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "imgo-chaos-"); err != nil {
			return fmt.Errorf("make a folder: %w", err)
		}
		defer func() {
			if s.keep || err != nil && ctx.Err() == nil {
				say("data and logs are in %s", dir)
				return
			}
			err = errors.Join(err, os.RemoveAll(dir))
		}()
	}
	binary := s.imgo
	if binary == "" {
		say("building imgo")
		if binary, err = process.Build(ctx, dir, s.race); err != nil {
			return err
		}
	}
	st := &stage{s: s, say: say}
	defer st.end()
	if err := st.start(ctx, dir, binary); err != nil {
		return err
	}
	switch {
	case s.serve:
		err = st.serve(ctx, stdout)
	case s.measure:
		err = st.measure(ctx, stdout)
	default:
		err = st.chaos(ctx, stdout)
	}
	if err != nil {
		return err
	}
	say("stopping")
	return errors.Join(st.c.stop(), st.kafka.Stop())
}

// start starts Kafka and then the nodes.
func (st *stage) start(ctx context.Context, dir, binary string) error {
	s := st.s
	addresses := make([]string, s.brokers)
	for i := range addresses {
		addresses[i] = fmt.Sprintf("%s.%d:9092", s.net, i+1)
	}
	var err error
	st.kafka, err = kafkatest.StartReal(ctx, kafkatest.RealOptions{
		Brokers: s.brokers, Addresses: addresses, Dir: filepath.Join(dir, "kafka"), Short: s.short, Logf: st.say,
	})
	if err != nil {
		return err
	}
	o := options{binary: binary, dir: filepath.Join(dir, "nodes"), net: s.net, brokers: st.kafka.Brokers(), prefix: "imgo", each: s.each,
		relayed: !s.serve && !s.measure}
	if !s.serve {
		// No limit may drop a message, because it would then count as lost.
		o.args = []string{"--kept-mailbox-length", "1000000"}
	}
	if o.relayed {
		settings := filepath.Join(dir, "imgo.toml")
		text := verify.HookSettings(hookAddress(s), verify.KnownSecret) + verify.EventSettings
		if err := os.WriteFile(settings, []byte(text), 0o600); err != nil {
			return fmt.Errorf("write the settings of the nodes: %w", err)
		}
		o.args = append(o.args, "--config", settings)
	}
	if s.race {
		// With the race detector, sync.Pool drops objects at random. The pooled objects of lz4
		// have 4 MiB, so an append would take 8 ms.
		o.args = append(o.args, "--kafka-compression", "none")
	}
	st.c = newCluster(o)
	st.say("starting %d nodes; their logs are in %s", len(st.c.nodes), o.dir)
	return st.c.start(ctx)
}

// end kills everything that still runs.
func (st *stage) end() {
	if st.c != nil {
		st.c.kill()
	}
	if st.kafka != nil {
		_ = st.kafka.Close() // an error is of no interest in the cleanup
	}
}
