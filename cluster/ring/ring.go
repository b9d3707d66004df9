// Package ring says which node owns which partition: rendezvous hashing over
// the names of the nodes.
//
// Every node that knows the same names gives the same answer, with nothing
// agreed or stored. When a node comes or goes only the partitions that it gets
// or had change their owner. It knows nothing of nodes but their names; who is
// alive is the business of cluster/members.
package ring

import (
	"encoding/binary"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// Owner is the owner of a partition among the named nodes, "" when there are
// none. The order of names and repeated names make no difference.
func Owner(partition int32, names []string) string {
	var (
		owner string
		best  uint64
	)
	for _, name := range names {
		s := score(partition, xxhash.Sum64String(name))
		// Equal scores: the lower name, so that the order does not decide.
		if owner == "" || s > best || s == best && name < owner {
			owner, best = name, s
		}
	}
	return owner
}

// score is what the owner has the highest of. It must never change: nodes of
// two releases that disagree would own a partition both.
func score(partition int32, name uint64) uint64 {
	var b [12]byte
	binary.BigEndian.PutUint64(b[:8], name)
	binary.BigEndian.PutUint32(b[8:], uint32(partition))
	return xxhash.Sum64(b[:])
}

// Ring is the owners of all partitions for one set of nodes. It never changes,
// so it is safe for concurrent use.
type Ring struct {
	owners []string
	owned  map[string][]int32
}

// New makes the table of the owners of partitions 0 to partitions-1 among the
// named nodes.
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

// Partitions is how many partitions there are.
func (r *Ring) Partitions() int32 { return int32(len(r.owners)) }

// Owner is the owner of a partition; "" when there are no nodes or no such
// partition.
func (r *Ring) Owner(partition int32) string {
	if partition < 0 || int(partition) >= len(r.owners) {
		return ""
	}
	return r.owners[partition]
}

// Owned are the partitions of a node in rising order; the caller may keep and
// change the slice.
func (r *Ring) Owned(name string) []int32 { return slices.Clone(r.owned[name]) }
