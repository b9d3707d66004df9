package commands

import (
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
)

// noArguments refuses all arguments of a command. It names the flag that the argument was probably meant for.
func noArguments(c *cli.Context) error {
	arg := c.Args().First()
	has := func(flag string) bool {
		return slices.ContainsFunc(c.Command.Flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), flag) })
	}
	switch {
	case !c.Args().Present():
		return nil
	case has("config"):
		return usage(c, "unexpected argument %q; name the file with --config %s", arg, arg)
	case has("user"):
		return usage(c, "unexpected argument %q; name the user with --user %s", arg, arg)
	}
	return usage(c, "unexpected argument %q", arg)
}

// printLine prints a line to standard output, which programs may read.
func printLine(c *cli.Context, line string) error {
	if _, err := fmt.Fprintln(c.App.Writer, line); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// printAnswer prints a text for a person, or with --json the answer of the server unchanged.
func printAnswer(c *cli.Context, answer []byte, text string) error {
	if c.Bool("json") {
		text = string(answer)
	}
	return printLine(c, text)
}

// printTable prints what write formats in columns.
func printTable(c *cli.Context, write func(w *tabwriter.Writer)) error {
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	write(w)
	if err := w.Flush(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// localTime formats a time of the API in the local time zone.
func localTime(ms int64) string { return time.UnixMilli(ms).Format(time.RFC3339) }

// count returns a number with its noun in the right form.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
