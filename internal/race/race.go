//go:build race

// Package race says whether this program has the race detector. Tests use it.
package race

// Enabled reports whether the race detector is on.
const Enabled = true
