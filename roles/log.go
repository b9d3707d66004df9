package roles

import (
	"fmt"
	"io"
	"time"

	"github.com/rs/zerolog"

	"imgo/config"
)

// newLogger returns the logger of the node. It writes text on a terminal and JSON elsewhere.
func newLogger(cfg config.Logging, opts RunOptions) (zerolog.Logger, error) {
	level, err := zerolog.ParseLevel(cfg.Level)
	if err != nil {
		return zerolog.Logger{}, fmt.Errorf("logging.level: %w", err)
	}
	var w io.Writer = opts.Stderr
	if forPeople(cfg, opts) {
		w = zerolog.ConsoleWriter{Out: opts.Stderr, TimeFormat: time.TimeOnly, NoColor: !opts.Terminal, FieldsExclude: []string{"node"}}
	}
	// One line at a time: opts.Stderr may be any writer, and a pipe takes a long line in parts.
	return zerolog.New(zerolog.SyncWriter(w)).Level(level).With().Timestamp().Logger(), nil
}

// forPeople reports whether the log is written as text for people.
func forPeople(cfg config.Logging, opts RunOptions) bool {
	return cfg.Format == "console" || cfg.Format != "json" && opts.Terminal
}
