// Package commands implements the command line of imgo. Most commands call the HTTP API of a running
// server. The package also has serve, version, completion, the help texts, suggestions for typing errors,
// and the exit codes.
//
// Standard output contains only what a script reads: a token, a message or JSON. Everything for a
// person goes to standard error. Every error says how to fix it.
//
// The package does not know roles or settings. The main package passes in the function that serves.
// The commands use only the public API, like any other program.
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
	ExitDone   = 0  // success, including an interrupted listen
	ExitFailed = 1  // the command was valid but failed
	ExitUsage  = 64 // the command line is wrong (EX_USAGE); 2 is that of a panic
	ExitConfig = 78 // a setting is wrong (EX_CONFIG)
)

// Options holds what the main package provides to the command line.
type Options struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Terminal is true if Stderr is a terminal, and Screen if Stdout is.
	Terminal, Screen bool
	// Serve runs the server, for imgo without a command and for imgo serve.
	Serve cli.ActionFunc
	// Flags are the server flags of imgo itself, which shows only the common ones. AllFlags are
	// those of imgo serve, which shows all.
	Flags, AllFlags []cli.Flag
	// Notices is what version --licenses prints: the licences of what others have written.
	Notices string
	// Extra holds further commands of the main package.
	Extra []*cli.Command
}

// UsageError reports a command line that is not valid.
type UsageError struct {
	// Message says what is wrong and what to write instead.
	Message string
	// Command is the command whose help applies, such as "imgo push".
	Command string
}

func (e *UsageError) Error() string {
	if e.Command == "" {
		return e.Message
	}
	return e.Message + "\nsee: " + e.Command + " --help"
}

// ExitCode returns ExitUsage.
func (e *UsageError) ExitCode() int { return ExitUsage }

// usage returns a UsageError for the command that c runs.
func usage(c *cli.Context, format string, args ...any) error {
	return &UsageError{Message: fmt.Sprintf(format, args...), Command: c.Command.HelpName}
}

// ExitCode returns the exit code for an error of Run: ExitDone for nil, the code of the error if it
// has one, else ExitFailed.
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

// Run runs one command line. args[0] is the name of the program. Run never exits the process and
// prints no error. The caller does both.
func Run(ctx context.Context, opts Options, args []string) error {
	app := newApp(opts, complete(args))
	if !completing(args) {
		args = flagsFirst(app, args)
	}
	err := app.RunContext(ctx, args)
	if topic, ok := unknownTopic(err); ok {
		return unknownCommand("imgo", topic, app.Commands)
	}
	return err
}

// unknownTopic reports whether err comes from `imgo help TOPIC` with an unknown topic, and returns the
// topic. The library has an exit code of its own for it.
func unknownTopic(err error) (string, bool) {
	var exit cli.ExitCoder
	if !errors.As(err, &exit) {
		return "", false
	}
	topic, ok := strings.CutPrefix(exit.Error(), "No help topic for '")
	return strings.TrimSuffix(topic, "'"), ok
}

func newApp(opts Options, complete cli.BashCompleteFunc) *cli.App {
	app := &cli.App{
		Name:                      "imgo",
		HelpName:                  "imgo",
		Usage:                     "a push server: clients connect, callers push, nothing kept is lost",
		CustomAppHelpTemplate:     appHelp,
		Reader:                    opts.Stdin,
		Writer:                    opts.Stdout,
		ErrWriter:                 opts.Stderr,
		HideVersion:               true, // serveOr handles --version
		EnableBashCompletion:      true,
		BashComplete:              complete,
		DisableSliceFlagSeparator: true, // names of users may contain commas
		Flags:                     append(append(hidden(apiFlags()), versionFlag()), opts.Flags...),
		Action:                    serveOr(opts.Serve),
		// The default handler would exit the process.
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   onUsageError,
	}
	app.Commands = append([]*cli.Command{
		serveCommand(opts), tokenCommand(), pushCommand(), listenCommand(opts), usersCommand(), roomsCommand(), eventsCommand(), noticesCommand(),
		nodesCommand(), statsCommand(), partitionsCommand(), hooksCommand(), explainCommand(), verifyCommand(opts),
	}, opts.Extra...)
	app.Commands = append(app.Commands, completionCommand(), versionCommand(opts))
	for _, command := range app.Commands {
		prepare(command, complete)
	}
	return app
}

// prepare sets options on a command and its subcommands that the library does not inherit.
func prepare(command *cli.Command, complete cli.BashCompleteFunc) {
	command.BashComplete = complete
	command.OnUsageError = onUsageError
	// The help subcommand would take the argument "help" for itself, for example as the message of
	// imgo push.
	command.HideHelpCommand = true
	if len(command.Subcommands) == 0 && strings.TrimSpace(command.ArgsUsage) == "" {
		command.ArgsUsage, command.Before = " ", noArguments // the help would show "[arguments...]" otherwise
	}
	for _, sub := range command.Subcommands {
		prepare(sub, complete)
	}
	if len(command.Subcommands) > 0 && command.Action == nil {
		command.Action = func(c *cli.Context) error { return noCommand(c, c.Command.Subcommands) }
	}
}

// hidden hides flags from the help. They still work.
func hidden(flags []cli.Flag) []cli.Flag {
	for _, flag := range flags {
		if f, ok := flag.(*cli.StringFlag); ok {
			f.Hidden = true
		}
	}
	return flags
}

// serveOr serves if there is no argument. An argument was meant as a command, which does not exist.
func serveOr(serve cli.ActionFunc) cli.ActionFunc {
	return func(c *cli.Context) error {
		switch {
		case c.Args().Present():
			return noCommand(c, c.App.Commands)
		case c.Bool("version"):
			return printVersion(c)
		}
		return serve(c)
	}
}

func serveCommand(opts Options) *cli.Command {
	return &cli.Command{
		Name:        "serve",
		Usage:       "run the server; the same as imgo alone",
		Description: "Every setting has a flag here. `imgo config init` prints all settings as a file, with more explanation.",
		Flags:       opts.AllFlags,
		Action:      serveOr(opts.Serve),
	}
}

// noCommand returns the error for an unknown or missing command name.
func noCommand(c *cli.Context, commands []*cli.Command) error {
	path := c.Command.HelpName
	given := c.Args().First()
	if given == "" {
		return &UsageError{fmt.Sprintf("%s needs a command: %s", path, strings.Join(commandNames(commands), ", ")), path}
	}
	return unknownCommand(path, given, commands)
}

// unknownCommand returns the error for a name that no command has. It suggests a similar one.
func unknownCommand(path, given string, commands []*cli.Command) error {
	message := fmt.Sprintf("%s has no command %q", path, given)
	if meant := suggest.Closest(given, commandNames(commands)); meant != "" {
		message += fmt.Sprintf("; did you mean %s %s?", path, meant)
	}
	return &UsageError{message, path}
}

func commandNames(commands []*cli.Command) []string {
	var names []string
	for _, command := range commands {
		if !command.Hidden {
			names = append(names, command.Name)
		}
	}
	return names
}

// onUsageError turns an error of the flag package into a UsageError. For an unknown flag it
// suggests a similar one.
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

// appHelp is the template of `imgo --help`. Keep it short. It should teach the first steps.
const appHelp = `imgo - {{.Usage}}

FIRST STEPS
   imgo                                  run the server here; data goes to ./imgo-data
   imgo listen --user 123                connect as user 123 and print what comes
   imgo push --user 123 '{"test":1}'     push to user 123; kept until acknowledged
   imgo users show 123                   is user 123 online, and what waits?

   Use a terminal for each of the first two. A page to try it is at http://127.0.0.1:7172/.

COMMANDS{{range .VisibleCommands}}
   {{.Name}}{{indent (subtract 12 (offset .Name 0)) ""}}{{.Usage}}{{end}}

   imgo COMMAND --help shows a command's flags and examples.

FLAGS OF THE SERVER{{range .VisibleFlags}}
   {{.}}{{end}}

   Every setting has a flag (imgo serve --help), a variable (IMGO_…) and a key
   in the settings file (imgo config init). A flag overrides a variable, and a
   variable overrides the file.

EXIT CODES   0 done   1 failed   64 not understood   78 wrong settings
`
