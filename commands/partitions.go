package commands

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"imgo/internal/wait"
)

// growInterval is the time between two questions for the progress of a growth.
const growInterval = time.Second

// partitions is the answer of GET and POST /v1/partitions.
type partitions struct {
	Kept       int   `json:"kept"`
	Generation int   `json:"generation"`
	Next       int   `json:"next"`
	Moved      int   `json:"moved"`
	SinceMS    int64 `json:"since_ms"`
}

func (p partitions) String() string {
	if p.Next == 0 {
		return fmt.Sprintf("the kept topic has %s (generation %d)", count(p.Kept, "partition"), p.Generation)
	}
	return fmt.Sprintf("the kept topic grows from %d to %d partitions since %s: %d of %d have moved", p.Kept, p.Next, localTime(p.SinceMS),
		p.Moved, p.Kept)
}

func partitionsCommand() *cli.Command {
	return &cli.Command{
		Name:  "partitions",
		Usage: "show the partitions of the kept topic, or add some",
		Subcommands: []*cli.Command{
			{
				Name:   "show",
				Usage:  "show the number of partitions, and the progress while it grows",
				Flags:  withAPI(jsonFlag()),
				Action: show(fixed("/v1/partitions"), func(p *partitions, w *tabwriter.Writer) { fmt.Fprintln(w, p) }),
			},
			{
				Name:  "grow",
				Usage: "add partitions to the kept topic of a running cluster",
				Description: "imgo partitions grow --to 32\n" +
					"imgo partitions grow --to 32 --no-wait\n\n" +
					"Clients stay connected, and pushes that are not kept go on. Kept pushes wait until\n" +
					"all waiting messages have moved. If that takes longer than their deadline, they\n" +
					"are answered with 503, so choose a quiet hour. It cannot be undone. It goes on\n" +
					"by itself when this command or a node ends.",
				Flags: withAPI(
					&cli.IntFlag{Name: "to", Usage: "the new `number` of partitions"},
					&cli.BoolFlag{Name: "no-wait", Usage: "do not wait until everything has moved", DisableDefaultText: true},
					jsonFlag(),
				),
				Action: calls(grow),
			},
		},
	}
}

func grow(c *cli.Context, a *api) error {
	switch {
	case !c.IsSet("to"):
		return usage(c, "the new number of partitions is missing; write --to 32")
	case c.Int("to") < 1:
		return usage(c, "--to must be at least 1")
	}
	var p partitions
	answer, err := a.post(c.Context, "/v1/partitions", map[string]int{"kept": c.Int("to")}, &p)
	if err != nil {
		return fmt.Errorf("grow: %w", err)
	}
	if !c.Bool("no-wait") {
		if answer, err = a.awaitGrowth(c.Context, &p, func() { fmt.Fprintln(c.App.ErrWriter, p) }); err != nil {
			return err
		}
	}
	return printAnswer(c, answer, p.String())
}

// awaitGrowth polls the progress until the growth is complete, and calls show for each step. It
// retries up to ten failed calls in a row, because the server may be restarting.
func (a *api) awaitGrowth(ctx context.Context, p *partitions, show func()) (answer []byte, err error) {
	before := *p
	show()
	for failures := 0; p.Next != 0 || answer == nil; {
		if wait.Sleep(ctx, growInterval) != nil {
			return nil, fmt.Errorf("interrupted; the topic goes on growing: see imgo partitions show")
		}
		var now partitions
		if answer, err = a.get(ctx, "/v1/partitions", &now); err != nil {
			if failures++; failures > 10 {
				return nil, fmt.Errorf("the topic goes on growing, but how far it is cannot be said: %w", err)
			}
			continue
		}
		failures = 0
		if *p = now; now != before && now.Next != 0 {
			show()
		}
		before = now
	}
	return answer, nil
}
