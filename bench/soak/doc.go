// Package soak kills a real server again and again while package verify pushes and receives. Verify
// judges what arrives against the guarantees I1 to I4 in docs/ARCHITECTURE.md.
//
// The complete run is `make soak`. A short run is a test of this package, and so a part of
// `go test ./...`.
//
// The package ends only processes that it has started. It does not simulate a loss of power:
// everything that the operating system has accepted counts as stored. The tests of package store
// cover power loss.
//
// The package contains only tests.
package soak
