// Command imgo is a push server. Clients connect to it, callers push messages to users, and kept
// messages wait until they are acknowledged. Without a command imgo runs the server; most commands
// talk to a running server. This file connects the command line (package commands) to the server
// (package roles).
package main

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/mattn/go-isatty"
	"github.com/urfave/cli/v2"

	"imgo/bench"
	"imgo/commands"
	"imgo/config"
	"imgo/roles"
)

// notices names what others have written of this program, with their licences. TestThirdParty writes it.
//
//go:embed THIRD-PARTY.txt
var notices string

func main() {
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as under nohup
		ends = append(ends, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	// The first signal starts an orderly stop and removes the handler, so that a second signal ends
	// the process at once. A terminal that closes sends several SIGHUPs; they are one.
	context.AfterFunc(ctx, func() {
		signal.Ignore(syscall.SIGHUP)
		stop()
	})
	err := run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "imgo:", err)
	}
	os.Exit(commands.ExitCode(err))
}

// run runs one command line until the command ends or ctx is cancelled. The caller prints the
// error.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	flags := config.NewFlags(os.Environ())
	return commands.Run(ctx, commands.Options{
		Stdin:    stdin,
		Stdout:   stdout,
		Stderr:   stderr,
		Terminal: isTerminal(stderr),
		Screen:   isTerminal(stdout),
		Flags:    flags.CLI(false),
		AllFlags: flags.CLI(true),
		Notices:  notices,
		Extra:    []*cli.Command{flags.ConfigCommand(), bench.Command()},
		Serve: flags.Serve(func(ctx context.Context, cfg config.Config) error {
			// A log reader that ends must not end the server with its next line. A client command
			// ends with its reader, as in imgo listen | head.
			signal.Ignore(syscall.SIGPIPE)
			return roles.Run(ctx, cfg, roles.RunOptions{
				Stdout: stdout, Stderr: stderr, Version: commands.Version(), Program: program(args[0]),
				Terminal: isTerminal(stderr),
			})
		}),
	}, args)
}

// program returns how a shell runs this program, which was run as arg0: imgo if the path leads to it,
// else arg0.
func program(arg0 string) string {
	const name = "imgo"
	found, err := exec.LookPath(name)
	if err != nil {
		return arg0
	}
	self, err := os.Executable()
	if err != nil {
		return arg0
	}
	a, errA := os.Stat(found)
	b, errB := os.Stat(self)
	if errA != nil || errB != nil || !os.SameFile(a, b) {
		return arg0
	}
	return name
}

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}
