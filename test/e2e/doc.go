// Package e2e tests a whole node from outside: real sockets, a data folder on the disk, HTTP
// callers and clients of every generation. Tests of start-up errors, signals and the command line
// run the real binary. The tests here need the whole node: bad input is answered, is counted and
// does not affect others; known bugs of the predecessors do not occur; and the clients and callers
// of the predecessors still work.
//
// The package contains only tests.
package e2e
