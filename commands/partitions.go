package commands

import (
	"context"
	"fmt"
	"net/http"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
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
	show := query[partitions]{
		path:  fixed("/v1/partitions"),
		write: func(w *tabwriter.Writer, p *partitions) { fmt.Fprintln(w, p) },
	}
	return &cli.Command{
		Name:  "partitions",
		Usage: "see the kept topic's partitions, or make them more",
		Subcommands: []*cli.Command{
			{
				Name:   "show",
				Usage:  "how many there are, and how far it is where they become more",
				Flags:  withAPI(jsonFlag()),
				Action: show.ask,
			},
			{
				Name:  "grow",
				Usage: "give the kept topic of a running cluster more partitions",
				Description: "imgo partitions grow --to 32\n" +
					"imgo partitions grow --to 32 --no-wait\n\n" +
					"Clients stay connected, and every push that is not kept goes on. Kept pushes\n" +
					"wait until all that waits for users has moved, and are answered with 503 when\n" +
					"that takes longer than they may: do it at a quiet hour. It cannot be undone,\n" +
					"and goes on by itself when this command or any node ends.",
				Flags: withAPI(
					&cli.IntFlag{Name: "to", Usage: "the `number` of partitions there are to be"},
					&cli.BoolFlag{Name: "no-wait", Usage: "do not wait until all has moved", DisableDefaultText: true},
					jsonFlag(),
				),
				Action: grow,
			},
		},
	}
}

func grow(c *cli.Context) error {
	switch {
	case c.Args().Present():
		return usage(c, "%q is too much", c.Args().First())
	case !c.IsSet("to"):
		return usage(c, "how many partitions are there to be? Write --to 32")
	case c.Int("to") < 1:
		return usage(c, "--to must be at least 1")
	}
	a, err := newAPI(c)
	if err != nil {
		return err
	}
	defer a.close()
	var p partitions
	answer, err := a.post(c.Context, "/v1/partitions", map[string]int{"kept": c.Int("to")}, &p, http.Header{})
	if err != nil {
		return fmt.Errorf("grow: %w", err)
	}
	if !c.Bool("no-wait") {
		if answer, err = a.awaitGrowth(c.Context, &p, func() { fmt.Fprintln(c.App.ErrWriter, p) }); err != nil {
			return err
		}
	}
	if c.Bool("json") {
		return printLine(c, string(answer))
	}
	return printLine(c, p.String())
}

// awaitGrowth polls the progress until the growth is complete, and calls tell for each step. It
// retries up to ten failed calls in a row, because the server may be restarting.
func (a *api) awaitGrowth(ctx context.Context, p *partitions, tell func()) (answer []byte, err error) {
	before := *p
	tell()
	for failures := 0; p.Next != 0 || answer == nil; {
		select {
		case <-time.After(growInterval):
		case <-ctx.Done():
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
			tell()
		}
		before = now
	}
	return answer, nil
}
