package commands

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"imgo/envelope"
	"imgo/verify"
)

// plainProgress is the time between two progress lines if the output is not a terminal.
const plainProgress = 10 * time.Second

func verifyCommand(opts Options) *cli.Command {
	def := verify.DefaultConfig()
	return &cli.Command{
		Name:      "verify",
		Usage:     "connect, push and check that nothing is lost while you break things",
		ArgsUsage: " ",
		Description: "imgo verify                                    (100 users with 2 devices, for a minute)\n" +
			"imgo verify --users 1000 --rate 300 --duration 10m\n" +
			"imgo verify --duration 0                       (until Ctrl-C)\n" +
			"imgo verify --server http://a:7172,http://b:7172 --api-key KEY\n" +
			"imgo verify --connect push.example.com:8080 --connect wss://push.example.com/sub\n" +
			"imgo verify --json > report.json\n\n" +
			"It makes up users, connects their devices, pushes kept and not kept messages, and\n" +
			"checks what every device receives: everything accepted arrives, once, in order.\n" +
			"Kill nodes meanwhile: staging is the place for it. Ctrl-C ends the pushing; what\n" +
			"is under way still settles. The report goes to standard output and names the first\n" +
			"message that went wrong; exit code 1 says that there is one. See docs/how-to/verify.md.",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "server",
				Usage: "the API's HTTP `addresses`, a,b,c or several times: name every node's [$" + serverEnv + "]", DefaultText: defaultServer},
			&cli.StringFlag{Name: "api-key", Usage: "the `key` of its API, where it has one [$" + keyEnv + "]"},
			&cli.StringSliceFlag{Name: "connect",
				Usage: "where clients connect: `addresses` such as host:port, tls://host:port, ws://host:port/sub or wss://…", DefaultText: "what " +
					"the API says of its nodes"},
			&cli.IntFlag{Name: "users", Usage: "`how many` users", Value: def.Users},
			&cli.IntFlag{Name: "devices", Usage: "`how many` devices a user", Value: def.Devices},
			&cli.Float64Flag{Name: "rate", Usage: "`pushes` a second", Value: def.Rate},
			&cli.DurationFlag{Name: "duration", Usage: "for `how long`; 0: until Ctrl-C", Value: def.Duration},
			&cli.DurationFlag{Name: "settle", Usage: "`how long` what was accepted may still take to arrive at the end", Value: def.Settle},
			&cli.DurationFlag{Name: "late", Usage: "list deliveries that take `longer` than this", Value: def.Late},
			&cli.BoolFlag{Name: "late-fails", Usage: "and call them violations", DisableDefaultText: true},
			&cli.Float64Flag{Name: "not-kept", Usage: "the `share` of pushes that are not kept, 0 to 1", Value: def.NotKept},
			&cli.Float64Flag{Name: "churn", Usage: "the `share` of devices that go away for a moment each minute", Value: def.Churn},
			&cli.IntFlag{Name: "size", Usage: "about how many `bytes` a message has", Value: def.Body},
			&cli.Uint64Flag{Name: "seed", Usage: "the `number` of an earlier run, for its choices", DefaultText: "any"},
			&cli.BoolFlag{Name: "json", Usage: "print the report as JSON", DisableDefaultText: true},
		},
		Action: func(c *cli.Context) error { return runVerify(c, opts.Terminal) },
	}
}

// verifyFlag returns the flag that sets a field of the configuration, or "" if there is none.
func verifyFlag(field string) string {
	return map[string]string{
		"Users": "users", "Devices": "devices", "Rate": "rate", "Duration": "duration", "Settle": "settle", "Late": "late",
		"NotKept": "not-kept", "Churn": "churn", "Body": "size",
	}[field]
}

func runVerify(c *cli.Context, terminal bool) error {
	if c.Args().Present() {
		return usage(c, "%q is too much", c.Args().First())
	}
	cfg := verify.DefaultConfig()
	if cfg.API = split(c.StringSlice("server")); len(cfg.API) == 0 {
		cfg.API = split([]string{flagOrEnv(c, "server", serverEnv, defaultServer)})
	}
	cfg.Key, cfg.Clients = flagOrEnv(c, "api-key", keyEnv, ""), split(c.StringSlice("connect"))
	cfg.Users, cfg.Devices, cfg.Rate, cfg.Body = c.Int("users"), c.Int("devices"), c.Float64("rate"), c.Int("size")
	cfg.Duration, cfg.Settle, cfg.Late, cfg.LateFails = c.Duration("duration"), c.Duration("settle"), c.Duration("late"), c.Bool("late-fails")
	cfg.NotKept, cfg.Churn, cfg.Seed = c.Float64("not-kept"), c.Float64("churn"), c.Uint64("seed")
	line := &progressLine{to: c.App.ErrWriter, terminal: terminal}
	if cfg.Progress = line.show; !terminal {
		cfg.ProgressEvery = plainProgress
	}
	v, err := verify.New(cfg)
	if err != nil {
		var field *envelope.Error
		if errors.As(err, &field) && verifyFlag(field.Field) != "" {
			return usage(c, "--%s %s", verifyFlag(field.Field), field.Message)
		}
		return usage(c, "%s", strings.TrimPrefix(err.Error(), "verify: "))
	}
	report, err := v.Run(c.Context)
	line.end()
	switch {
	case err != nil && c.Context.Err() != nil:
		return err
	case err != nil:
		return fmt.Errorf("%w; it needs a server that runs, and every address right: --server, --connect", err)
	}
	text := strings.TrimSuffix(report.String(), "\n")
	if c.Bool("json") {
		data, err := json.MarshalIndent(report, "", "  ")
		if err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
		text = string(data)
	}
	if err := printLine(c, text); err != nil {
		return err
	}
	return verdict(report)
}

// verdict returns an error if the report has findings, else nil.
func verdict(report *verify.Report) error {
	if report.OK {
		return nil
	}
	violations := 0
	for _, n := range report.Violations {
		violations += int(n)
	}
	return fmt.Errorf("%s and %s were found; seed %d", count(violations, "violation"), count(report.ProblemCount, "other problem"),
		report.Seed)
}

// split splits each element at commas and removes empty parts.
func split(given []string) (all []string) {
	for _, text := range given {
		for one := range strings.SplitSeq(text, ",") {
			if one = strings.TrimSpace(one); one != "" {
				all = append(all, one)
			}
		}
	}
	return all
}

// progressLine shows the progress. On a terminal it overwrites one line, elsewhere it prints a new
// line each time.
type progressLine struct {
	to       io.Writer
	terminal bool
	shown    bool
}

func (l *progressLine) show(p verify.Progress) {
	before, after := "", "\n"
	if l.terminal {
		// Return to the start of the line and erase its rest afterwards. Line wrapping is off
		// meanwhile, because a second line could not be overwritten.
		before, after = "\r\x1b[?7l", "\x1b[K\x1b[?7h"
	}
	fmt.Fprint(l.to, before, p, after)
	l.shown = true
}

// end ends the overwritten line, so that it stays visible.
func (l *progressLine) end() {
	if l.terminal && l.shown {
		fmt.Fprintln(l.to)
	}
}
