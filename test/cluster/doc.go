// Package cluster runs whole clusters in one process: real nodes of any mix
// of roles with real sockets, gossip and disks, on a Kafka that lives in this
// process too. Its tests stop, kill and cut nodes off from one another, and
// every one ends with the judge of the history of what was pushed and received
// (docs/ARCHITECTURE.md, I2 to I4).
//
// What only a process of its own can show (kill -9, SIGSTOP, a real Kafka) is
// bench/chaos's.
//
// There is nothing here but tests.
package cluster
