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

func flags() []cli.Flag {
	return []cli.Flag{
		&cli.IntFlag{Name: "runs", Value: 3, Usage: "`number` of runs of each scenario; the table has min, median and max"},
		&cli.DurationFlag{Name: "budget", Value: 9*time.Minute + 50*time.Second,
			Usage: "do not begin a run that would end after this `time`; 0 means no limit"},
		&cli.StringFlag{Name: "scenarios", Usage: "`names` of scenarios, separated by commas"},
		&cli.DurationFlag{Name: "duration", Value: 2 * time.Second, Usage: "`time` of each measurement without its warm-up"},
		&cli.IntFlag{Name: "conns", Value: 10_000, Usage: "`number` of connections in the scenarios idle, broadcast, window, max and storm"},
		&cli.IntFlag{Name: "callers", Value: 64, Usage: "`number` of concurrent HTTP callers in the scenario throughput"},
		&cli.IntFlag{Name: "users", Value: 10_000, Usage: "`number` of users that receive pushes in the scenario throughput"},
		&cli.IntFlag{Name: "rate", Value: 250, Usage: "`number` of pushes a second in the scenario latency"},
		&cli.IntFlag{Name: "broadcasts", Value: 15, Usage: "`number` of broadcasts a second in the scenarios broadcast and sizes"},
		&cli.IntFlag{Name: "replayed", Value: 1000, Usage: "`number` of kept messages in the scenario replay"},
		&cli.IntFlag{Name: "stalled", Value: 1000, Usage: "`number` of clients that never read in the scenario stalled; as many others read"},
		&cli.DurationFlag{Name: "stall", Value: 20 * time.Second, Usage: "`time` of each run of the scenario stalled"},
		&cli.StringFlag{Name: "kafka", Usage: "`address` of the Kafka for the scenario scale"},
		&cli.IntFlag{Name: "comets", Value: 11, Usage: "`number` of comets in the scenario scale"},
		&cli.IntFlag{Name: "per-comet", Value: 18_500, Usage: "`number` of connections to each comet in the scenario scale"},
		&cli.StringFlag{Name: "imgo", Usage: "the imgo `executable` to measure; by default this one"},
		&cli.StringFlag{Name: "dir",
			Usage: "`folder` for temporary directories, on the disk to measure; by default that of the system"},
		&cli.StringFlag{Name: "out", Usage: "write the dated table, JSON and plots to this `folder`"},
		&cli.StringFlag{Name: "json", Usage: "write the JSON to this `file`; - means standard output instead of the table"},
		&cli.StringFlag{Name: "profile", Usage: "write CPU and heap profiles to this `folder`; this slows down what is measured"},
	}
}

func action(c *cli.Context) error {
	if c.Args().Present() {
		return usageError{fmt.Errorf("argument %q is not understood; see: imgo bench --help", c.Args().First())}
	}
	o := &options{
		runs: c.Int("runs"), budget: c.Duration("budget"), duration: c.Duration("duration"), conns: c.Int("conns"),
		callers: c.Int("callers"), users: c.Int("users"), rate: c.Int("rate"), broadcasts: c.Int("broadcasts"),
		replayed: c.Int("replayed"), sleepers: c.Int("stalled"), stall: c.Duration("stall"),
		kafka: c.String("kafka"), comets: c.Int("comets"), perComet: c.Int("per-comet"),
		imgo: c.String("imgo"), dir: c.String("dir"), out: c.String("out"), json: c.String("json"), profile: c.String("profile"),
	}
	if err := o.check(c.String("scenarios")); err != nil {
		return err
	}
	return run(c.Context, o, c.App.Writer, c.App.ErrWriter)
}

func childAction(c *cli.Context) error { return runChild(c.Args().First(), os.Stdin, os.Stdout) }
