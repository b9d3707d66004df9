//go:build race

package bench_test

// raceEnabled reports whether the test runs with the race detector. The server is then
// built with it too. It ends at the first race that it finds, which fails the run.
const raceEnabled = true
