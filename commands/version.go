package commands

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/urfave/cli/v2"
)

// Version returns the version of the module. If the build does not know it, Version returns "dev" with
// the revision of the source code, if that is known.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "dev"
	}
	version := info.Main.Version
	if version == "" || version == "(devel)" {
		version = "dev"
	}
	revision, modified := "", ""
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			revision = setting.Value[:min(12, len(setting.Value))]
		case "vcs.modified":
			if setting.Value == "true" {
				modified = "+changes"
			}
		}
	}
	if version == "dev" && revision != "" {
		version += "-" + revision + modified
	}
	return version
}

func versionCommand(opts Options) *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "print the version",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "licenses", Usage: "print the licences of the software by others in imgo", DisableDefaultText: true},
		},
		Action: func(c *cli.Context) error {
			if c.Bool("licenses") {
				return printLine(c, strings.TrimSpace(opts.Notices))
			}
			return printVersion(c)
		},
	}
}

// versionFlag is --version, which people try first.
func versionFlag() cli.Flag {
	return &cli.BoolFlag{Name: "version", Usage: "print the version", DisableDefaultText: true}
}

func printVersion(c *cli.Context) error {
	return printLine(c, fmt.Sprintf("imgo %s (%s, %s/%s)", Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH))
}
