package config

import (
	"fmt"
	"strings"
)

// Problem is one thing that is wrong with the settings.
type Problem struct {
	// Where is where the value came from: "imgo.toml:12:5",
	// "IMGO_COMET_TCP", "--tcp"; empty: a default, or no single place.
	Where string
	// Key is the setting, "comet.tcp"; empty: the file as a whole.
	Key string
	// Text says what is wrong, Mend what to do about it (may be empty).
	Text, Mend string
	// Snippet is the offending line of the file, with its number.
	Snippet string
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
	if p.Mend != "" {
		b.WriteString("; " + p.Mend)
	}
	if p.Snippet != "" {
		b.WriteString("\n" + p.Snippet)
	}
	return b.String()
}

// ConfigError is why the settings are refused: every problem that was found,
// so that one start shows all of them.
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

// ExitCode is 2, usage: starting again does not help until somebody has
// changed what they asked for (systemd: RestartPreventExitStatus=2).
func (e *ConfigError) ExitCode() int { return 2 }

// problems gathers what is wrong.
type problems []Problem

func (p *problems) add(where, key, text, mend string) {
	*p = append(*p, Problem{Where: where, Key: key, Text: text, Mend: mend})
}

func (p problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return &ConfigError{Problems: p}
}
