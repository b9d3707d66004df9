//go:build linux && race

package main

// raceEnabled says that the test has the race detector; the nodes then get it
// too, and what it finds there fails the run.
const raceEnabled = true
