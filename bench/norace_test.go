//go:build !race

package bench_test

// raceEnabled: see race_test.go.
const raceEnabled = false
