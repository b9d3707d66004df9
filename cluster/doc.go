// Package cluster groups what connects nodes: members (gossip), ring (which router owns a partition), rpc
// (calls between roles), bus (the log on Kafka), growth (more partitions), pulse (does a log answer) and clocks
// (do they agree). It has no code of its own.
package cluster
