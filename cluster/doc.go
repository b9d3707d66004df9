// Package cluster faces peers: members (memberlist gossip), the ring that says
// which router owns a partition, rpc (gRPC) between roles, and bus, the log on
// Kafka.
//
// It holds nothing yet: this release runs every role in one process, and
// cluster.join is refused. The folder stands so that the import rules and the
// map in docs/ARCHITECTURE.md are the ones that the next release fills in.
package cluster
