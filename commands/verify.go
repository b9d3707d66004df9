package commands

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"imgo/clients/conformance/driver"
	"imgo/envelope"
	"imgo/verify"
)

// hookSecretEnv is the variable with the secret of the hook of imgo verify.
const hookSecretEnv = "IMGO_VERIFY_HOOK_SECRET"

// plainProgress is the time between two progress lines if the output is not a terminal.
const plainProgress = 10 * time.Second

func verifyCommand(opts Options) *cli.Command {
	cfg, judged := verify.DefaultConfig(), verify.DefaultEvents()
	return &cli.Command{
		Name:  "verify",
		Usage: "connect, push and check that nothing is lost while you break things",
		Description: "imgo verify                                    (100 users with 2 devices, for a minute)\n" +
			"imgo verify --users 1000 --rate 300 --duration 10m\n" +
			"imgo verify --duration 0                       (until Ctrl-C)\n" +
			"imgo verify --server http://a:7172,http://b:7172 --api-key KEY\n" +
			"imgo verify --connect push.example.com:8080 --connect wss://push.example.com/sub\n" +
			"imgo verify --kinds tcp,json,no-ack,sdk --slow 2 --lazy 0.3 --rooms 4\n" +
			"imgo verify --driver \"node clients/javascript/driver/driver.js\" --driver \"python3 clients/python/driver.py\"\n" +
			"imgo verify --events                           (judges the events of the messages too)\n" +
			"imgo verify --hook 10.0.0.9:7180               (and serves a receiver of a hook)\n" +
			"imgo verify --presence --upstream              (and who is online, and messages of clients)\n" +
			"imgo verify --falsify lose                     (proves that a lost message is found)\n" +
			"imgo verify --json > report.json\n\n" +
			"It creates users, connects their devices, pushes messages, and checks what every\n" +
			"device receives. Every accepted message must arrive once and in order. Kill nodes of\n" +
			"a staging installation meanwhile. Ctrl-C ends the pushing. Messages on their way may\n" +
			"then still arrive. The report goes to standard output and names the first wrong\n" +
			"message; exit code 1 means that there is one. See docs/how-to/verify.md.",
		Flags: verifyFlags(&cfg, judged),
		Action: func(c *cli.Context) error {
			if c.Bool("events") || judged.Presence || judged.Upstream || c.IsSet("hook") {
				judged.HookSecret = flagOrEnv(c, "hook-secret", hookSecretEnv, verify.KnownSecret)
				cfg.Events = judged
			}
			return runVerify(c, cfg, opts.Terminal)
		},
	}
}

// verifyFlags returns the flags of imgo verify. Most of them write to a field of cfg or judged.
func verifyFlags(cfg *verify.Config, judged *verify.Events) []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "server",
			Usage: "the HTTP `addresses` of the API, separated by commas; name every node [$" + serverEnv + "]", DefaultText: defaultServer},
		&cli.StringFlag{Name: "api-key", Usage: "the `key` of the API, if it needs one [$" + keyEnv + "]"},
		&cli.StringSliceFlag{Name: "connect",
			Usage:       "the `addresses` that devices connect to, such as host:port, tls://host:port, ws://host:port/sub or wss://…",
			DefaultText: "what the API says of its nodes"},
		&cli.IntFlag{Name: "users", Usage: "`number` of users", Value: cfg.Users, Destination: &cfg.Users},
		&cli.IntFlag{Name: "devices", Usage: "`number` of devices of each user", Value: cfg.Devices, Destination: &cfg.Devices},
		&cli.StringSliceFlag{Name: "kinds",
			Usage:       "the `kinds` of devices: tcp, ws, json, no-ack (an old client), sdk, sdk-ws",
			DefaultText: kindsText(cfg.Kinds)},
		&cli.StringSliceFlag{Name: "driver",
			Usage:       "`commands` that drive client libraries (clients/conformance); all devices use them in turn, or some with --kinds",
			DefaultText: "none"},
		&cli.Float64Flag{Name: "rate", Usage: "`pushes` a second", Value: cfg.Rate, Destination: &cfg.Rate},
		&cli.GenericFlag{Name: "duration", Value: (*duration)(&cfg.Duration), Usage: "`time` during which pushes start; 0s means until Ctrl-C"},
		&cli.GenericFlag{Name: "settle", Value: (*duration)(&cfg.ArrivalTimeout),
			Usage: "the longest `time` in which accepted messages may arrive at the end"},
		&cli.GenericFlag{Name: "late", Value: (*duration)(&cfg.Late), Usage: "list deliveries that take longer than this `time`"},
		&cli.BoolFlag{Name: "late-fails", Usage: "make a late delivery a violation", Destination: &cfg.LateFails, DisableDefaultText: true},
		&cli.Float64Flag{Name: "not-kept", Value: cfg.NotKept, Destination: &cfg.NotKept,
			Usage: "the `share` of pushes that are not kept, 0 to 1"},
		&cli.IntFlag{Name: "rooms", Destination: &cfg.Rooms,
			Usage: "`number` of rooms with 10 users each; two in five pushes that are not kept then go to a room"},
		&cli.Float64Flag{Name: "broadcast", Destination: &cfg.Broadcast,
			Usage: "the `share` of pushes that are not kept that go to every client of the server, also to real users, 0 to 1"},
		&cli.Float64Flag{Name: "churn", Value: cfg.Churn, Destination: &cfg.Churn,
			Usage: "the `share` of devices that leave for a while each minute"},
		&cli.IntFlag{Name: "slow", Usage: "`number` of users with a device that reads slowly", Destination: &cfg.Slow},
		&cli.Float64Flag{Name: "lazy", Destination: &cfg.Lazy,
			Usage: "the `share` of devices that acknowledge late or not all messages, 0 to 1"},
		&cli.IntFlag{Name: "size", Usage: "the approximate size of a message, in `bytes`", Value: cfg.Body, Destination: &cfg.Body},
		&cli.Float64Flag{Name: "large", Usage: "the `share` of pushes with 8 KiB more, 0 to 1", Destination: &cfg.Large},
		&cli.BoolFlag{Name: "events", DisableDefaultText: true,
			Usage: "ask for the events of most messages, follow them by GET /v1/events, and judge them"},
		&cli.StringFlag{Name: "hook", Destination: &judged.Hook,
			Usage: "serve a receiver at this `address` (host:port) for the hook \"" + verify.HookName + "\" of the server; " +
				"it fails calls on purpose; implies --events"},
		&cli.BoolFlag{Name: "presence", Destination: &judged.Presence, DisableDefaultText: true,
			Usage: "judge the events that say who is online; the server needs presence.events; implies --events"},
		&cli.BoolFlag{Name: "upstream", Destination: &judged.Upstream, DisableDefaultText: true,
			Usage: "send messages for the backend; the server needs a rule of [[upstream]] that makes events of op 4; implies --events"},
		&cli.StringFlag{Name: "hook-secret",
			Usage:       "the `secret` of that hook [$" + hookSecretEnv + "]",
			DefaultText: "a known one, for tests only"},
		&cli.StringFlag{Name: "falsify",
			Usage: "falsify what was received in this `way` (lose, repeat, swap, event-lose, event-repeat, event-swap or event-invent), " +
				"to prove that the run reports it"},
		&cli.Uint64Flag{Name: "seed", Destination: &cfg.Seed,
			Usage: "repeat the random choices of an earlier run: the `number` is its seed", DefaultText: "any"},
		&cli.BoolFlag{Name: "json", Usage: "print the report as JSON", DisableDefaultText: true},
	}
}

// kindsText returns the value of --kinds for these kinds.
func kindsText(kinds []verify.DeviceKind) string {
	var all []string
	for _, kind := range kinds {
		all = append(all, string(kind))
	}
	return strings.Join(all, ",")
}

// verifyFlag returns the flag that sets a field of the configuration, or "" if there is none.
func verifyFlag(field string) string {
	return map[string]string{
		"Users": "users", "Devices": "devices", "Rate": "rate", "Duration": "duration", "ArrivalTimeout": "settle", "Late": "late",
		"NotKept": "not-kept", "Churn": "churn", "Body": "size", "Kinds": "kinds", "Drivers": "driver", "Slow": "slow", "Lazy": "lazy",
		"Rooms":     "rooms",
		"Broadcast": "broadcast", "Large": "large", "Falsify": "falsify", "Events.Hook": "hook", "Events.HookSecret": "hook-secret",
	}[field]
}

// runVerify completes the configuration, of which the flags have set most fields, and runs it.
func runVerify(c *cli.Context, cfg verify.Config, terminal bool) error {
	if cfg.API = split(c.StringSlice("server")); len(cfg.API) == 0 {
		cfg.API = split([]string{flagOrEnv(c, "server", serverEnv, defaultServer)})
	}
	cfg.Key, cfg.Clients = flagOrEnv(c, "api-key", keyEnv, ""), split(c.StringSlice("connect"))
	cfg.Falsify = verify.Falsify(c.String("falsify"))
	if kinds := split(c.StringSlice("kinds")); len(kinds) > 0 {
		cfg.Kinds = nil
		for _, kind := range kinds {
			cfg.Kinds = append(cfg.Kinds, verify.DeviceKind(kind))
		}
	}
	for _, command := range split(c.StringSlice("driver")) {
		cfg.Drivers = append(cfg.Drivers, driver.Command{Args: strings.Fields(command)})
	}
	if len(cfg.Drivers) > 0 && !slices.Contains(cfg.Kinds, verify.DeviceDriver) {
		if !c.IsSet("kinds") {
			cfg.Kinds = nil
		}
		cfg.Kinds = append(cfg.Kinds, verify.DeviceDriver)
	}
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
