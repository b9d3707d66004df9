// Package suggest finds what somebody probably meant: the closest of the names
// that exist to one that does not. It keeps no state and prints nothing.
package suggest

import (
	"slices"
	"strings"

	"github.com/xrash/smetrics"
)

// enough is how alike (0 … 1) two names must be for a suggestion to help: high
// enough that "frobnicate" suggests nothing, low enough for two slips of a key.
const enough = 0.82

// Closest returns the candidate most like name, or "" where none is alike
// enough for the question "did you mean …?" to make sense.
func Closest(name string, candidates []string) string {
	best, closest := enough, ""
	for _, candidate := range candidates {
		if alike := likeness(strings.ToLower(name), strings.ToLower(candidate)); alike > best {
			best, closest = alike, candidate
		}
	}
	return closest
}

// likeness is from 0 (nothing in common) to 1 (the same).
func likeness(a, b string) float64 {
	// Short names with two letters swapped, which Jaro-Winkler thinks little of.
	if a != b && letters(a) == letters(b) {
		return 0.99
	}
	// With the boost for a common prefix that the library recommends.
	const boost, prefix = 0.7, 4
	return smetrics.JaroWinkler(a, b, boost, prefix)
}

// letters are the letters of a name, sorted.
func letters(name string) string {
	runes := []rune(name)
	slices.Sort(runes)
	return string(runes)
}
