//go:build race

package bench_test

// raceEnabled says that the test has the race detector; the server then gets
// it too, and ends at the first race that it finds, which fails the run.
const raceEnabled = true
