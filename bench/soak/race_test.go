//go:build race

package soak_test

// raceEnabled says that the test has the race detector; the server then gets
// it too, and what it finds there fails the run.
const raceEnabled = true
