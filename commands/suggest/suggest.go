// Package suggest finds the existing name that is most similar to a mistyped one. It has no state
// and prints nothing.
package suggest

import (
	"slices"
	"strings"

	"github.com/xrash/smetrics"
)

// minSimilarity is the lowest similarity (0 to 1) for a suggestion. At this value "frobnicate" gets
// no suggestion, and a name with two typing errors still gets one.
const minSimilarity = 0.82

// Closest returns the candidate most similar to name, or "" if none is similar enough.
func Closest(name string, candidates []string) string {
	closest, best := "", minSimilarity
	for _, candidate := range candidates {
		if similar := similarity(strings.ToLower(name), strings.ToLower(candidate)); similar > best {
			closest, best = candidate, similar
		}
	}
	return closest
}

// similarity returns the similarity of two names, from 0 (nothing in common) to 1 (equal).
func similarity(a, b string) float64 {
	// Names with the same letters in another order count as nearly equal. Jaro-Winkler rates them too low.
	if a != b && letters(a) == letters(b) {
		return 0.99
	}
	// These are the recommended parameters for the bonus of a common prefix.
	const boost, prefix = 0.7, 4
	return smetrics.JaroWinkler(a, b, boost, prefix)
}

// letters returns the letters of a name, sorted.
func letters(name string) string {
	runes := []rune(name)
	slices.Sort(runes)
	return string(runes)
}
