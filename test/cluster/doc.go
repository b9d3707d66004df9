// Package cluster tests whole clusters in one process. They have real nodes of any mix of
// roles, with real sockets, gossip and disks, and a Kafka in the same process. The tests
// stop and kill nodes, and cut them off from each other. Every test ends with a judgement of
// the history of pushes and deliveries (docs/ARCHITECTURE.md, I2 to I4).
//
// bench/chaos has the tests that need processes of their own: kill -9, SIGSTOP and Apache
// Kafka.
//
// The package has only tests.
package cluster
