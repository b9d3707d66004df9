// Package model runs the real roles in one process under random schedules
// and faults, and judges the history against the invariants I2 (nothing kept
// is lost), I3 (a session sees an id once) and I4 (order) of
// docs/ARCHITECTURE.md. It also leaves out one rule of the design at a time
// and demands that the judge finds it.
//
// There is nothing here but tests.
package model
