// Package cluster groups what connects nodes: members (gossip), ring (which router owns a partition), rpc
// (calls between roles), bus (the log on Kafka) and growth (more partitions). It has no code of its own.
package cluster
