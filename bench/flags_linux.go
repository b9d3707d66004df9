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
	b.WriteString("It starts imgo processes of its own, with data in a temporary directory, and ends them.\n" +
		"Without --scenarios all but those marked * are run. Nothing is asserted.\n\nScenarios:")
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
		&cli.IntFlag{Name: "runs", Value: 3, Usage: "how often each scenario is run; the table has min, median and max"},
		&cli.DurationFlag{Name: "budget", Value: 9*time.Minute + 50*time.Second,
			Usage: "a run that would end after this `time` is not begun; 0: no limit"},
		&cli.StringFlag{Name: "scenarios", Usage: "comma-separated `names`"},
		&cli.DurationFlag{Name: "duration", Value: 2 * time.Second, Usage: "`time` of each measurement, without its warm-up"},
		&cli.IntFlag{Name: "conns", Value: 10_000, Usage: "`number` of connections of idle, broadcast, window, max and storm"},
		&cli.IntFlag{Name: "callers", Value: 64, Usage: "`number` of concurrent HTTP callers of throughput"},
		&cli.IntFlag{Name: "users", Value: 10_000, Usage: "`number` of users that throughput pushes to"},
		&cli.IntFlag{Name: "rate", Value: 250, Usage: "pushes a second of latency (`number`)"},
		&cli.IntFlag{Name: "broadcasts", Value: 15, Usage: "broadcasts a second of broadcast and sizes (`number`)"},
		&cli.IntFlag{Name: "replayed", Value: 1000, Usage: "`number` of kept messages of replay"},
		&cli.IntFlag{Name: "stalled", Value: 1000, Usage: "`number` of clients that never read in stalled, and as many that do"},
		&cli.DurationFlag{Name: "stall", Value: 20 * time.Second, Usage: "how much `time` each run of stalled lasts"},
		&cli.StringFlag{Name: "kafka", Usage: "`address` of the Kafka of scale"},
		&cli.IntFlag{Name: "comets", Value: 11, Usage: "`number` of comets of scale"},
		&cli.IntFlag{Name: "per-comet", Value: 18_500, Usage: "`number` of connections to each of them"},
		&cli.StringFlag{Name: "imgo", Usage: "the imgo `executable` to measure; empty: this one"},
		&cli.StringFlag{Name: "dir",
			Usage: "where temporary directories are made, on the disk to measure: a `folder`; empty: the system's place"},
		&cli.StringFlag{Name: "out", Usage: "`folder` to write the dated table, JSON and plots to; empty: nowhere"},
		&cli.StringFlag{Name: "json", Usage: "`file` to write the JSON to; - is standard output, in the table's place"},
		&cli.StringFlag{Name: "profile", Usage: "`folder` for CPU and heap profiles; taking them costs some of what is measured"},
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
