// Package commands is imgo's command line as its users see it: the commands
// that talk to a running server through its HTTP API (token, push, listen,
// users, rooms, nodes, stats, partitions, verify), version, and the frame around all of them:
// help that teaches, suggestions for slips, exit codes.
//
// It guarantees that what a script reads (a token, a message, JSON) is alone
// on standard output, that everything said to a person goes to standard
// error, and that an error says what to do about it.
//
// It knows nothing of roles and settings: main hands it the serving side, and
// it has no other way to the server than any program has.
package commands

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"imgo/commands/suggest"
)

// Exit codes of the imgo command.
const (
	ExitDone   = 0 // what was asked is done; also a listen that was interrupted
	ExitFailed = 1 // it was understood and did not work
	ExitUsage  = 2 // it was not understood, or its settings are wrong
)

// Options is what the command line is made of beside its own commands.
type Options struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Terminal says that Stderr is a terminal.
	Terminal bool
	// Serve runs the server: imgo without a command, and imgo serve.
	Serve cli.ActionFunc
	// Flags are the server's flags: the first for imgo itself, where only the
	// common ones are shown, the second for imgo serve, which shows all.
	Flags, AllFlags []cli.Flag
	// Extra are further commands that main brings.
	Extra []*cli.Command
}

// UsageError is a command line that was not understood.
type UsageError struct {
	// Message says what is wrong and what to write instead.
	Message string
	// Command is whose help shows how it is done: "imgo push".
	Command string
}

func (e *UsageError) Error() string {
	if e.Command == "" {
		return e.Message
	}
	return e.Message + "\nsee: " + e.Command + " --help"
}

// ExitCode is ExitUsage.
func (e *UsageError) ExitCode() int { return ExitUsage }

// usage makes a UsageError of the command that c runs.
func usage(c *cli.Context, format string, args ...any) error {
	return &UsageError{Message: fmt.Sprintf(format, args...), Command: c.Command.HelpName}
}

// ExitCode is the exit code for an error of Run: ExitDone for nil, what the
// error itself asks for, else ExitFailed.
func ExitCode(err error) int {
	var coder interface{ ExitCode() int }
	switch {
	case err == nil:
		return ExitDone
	case errors.As(err, &coder):
		return coder.ExitCode()
	}
	return ExitFailed
}

// Run runs one command line, args[0] being the program's name. It never exits
// the process and prints no error: main does both.
func Run(ctx context.Context, opts Options, args []string) error {
	app := newApp(opts)
	return app.RunContext(ctx, arrange(app, args))
}

func newApp(opts Options) *cli.App {
	app := &cli.App{
		Name:                      "imgo",
		HelpName:                  "imgo",
		Usage:                     "a push server: clients connect, callers push, nothing kept is lost",
		CustomAppHelpTemplate:     appHelp,
		Reader:                    opts.Stdin,
		Writer:                    opts.Stdout,
		ErrWriter:                 opts.Stderr,
		HideVersion:               true,
		DisableSliceFlagSeparator: true, // a user's name may have a comma
		Flags:                     append(hidden(apiFlags()), opts.Flags...),
		Action:                    serveOr(opts.Serve),
		// The default handler would exit the process.
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   onUsageError,
	}
	app.Commands = append([]*cli.Command{
		serveCommand(opts), tokenCommand(), pushCommand(), listenCommand(), usersCommand(), roomsCommand(),
		nodesCommand(), statsCommand(), partitionsCommand(), verifyCommand(opts),
	}, opts.Extra...)
	app.Commands = append(app.Commands, versionCommand())
	for _, command := range app.Commands {
		prepare(command)
	}
	return app
}

// prepare gives a command and those below it what the library does not pass
// down.
func prepare(command *cli.Command) {
	command.OnUsageError = onUsageError
	// A command's own "help" command would take an argument "help" for itself,
	// such as the message of imgo push.
	command.HideHelpCommand = true
	for _, sub := range command.Subcommands {
		prepare(sub)
	}
	if len(command.Subcommands) > 0 && command.Action == nil {
		command.Action = func(c *cli.Context) error { return noCommand(c, c.Command.Subcommands) }
	}
}

// hidden hides flags from the help; they work all the same.
func hidden(flags []cli.Flag) []cli.Flag {
	for _, flag := range flags {
		if f, ok := flag.(*cli.StringFlag); ok {
			f.Hidden = true
		}
	}
	return flags
}

// serveOr serves, unless there is an argument: then a command was meant.
func serveOr(serve cli.ActionFunc) cli.ActionFunc {
	return func(c *cli.Context) error {
		if c.Args().Present() {
			return noCommand(c, c.App.Commands)
		}
		return serve(c)
	}
}

func serveCommand(opts Options) *cli.Command {
	return &cli.Command{
		Name:        "serve",
		Usage:       "run the server; the same as imgo alone",
		Description: "Every setting as a flag. `imgo config init` prints them as a file, with more words.",
		Flags:       opts.AllFlags,
		Action:      serveOr(opts.Serve),
	}
}

// noCommand is the error of a name that is no command, or of none where one
// is needed.
func noCommand(c *cli.Context, commands []*cli.Command) error {
	var names []string
	for _, command := range commands {
		if !command.Hidden {
			names = append(names, command.Name)
		}
	}
	path := c.Command.HelpName
	given := c.Args().First()
	if given == "" {
		return &UsageError{fmt.Sprintf("%s needs a command: %s", path, strings.Join(names, ", ")), path}
	}
	message := fmt.Sprintf("%s has no command %q", path, given)
	if meant := suggest.Closest(given, names); meant != "" {
		message += fmt.Sprintf("; did you mean %s %s?", path, meant)
	}
	return &UsageError{message, path}
}

// onUsageError turns the flag package's errors into ours, with a suggestion
// for a flag that does not exist.
func onUsageError(c *cli.Context, err error, _ bool) error {
	unknown, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	if !ok {
		return usage(c, "%s", err)
	}
	unknown = strings.TrimLeft(unknown, "-")
	message := fmt.Sprintf("%s has no flag --%s", c.Command.HelpName, unknown)
	var names []string
	for _, flag := range c.Command.Flags {
		names = append(names, flag.Names()...)
	}
	if meant := suggest.Closest(unknown, names); meant != "" {
		message += fmt.Sprintf("; did you mean --%s?", meant)
	}
	return usage(c, "%s", message)
}

// appHelp is `imgo --help`: short enough to read, and it teaches.
const appHelp = `imgo - {{.Usage}}

FIRST STEPS
   imgo                                  run the server here; data goes to ./imgo-data
   imgo listen --user 123                connect as user 123 and print what comes
   imgo push --user 123 '{"test":1}'     push to user 123; kept until acknowledged
   imgo users show 123                   is 123 online, and what waits?

   Each in a terminal of its own. The page to try it is at http://127.0.0.1:7172/.

COMMANDS{{range .VisibleCommands}}
   {{.Name}}{{indent (subtract 12 (offset .Name 0)) ""}}{{.Usage}}{{end}}

   imgo COMMAND --help shows a command's flags and examples.

FLAGS OF THE SERVER{{range .VisibleFlags}}
   {{.}}{{end}}

   Every setting has a flag (imgo serve --help), a variable (IMGO_…) and a key
   in the settings file (imgo config init). Flags weigh more than variables,
   variables more than the file.

EXIT CODES   0 done   1 failed   2 not understood, or wrong settings
`
