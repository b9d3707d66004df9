// Package model runs the real roles in one process under random schedules and faults. It judges the
// history against three invariants of docs/ARCHITECTURE.md: I2 (nothing kept is lost), I3 (a session
// sees an id once) and I4 (order). It compares the events topic with what a router without faults
// derives from the log, each event once and in order. It also leaves out one rule of the design at a
// time and demands that the judge finds it.
//
// Each run is in a bubble of testing/synctest: its time is virtual, so that
// waiting costs nothing and a slow machine changes no timeout.
//
// A seed fixes the plan and the sequence of random numbers, but it does not
// replay a run exactly. Many goroutines draw from the sequence in the order in
// which they run. That order, the choice of a select and the order of a map are
// random in Go and have no seed. A schedule that failed is found again by
// running its seed many times: go test -run TestInvariantsHold/3 -count 100.
//
// There is nothing here but tests.
package model
