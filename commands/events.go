package commands

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"imgo/internal/events"
)

// eventsWait is how long one call of imgo events --follow waits for an event.
const eventsWait = "30s"

func eventsCommand() *cli.Command {
	return &cli.Command{
		Name:  "events",
		Usage: "show what became of messages whose pushes asked for a report",
		Description: "imgo events\n" +
			"imgo events --follow --types message.undelivered,message.expired\n" +
			"imgo events --follow --user 123 --json\n\n" +
			"Without --after it begins with the oldest event, or with --follow at the present. In a\n" +
			"cluster whose partitions have grown, it begins with the oldest event since then.",
		Flags: withAPI(
			&cli.StringFlag{Name: "after", Usage: "begin behind a `cursor`, the next of an earlier answer, or now"},
			&cli.StringFlag{Name: "types", Usage: "only these `types`, comma-separated, such as message.*"},
			&cli.StringFlag{Name: "user", Usage: "only events of this `user`"},
			&cli.BoolFlag{Name: "follow", Usage: "go on until it is interrupted", DisableDefaultText: true},
			jsonFlag(),
		),
		Action: calls(showEvents),
	}
}

func showEvents(c *cli.Context, a *api) error {
	follow, query := c.Bool("follow"), url.Values{"limit": {"1000"}}
	for _, name := range []string{"after", "types", "user"} {
		if c.IsSet(name) {
			query.Set(name, c.String(name))
		}
	}
	if follow {
		query.Set("wait", eventsWait)
		if !c.IsSet("after") {
			query.Set("after", "now")
		}
		fmt.Fprintln(c.App.ErrWriter, "waiting for events; Ctrl-C ends")
	}
	for {
		var page struct {
			Events  []json.RawMessage `json:"events"`
			Next    string            `json:"next"`
			More    bool              `json:"more"`
			Skipped int64             `json:"skipped"`
		}
		_, err := a.get(c.Context, "/v1/events?"+query.Encode(), &page)
		if c.Context.Err() != nil && follow {
			return nil
		}
		if err != nil {
			return err
		}
		if page.Skipped > 0 {
			fmt.Fprintf(c.App.ErrWriter, "%d entries were too old to be there still\n", page.Skipped)
		}
		if err := printEvents(c, page.Events); err != nil {
			return err
		}
		if !follow && !page.More {
			return nil
		}
		query.Set("after", page.Next)
	}
}

// printEvents shows events, with --json one a line.
func printEvents(c *cli.Context, list []json.RawMessage) error {
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	for _, raw := range list {
		if c.Bool("json") {
			if err := printLine(c, string(raw)); err != nil {
				return err
			}
			continue
		}
		var e events.Document
		if err := json.Unmarshal(raw, &e); err != nil {
			return fmt.Errorf("an event cannot be read: %w", err)
		}
		id := ""
		if e.Data.ID != 0 {
			id = strconv.FormatUint(e.Data.ID, 10)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", localTime(e.Time.UnixMilli()), e.Type, e.Data.User, id, orDash(e.Data.Ref), detailOf(e))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// detailOf says what the columns of an event do not.
func detailOf(e events.Document) string {
	var parts []string
	if e.Type == events.Delivered {
		parts = append(parts, fmt.Sprintf("to %s after %s", orDash(e.Data.Device), time.Duration(e.Data.AfterMS)*time.Millisecond))
		if e.Data.Auto {
			parts = append(parts, "acknowledged by comet")
		}
	}
	if e.Data.Reason != "" {
		parts = append(parts, e.Data.Reason)
	}
	if len(e.Data.Devices) > 0 {
		parts = append(parts, "waited for "+strings.Join(e.Data.Devices, ", "))
	}
	if len(e.Data.Without) > 0 {
		parts = append(parts, "without "+strings.Join(e.Data.Without, ", "))
	}
	return orDash(strings.Join(parts, "; "))
}
