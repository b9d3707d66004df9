package commands

import (
	"fmt"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"imgo/internal/events"
	"imgo/internal/settings"
)

// hookList is the answer of GET /v1/hooks.
type hookList struct{ Hooks []events.Hook }

func (l *hookList) write(w *tabwriter.Writer) {
	if len(l.Hooks) == 0 {
		fmt.Fprintln(w, "there are no hooks: add [[hooks]] to the settings")
		return
	}
	fmt.Fprintln(w, "HOOK\tLAG\tWAITING\tDEAD LETTERS\tSTATE")
	for _, h := range l.Hooks {
		state := "ok"
		switch {
		case h.Paused != "":
			state = fmt.Sprintf("paused since %s: %s", localTime(h.PausedMS), h.Paused)
		case h.Error != "":
			state = fmt.Sprintf("failed at %s: %s", localTime(h.ErrorMS), h.Error)
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\n", h.Name, h.Lag, h.Waiting, h.DeadLetters, state)
	}
}

// writeDead writes the dead letters of all hooks.
func (l *hookList) writeDead(w *tabwriter.Writer) {
	fmt.Fprintln(w, "TIME\tHOOK\tUSER\tEVENT\tTRIES\tREASON")
	for _, h := range l.Hooks {
		for _, d := range h.Letters {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", localTime(d.TimeMS), h.Name, d.User, d.Event, d.Tries, d.Reason)
		}
	}
}

func hooksCommand() *cli.Command {
	path := fixed("/v1/hooks")
	return &cli.Command{
		Name:  "hooks",
		Usage: "show the hooks that events are posted to, or post events again",
		Subcommands: []*cli.Command{
			{
				Name:   "show",
				Usage:  "show what each hook has done and has to do",
				Flags:  withAPI(jsonFlag()),
				Action: show(path, (*hookList).write),
			},
			{
				Name:   "dead",
				Usage:  "show the newest events that hooks have set aside",
				Flags:  withAPI(jsonFlag()),
				Action: show(path, (*hookList).writeDead),
			},
			{
				Name:      "replay",
				Usage:     "post events again",
				ArgsUsage: "HOOK",
				Description: "imgo hooks replay --dead orders\n" +
					"imgo hooks replay --from 2h orders\n" +
					"imgo hooks replay --from 2026-11-29T18:00:00Z orders\n\n" +
					"Events have the same ids as before, so that a receiver can drop those that it has.",
				Flags: withAPI(
					&cli.StringFlag{Name: "from", Usage: "everything since a `time`, or for so long a time, such as 2h"},
					&cli.BoolFlag{Name: "dead", Usage: "the dead letters", DisableDefaultText: true},
				),
				Action: calls(replayHook),
			},
			{
				Name:        "resume",
				Usage:       "end the pause of a hook whose address has answered 410",
				ArgsUsage:   "HOOK",
				Description: "imgo hooks resume orders",
				Flags:       withAPI(),
				Action:      calls(func(c *cli.Context, a *api) error { return a.changeHook(c, "resume", nil, "the hook goes on") }),
			},
		},
	}
}

func replayHook(c *cli.Context, a *api) error {
	switch {
	case c.Bool("dead") == c.IsSet("from"):
		return usage(c, "write --dead, or --from with a time")
	case c.Bool("dead"):
		return a.changeHook(c, "retry", nil, "the dead letters are posted again")
	}
	from, err := parseTime(c.String("from"), time.Now())
	if err != nil {
		return usage(c, "--from: %v", err)
	}
	ms := from.UnixMilli()
	return a.changeHook(c, "replay", map[string]any{"from_ms": ms}, "the events since "+localTime(ms)+" are posted again")
}

// parseTime reads a time (RFC 3339), or a duration before now.
func parseTime(text string, now time.Time) (time.Time, error) {
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	ago, err := settings.ParseDuration(text)
	if err != nil || ago <= 0 {
		return time.Time{}, fmt.Errorf("%q is neither a time such as 2026-11-29T18:00:00Z nor a duration such as 2h", text)
	}
	return now.Add(-ago), nil
}

// changeHook calls POST /v1/hooks/{hook}/what.
func (a *api) changeHook(c *cli.Context, what string, body any, done string) error {
	if c.NArg() != 1 {
		return usage(c, "name one hook")
	}
	var reply struct{}
	path := "/v1/hooks/" + url.PathEscape(c.Args().First()) + "/" + what
	if _, err := a.post(c.Context, path, body, &reply); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return printLine(c, done)
}
