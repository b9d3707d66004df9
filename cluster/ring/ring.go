// Package ring computes which node owns which partition, by rendezvous hashing over the
// names of the nodes.
//
// All nodes that know the same names compute the same owners, so nothing has to be
// agreed or stored. When a node comes or goes, only its own partitions change their
// owner. The package knows only the names of nodes; cluster/members knows which nodes
// are alive.
package ring

import (
	"encoding/binary"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// Owner returns the owner of a partition among the named nodes. It is "" if there are no nodes.
// The order of the names and repeated names make no difference.
func Owner(partition int32, names []string) string {
	var (
		owner string
		best  uint64
	)
	for _, name := range names {
		s := score(partition, xxhash.Sum64String(name))
		// With equal scores the lower name wins, so that the order makes no difference.
		if owner == "" || s > best || s == best && name < owner {
			owner, best = name, s
		}
	}
	return owner
}

// score returns a node's score for a partition. The node with the highest score owns it.
// The function must never change, or nodes of two releases own the same partition.
func score(partition int32, name uint64) uint64 {
	var b [12]byte
	binary.BigEndian.PutUint64(b[:8], name)
	binary.BigEndian.PutUint32(b[8:], uint32(partition))
	return xxhash.Sum64(b[:])
}

// Ring has the owners of all partitions for one set of nodes. It never changes, so it is
// safe for concurrent use.
type Ring struct {
	owners []string
	owned  map[string][]int32
}

// New computes the owners of partitions 0 to partitions-1 among the named nodes.
func New(partitions int32, names []string) *Ring {
	names = slices.Clone(names)
	slices.Sort(names)
	names = slices.Compact(names)
	r := &Ring{owners: make([]string, max(partitions, 0)), owned: make(map[string][]int32, len(names))}
	if len(names) == 0 {
		return r
	}
	for p := range partitions {
		owner := Owner(p, names)
		r.owners[p] = owner
		r.owned[owner] = append(r.owned[owner], p)
	}
	return r
}

// Owner returns the owner of a partition. It is "" if there are no nodes, or no such partition.
func (r *Ring) Owner(partition int32) string {
	if partition < 0 || int(partition) >= len(r.owners) {
		return ""
	}
	return r.owners[partition]
}

// Owned returns the partitions of a node in rising order. The caller may change the
// slice.
func (r *Ring) Owned(name string) []int32 { return slices.Clone(r.owned[name]) }
