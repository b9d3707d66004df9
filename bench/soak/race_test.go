//go:build race

package soak_test

// raceEnabled reports whether the test runs with the race detector. The server is then
// built with it too, and a race in it fails the run.
const raceEnabled = true
