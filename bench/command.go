// Package bench implements imgo bench, which measures real imgo processes from
// outside. It starts imgo in an empty temporary directory with its own ports, and uses
// it as callers and clients do (package load). It ends only that process, by its pid.
// Beside each figure, in the same run and on the same machine, it measures the cost of
// the work without imgo (package limit). So figures of machines with other load remain
// comparable.
//
// A figure covers only what really happened. A note reports everything that was lost,
// refused or disconnected. The bench asserts nothing: a slow machine is no failure,
// and a missed target is only a line of the table.
//
// Clients and limits run in child processes (imgo bench child KIND). One process may
// open only a limited number of files, and the measured costs of the server must not
// include those of the clients. The package supports only Linux, because it reads
// /proc and uses epoll.
package bench

import "github.com/urfave/cli/v2"

// Command returns the command `imgo bench`.
func Command() *cli.Command {
	o := &options{}
	return &cli.Command{
		Name:        "bench",
		Usage:       "measure this imgo, and the limits of this machine beside it",
		Description: description(),
		Flags:       flags(o),
		Action:      func(c *cli.Context) error { return action(c, o) },
		Subcommands: []*cli.Command{{
			Name: "child", Usage: "run a child process of bench: clients, or a limit of the machine", ArgsUsage: "KIND",
			Hidden: true, Action: childAction,
		}},
	}
}
