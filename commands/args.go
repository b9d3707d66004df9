package commands

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// flagsFirst moves the flags of the command in args before its arguments. The parser of the library
// stops at the first argument, so `imgo push MESSAGE --user 123` would fail otherwise. Everything
// after "--" stays as it is.
func flagsFirst(app *cli.App, args []string) []string {
	if len(args) == 0 {
		return args
	}
	commands, flags := app.Commands, app.Flags
	done := 1 // args[:done] are in their final place
	for {
		// Flags before the name of the next command belong to the current one.
		at := done
		for at < len(args) && isFlag(args[at]) {
			at += width(flags, args[at])
		}
		if at >= len(args) || args[at] == "--" {
			return args
		}
		index := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(args[at]) })
		if index < 0 {
			return args
		}
		command := commands[index]
		done, commands, flags = at+1, command.Subcommands, command.Flags
		if len(commands) == 0 {
			break
		}
	}
	var before, arguments []string
	rest := args[done:]
	for i := 0; i < len(rest); {
		switch {
		case rest[i] == "--":
			arguments = append(arguments, rest[i+1:]...)
			i = len(rest)
		case slices.Contains(cli.HelpFlag.Names(), strings.TrimLeft(rest[i], "-")) && isFlag(rest[i]):
			// Drop everything else, because the help would take an argument for a topic.
			return append(slices.Clone(args[:done]), rest[i])
		case isFlag(rest[i]):
			end := min(i+width(flags, rest[i]), len(rest))
			before = append(before, rest[i:end]...)
			i = end
		default:
			arguments = append(arguments, rest[i])
			i++
		}
	}
	arranged := append(slices.Clone(args[:done]), before...)
	if len(arguments) > 0 {
		arranged = append(append(arranged, "--"), arguments...)
	}
	return arranged
}

// isFlag reports whether the argument is a flag. "-" alone is not a flag: it means standard input.
func isFlag(arg string) bool {
	return len(arg) > 1 && arg[0] == '-' && arg != "--"
}

// width returns the number of arguments that a flag takes, including itself.
func width(flags []cli.Flag, arg string) int {
	name, _, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	if hasValue {
		return 1
	}
	for _, flag := range flags {
		if !slices.Contains(flag.Names(), name) {
			continue
		}
		switch f := flag.(type) {
		case *cli.BoolFlag:
			return 1
		case *cli.GenericFlag:
			if b, ok := f.Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() {
				return 1
			}
		}
		return 2
	}
	return 1 // unknown or help: the parser reports it
}
