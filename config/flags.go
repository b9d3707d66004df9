package config

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"imgo/commands"
)

// Flags holds the command line flags of all settings, and --config. One value collects the flags of
// all commands in a run. It is not safe for concurrent use.
type Flags struct {
	environ []string
	file    string
	texts   map[string][]string
}

// NewFlags returns Flags for an environment in the form of os.Environ.
func NewFlags(environ []string) *Flags {
	return &Flags{environ: environ, texts: map[string][]string{}}
}

// text is the cli.Generic of one flag. It only records the text, so that flags and environment
// share one parser and the precedence is decided in one place. Set is called each time the flag
// occurs.
type text struct {
	record func(string) error
	bool   bool
	shown  string
}

func (t *text) Set(value string) error { return t.record(value) }
func (t *text) String() string         { return t.shown }

// IsBoolFlag lets --flag mean --flag=true. Package flag calls it.
func (t *text) IsBoolFlag() bool { return t.bool }

// CLI returns the flags. If all is true, the help lists every flag by section. Otherwise it lists
// only the common flags; the others work but are hidden.
func (f *Flags) CLI(all bool) []cli.Flag {
	flags := []cli.Flag{&cli.GenericFlag{
		Name:     "config",
		Usage:    "the settings `file` (TOML); make one with: imgo config init [$" + ConfigEnv + "]",
		Category: shownIn(all, ""),
		Value: &text{record: func(value string) error {
			if value == "" {
				return errors.New("names no file")
			}
			f.file = value
			return nil
		}},
	}}
	defaults := Default()
	for _, key := range Keys() {
		for i, name := range key.Flags {
			flags = append(flags, &cli.GenericFlag{
				Name:        name,
				Usage:       key.usage(),
				Category:    shownIn(all, key.section),
				DefaultText: key.defaultText(&defaults),
				// Only the first name is shown. config.example.toml names the other one.
				Hidden: i > 0 || !all && !key.Common,
				Value: &text{
					bool: key.IsBool(),
					record: func(value string) error {
						f.texts[key.Name] = append(f.texts[key.Name], value)
						return nil
					},
				},
			})
		}
	}
	return flags
}

func shownIn(all bool, section string) string {
	if !all {
		return ""
	}
	if section == "" {
		return "this node"
	}
	return "[" + section + "]"
}

// usage returns the key's line in the help. The word in backquotes is the placeholder, which the
// library shows after the flag's name. The variable follows.
func (k *Key) usage() string {
	return fmt.Sprintf("%s [`%s`, $%s]", strings.ReplaceAll(k.Doc, "\n", " "), k.placeholder(), k.Envs[0])
}

// placeholder returns the word for the value in the help.
func (k *Key) placeholder() string {
	switch {
	case k.IsList():
		return "a,b"
	case len(k.Choices) > 0:
		return strings.Join(k.Choices, "|")
	case k.IsBool():
		return "true|false"
	case !k.IsDuration() && !k.IsSize() &&
		(k.Type.Kind() == reflect.Int || k.Type.Kind() == reflect.Int64 || k.Type.Kind() == reflect.Float64):
		return "n"
	}
	switch word := strings.Trim(strings.SplitN(k.Unit+" ", " ", 2)[0], ","); {
	case word == "address", word == "folder", word == "duration", word == "size":
		return word
	case k.IsPath():
		return "file"
	case word == "https://":
		return "url"
	}
	return "text"
}

// defaultText returns the default that the help shows. If it is empty, none is shown.
func (k *Key) defaultText(defaults *Config) string {
	if k.isTables() {
		return ""
	}
	if list, ok := k.value(defaults).Interface().([]string); ok {
		return strings.Join(list, ",")
	}
	return strings.Trim(k.toml(defaults, k.Secret), `"`)
}

// Load merges the settings from the flags, the environment and the file that --config or
// IMGO_CONFIG names.
func (f *Flags) Load() (Config, error) {
	file := f.file
	if file == "" {
		file = environment(f.environ)[ConfigEnv]
	}
	return Load(Sources{Flags: f.texts, Environ: f.environ, File: file})
}

// ConfigCommand returns the command `imgo config` with init, check and show.
func (f *Flags) ConfigCommand() *cli.Command {
	return &cli.Command{
		Name:  "config",
		Usage: "make, check or show the settings",
		Description: "Every setting has a key in the file, a flag and an environment variable.\n" +
			"`imgo serve --help` shows the flags, `imgo config init` the whole file.",
		Subcommands: []*cli.Command{
			{
				Name:      "init",
				Usage:     "print the settings file with every default, or write it to FILE",
				ArgsUsage: "[FILE]",
				Flags:     []cli.Flag{&cli.BoolFlag{Name: "force", Usage: "replace FILE where it exists", DisableDefaultText: true}},
				Action: func(c *cli.Context) error {
					if c.Args().Len() > 1 {
						return &commands.UsageError{
							Message: fmt.Sprintf("unexpected argument %q; name one file at most", c.Args().Get(1)), Command: c.Command.HelpName,
						}
					}
					return initConfig(c.App.Writer, c.Args().First(), c.Bool("force"))
				},
			},
			{
				Name:  "check",
				Usage: "say whether imgo would start with these settings",
				Flags: f.CLI(true),
				Action: f.loaded(func(c *cli.Context, cfg Config) error {
					for _, warning := range cfg.Warnings() {
						fmt.Fprintln(c.App.ErrWriter, "warning: "+warning)
					}
					for _, key := range cfg.HTTP.Keys {
						fmt.Fprintln(c.App.Writer, key.Explain())
					}
					for _, line := range slices.Concat(cfg.ExplainRooms(&cfg.Auth.Config), cfg.ExplainUpstream()) {
						fmt.Fprintln(c.App.Writer, line)
					}
					_, err := fmt.Fprintln(c.App.Writer, "the settings are good")
					return err
				}),
			},
			{
				Name:  "show",
				Usage: "print the settings in effect and where each came from, without secrets",
				Flags: f.CLI(true),
				Action: f.loaded(func(c *cli.Context, cfg Config) error {
					_, err := c.App.Writer.Write(cfg.Show())
					return err
				}),
			},
		},
	}
}

// initConfig writes the example to the file. If file is empty, it writes to out.
func initConfig(out io.Writer, file string, force bool) error {
	if file == "" {
		_, err := out.Write(Example())
		return err
	}
	// The mode is 0600 because the file is going to contain secrets.
	mode := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if force {
		mode = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(file, mode, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s exists already: give --force to replace it", file)
	}
	if err != nil {
		return fmt.Errorf("make the settings file: %w", err)
	}
	_, err = f.Write(Example())
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	_, err = fmt.Fprintf(out, "wrote %s; start with it: imgo --config %s\n", file, file)
	return err
}

// Serve returns the action of `imgo` and `imgo serve`. It loads the settings and calls run with
// them.
func (f *Flags) Serve(run func(context.Context, Config) error) cli.ActionFunc {
	return f.loaded(func(c *cli.Context, cfg Config) error { return run(c.Context, cfg) })
}

// loaded returns the action of a command that needs the settings.
func (f *Flags) loaded(do func(*cli.Context, Config) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		cfg, err := f.Load()
		if err != nil {
			return err
		}
		return do(c, cfg)
	}
}
