//go:build !race

package bench_test

// raceEnabled is described in race_test.go.
const raceEnabled = false
