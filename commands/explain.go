package commands

import (
	"fmt"
	"net/url"
	"text/tabwriter"

	"github.com/urfave/cli/v2"
)

// explanation is the answer of GET /v1/users/{user}/messages/{id}/explain.
type explanation struct {
	Steps []struct {
		TimeMS int64 `json:"time_ms"`
		Text   string
	}
	Unknown []string
}

func (x *explanation) write(w *tabwriter.Writer) {
	for _, step := range x.Steps {
		when := "now"
		if step.TimeMS != 0 {
			when = localTime(step.TimeMS)
		}
		fmt.Fprintf(w, "%s\t%s\n", when, step.Text)
	}
	for _, text := range x.Unknown {
		fmt.Fprintf(w, "unknown\t%s\n", text)
	}
}

func explainCommand() *cli.Command {
	path := func(c *cli.Context) (string, error) {
		switch {
		case c.String("user") == "":
			return "", usage(c, "name the user: --user 123")
		case c.NArg() != 1:
			return "", usage(c, "name one message by the id that its push was answered with")
		}
		return "/v1/user/messages/" + url.PathEscape(c.Args().First()) + "/explain?user=" + url.QueryEscape(c.String("user")), nil
	}
	return &cli.Command{
		Name:      "explain",
		Usage:     "say what became of a message, and why it still waits",
		ArgsUsage: "ID",
		Description: "imgo explain --user 123 283242202310656\n\n" +
			"It reads the log from the push on, and asks the owner of the user's messages.",
		Flags:  withAPI(&cli.StringFlag{Name: "user", Usage: "the `user` that the message was pushed to"}, jsonFlag()),
		Action: show(path, (*explanation).write),
	}
}
