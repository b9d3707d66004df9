package bench

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

func description() string {
	var b strings.Builder
	b.WriteString("It starts and ends its own imgo processes, with their data in a temporary directory.\n" +
		"Without --scenarios it runs all scenarios without a *. It asserts nothing.\n\nScenarios:")
	for _, s := range scenarios() {
		mark := " "
		if s.extra {
			mark = "*"
		}
		fmt.Fprintf(&b, "\n  %-14s%s %s", s.name, mark, s.what)
	}
	return b.String()
}

func flags(o *options) []cli.Flag {
	number := func(name string, to *int, value int, of string) cli.Flag {
		return &cli.IntFlag{Name: name, Destination: to, Value: value, Usage: "`number` of " + of}
	}
	text := func(name string, to *string, usage string) cli.Flag {
		return &cli.StringFlag{Name: name, Destination: to, Usage: usage}
	}
	return []cli.Flag{
		number("runs", &o.runs, 3, "runs of each scenario; the table has min, median and max"),
		&cli.DurationFlag{Name: "budget", Destination: &o.budget, Value: 9*time.Minute + 50*time.Second,
			Usage: "do not begin a run that would end after this `time`; 0 means no limit"},
		&cli.StringFlag{Name: "scenarios", Usage: "`names` of scenarios, separated by commas"},
		&cli.DurationFlag{Name: "duration", Destination: &o.duration, Value: 2 * time.Second,
			Usage: "`time` of each measurement without its warm-up"},
		number("conns", &o.conns, 10_000, "connections in the scenarios idle, broadcast, window, max and storm"),
		number("callers", &o.callers, 64, "concurrent HTTP callers in the scenario throughput"),
		number("users", &o.users, 10_000, "users that receive pushes in the scenario throughput"),
		number("rate", &o.rate, 250, "pushes a second in the scenario latency"),
		number("broadcasts", &o.broadcasts, 15, "broadcasts a second in the scenarios broadcast and sizes"),
		number("replayed", &o.replayed, 1000, "kept messages in the scenario replay"),
		number("stalled", &o.sleepers, 1000, "clients that never read in the scenario stalled; as many others read"),
		&cli.DurationFlag{Name: "stall", Destination: &o.stall, Value: 20 * time.Second, Usage: "`time` of each run of the scenario stalled"},
		text("kafka", &o.kafka, "`address` of the Kafka for the scenario scale"),
		number("comets", &o.comets, 11, "comets in the scenario scale"),
		number("per-comet", &o.perComet, 18_500, "connections to each comet in the scenario scale"),
		text("imgo", &o.imgo, "the imgo `executable` to measure; by default this one"),
		text("dir", &o.dir, "`folder` for temporary directories, on the disk to measure; by default that of the system"),
		text("out", &o.out, "write the dated table, JSON and plots to this `folder`"),
		text("json", &o.json, "write the JSON to this `file`; - means standard output instead of the table"),
		text("profile", &o.profile, "write CPU and heap profiles to this `folder`; this slows down what is measured"),
	}
}

func action(c *cli.Context, o *options) error {
	if c.Args().Present() {
		return usageError{fmt.Errorf("unexpected argument %q; see: imgo bench --help", c.Args().First())}
	}
	for _, f := range c.Command.Flags {
		if f, ok := f.(*cli.IntFlag); ok && c.Int(f.Name) < 1 {
			return usageError{fmt.Errorf("--%s must be at least 1", f.Name)}
		}
	}
	if err := o.check(c.String("scenarios")); err != nil {
		return err
	}
	return run(c.Context, o, c.App.Writer, c.App.ErrWriter)
}

func childAction(c *cli.Context) error { return runChild(c.Args().First(), os.Stdin, os.Stdout) }
