// Package glob matches names of users and rooms against the patterns of settings.
package glob

import (
	"slices"
	"strings"
)

// Match reports whether name fits pattern. A star stands for any text, also for an
// empty one and for one with slashes. Every other character stands for itself.
func Match(pattern, name string) bool {
	head, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == name
	}
	name, ok := strings.CutPrefix(name, head)
	for ok && star {
		var part string
		if part, rest, star = strings.Cut(rest, "*"); !star {
			return strings.HasSuffix(name, part)
		}
		// The first place is good: whatever a later one leaves for the rest of the
		// pattern, the first one leaves as well.
		_, name, ok = strings.Cut(name, part)
	}
	return false
}

// Any reports whether name fits one of the patterns.
func Any(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return Match(pattern, name) })
}
