//go:build !race

package soak_test

// raceEnabled is described in race_test.go.
const raceEnabled = false
