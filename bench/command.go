// Package bench measures real imgo processes from outside: imgo bench. It
// starts imgo in an empty temporary directory with ports of its own, drives it
// as callers and clients do (package load), and ends it by its pid. Beside
// each figure it measures, in the same run and on the same machine, what the
// work would cost without imgo (package limit), so that figures of noisy
// machines compare.
//
// It guarantees that every figure is of what really happened: what was lost,
// refused or disconnected is said in a note. It asserts nothing: a slow
// machine is no failure, and a target that is missed is a line of the table.
//
// Clients and limits run in processes of their own (imgo bench child KIND),
// because a process may open only so many files, and so that the server's
// costs are the server's alone. Linux only: it reads /proc and uses epoll.
package bench

import "github.com/urfave/cli/v2"

// Command is `imgo bench`.
func Command() *cli.Command {
	return &cli.Command{
		Name:        "bench",
		Usage:       "measure this imgo on this machine, beside what the machine itself can do",
		Description: description(),
		Flags:       flags(),
		Action:      action,
		Subcommands: []*cli.Command{{
			Name: "child", Usage: "what bench starts: clients and limits in processes of their " +
				"own", ArgsUsage: "KIND", Hidden: true, Action: childAction,
		}},
	}
}
