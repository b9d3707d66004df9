package config

import (
	"fmt"
	"strings"
)

// Problem is one error in the settings.
type Problem struct {
	// Where is the source of the value: "imgo.toml:12:5", "IMGO_COMET_TCP" or "--tcp". It is empty
	// for a default, or if there is no single source.
	Where string
	// Key is the setting, such as "comet.tcp". It is empty if the problem concerns the whole file.
	Key string
	// Text says what is wrong. Fix says how to correct it, and may be empty.
	Text, Fix string
	// Snippet is the faulty line of the file with its line number.
	Snippet string

	line, column int // of the file, by which problems are sorted
}

func (p Problem) String() string {
	var b strings.Builder
	if p.Where != "" {
		b.WriteString(p.Where + ": ")
	}
	if p.Key != "" {
		b.WriteString(p.Key + " ")
	}
	b.WriteString(p.Text)
	if p.Fix != "" {
		b.WriteString("; " + p.Fix)
	}
	if p.Snippet != "" {
		b.WriteString("\n" + p.Snippet)
	}
	return b.String()
}

// ConfigError reports all problems of the settings together, so that one failed start shows every
// one of them.
type ConfigError struct{ Problems []Problem }

func (e *ConfigError) Error() string {
	if len(e.Problems) == 1 {
		return "settings: " + e.Problems[0].String()
	}
	lines := []string{fmt.Sprintf("settings: %d problems", len(e.Problems))}
	for _, p := range e.Problems {
		lines = append(lines, "  "+strings.ReplaceAll(p.String(), "\n", "\n  "))
	}
	return strings.Join(lines, "\n")
}

// exitConfig is EX_CONFIG of sysexits.h. Nothing else ends the process with it: Go's runtime ends it
// with 2 after a panic.
const exitConfig = 78

// ExitCode returns 78. A restart does not help before the settings have been changed (systemd:
// RestartPreventExitStatus=78).
func (e *ConfigError) ExitCode() int { return exitConfig }

// problems collects errors in the settings.
type problems []Problem

func (p *problems) add(where, key, text, fix string) {
	*p = append(*p, Problem{Where: where, Key: key, Text: text, Fix: fix})
}

func (p problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return &ConfigError{Problems: p}
}
