package roles

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync"

	"imgo/cluster/members"
	"imgo/envelope"
	"imgo/store"
)

// recordGate lets a call append records of a newer version only when every node reads them. A router that
// does not know a record skips it, and would derive another mailbox from then on. Safe for concurrent use.
type recordGate struct {
	n  *Node
	mu sync.Mutex // one look at the nodes at a time
	// embedded is the version in use on a node without a cluster.
	embedded uint32
}

// readsRecords returns the highest version of records that this node reads.
func (n *Node) readsRecords() uint32 {
	return cmp.Or(n.opts.Faults.RecordVersion, envelope.RecordVersion)
}

// inUse returns the version of records in use, from 1.
func (g *recordGate) inUse() uint32 {
	if g.n.cluster != nil {
		version, _ := g.n.cluster.growth.Records()
		return version
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(1, g.embedded)
}

// Require returns nil once records of a version may be appended. It returns an
// envelope.ErrUpgradeUnfinished that names the nodes that do not read them.
func (g *recordGate) Require(ctx context.Context, version uint32) error {
	if g.inUse() >= version {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	var old []string
	if g.n.readsRecords() < version {
		old = append(old, g.n.name)
	}
	if g.n.cluster != nil {
		old = olderNodes(g.n.cluster.members.Snapshot().Nodes, version)
	}
	if len(old) > 0 {
		return envelope.Errorf(envelope.CodeUpgradeUnfinished,
			"this call needs records of version %d, which these nodes do not read: %s; finish the upgrade of the cluster, then call again",
			version, strings.Join(old, ", "))
	}
	if g.n.cluster != nil {
		return g.n.cluster.growth.UseRecords(ctx, version)
	}
	if err := g.n.db.SetRecordsVersion(version); err != nil {
		return err
	}
	g.embedded = version
	return nil
}

// olderNodes returns the names of the nodes that do not read records of a version.
func olderNodes(nodes []members.Node, version uint32) (names []string) {
	for _, node := range nodes {
		if max(1, node.Meta.GetRecordVersion()) < version {
			names = append(names, node.Name)
		}
	}
	return names
}

// checkRecords returns an error if records are in use that this node does not read.
func (n *Node) checkRecords(inUse uint32) error {
	if reads := n.readsRecords(); inUse > reads {
		return fmt.Errorf("records of version %d are in use, this imgo (%s) reads records up to version %d: "+
			"run a version that is at least as new as that of the other nodes", inUse, n.opts.Version, reads)
	}
	return nil
}

// openRecords reads the version of records in use on a node without a cluster.
func (n *Node) openRecords(db *store.DB) (err error) {
	if n.records.embedded, err = db.RecordsVersion(); err != nil {
		return err
	}
	return n.checkRecords(n.records.embedded)
}

// watchRecords ends the node if the cluster begins to use records that it does not read. The gate holds
// that back while gossip shows the node.
func (n *Node) watchRecords(ctx context.Context) error {
	for {
		version, changed := n.cluster.growth.Records()
		if err := n.checkRecords(version); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}
