//go:build linux && race

package main

// raceEnabled reports whether the test runs with the race detector. The nodes are then
// built with it too, and a race in them fails the run.
const raceEnabled = true
