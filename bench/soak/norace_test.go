//go:build !race

package soak_test

// raceEnabled: see race_test.go.
const raceEnabled = false
