package roles

import (
	"context"
	"strings"
	"sync"

	"imgo/cluster/members"
	"imgo/envelope"
)

// recordVersions lets a call append records of a newer version only when every node reads them. A router that
// does not know a record skips it, and would derive another mailbox from then on. Safe for concurrent use.
type recordVersions struct {
	*Node
	mu sync.Mutex // one look at the nodes at a time
	// embedded is the version in use on a node without a cluster.
	embedded uint32
}

// inUse returns the version of records in use, from 1.
func (g *recordVersions) inUse() uint32 {
	if g.cluster != nil {
		version, _ := g.cluster.kafka.growth.Records()
		return version
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(1, g.embedded)
}

// Require returns nil once records of a version may be appended. It returns an
// envelope.ErrUpgradeUnfinished that names the nodes that do not read them.
func (g *recordVersions) Require(ctx context.Context, version uint32) error {
	if g.inUse() >= version {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	var old []string
	if g.readsRecords() < version {
		old = append(old, g.name)
	}
	if g.cluster != nil {
		old = olderNodes(g.cluster.members.Snapshot().Nodes, version)
	}
	if len(old) > 0 {
		return envelope.Errorf(envelope.CodeUpgradeUnfinished,
			"this call needs records of version %d, which these nodes do not read: %s; finish the upgrade of the cluster, then call again",
			version, strings.Join(old, ", "))
	}
	if g.cluster != nil {
		return g.cluster.kafka.growth.UseRecords(ctx, version)
	}
	if err := g.stores.db.SetRecordsVersion(version); err != nil {
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

// open reads the version of records in use on a node without a cluster.
func (g *recordVersions) open() (err error) {
	if g.embedded, err = g.stores.db.RecordsVersion(); err != nil {
		return err
	}
	return g.checkRecords(g.embedded)
}

// watch ends the node if the cluster begins to use records that it does not read. recordVersions
// prevents that while gossip shows the node.
func (g *recordVersions) watch(ctx context.Context) error {
	for {
		version, changed := g.cluster.kafka.growth.Records()
		if err := g.checkRecords(version); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}
