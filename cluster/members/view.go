package members

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"

	"imgo/envelope"
)

// Node is a living node, with what it has said about itself last. Meta must not be
// changed.
type Node struct {
	Name string
	Meta *envelope.NodeMeta
	// Addr is its address for gossip, host:port. Meta.Rpc is its address for calls.
	Addr string
	// Self is true for this node.
	Self bool
}

// View has the living nodes at one moment. It never changes.
type View struct {
	// Nodes has all living nodes, also those that leave, in the order of their names.
	Nodes []Node
	// Mismatches has a sentence for each node that has another log than this node.
	// Such nodes must not work together.
	Mismatches []string

	next chan struct{} // closed when there is a newer view
}

// Node returns the node with a name. ok is false if there is none.
func (v *View) Node(name string) (node Node, ok bool) {
	i, ok := slices.BinarySearchFunc(v.Nodes, name, func(n Node, name string) int { return cmp.Compare(n.Name, name) })
	if !ok {
		return Node{}, false
	}
	return v.Nodes[i], true
}

// Next returns a channel that is closed when there is a newer view.
func (v *View) Next() <-chan struct{} { return v.next }

// Snapshot returns the newest view. It costs an atomic load.
func (m *Members) Snapshot() *View { return m.view.Load() }

// life is one start of a node, from its start to its death.
type life struct {
	gossip, name, addr string
	meta               *envelope.NodeMeta
}

// later reports whether l started after o.
func (l *life) later(o *life) bool {
	if l.meta.StartMs != o.meta.StartMs {
		return l.meta.StartMs > o.meta.StartMs
	}
	return l.gossip > o.gossip
}

// self returns this node as the others see it.
func (m *Members) self() life {
	l := life{gossip: m.gossip, name: m.o.Name, addr: m.advertise, meta: &envelope.NodeMeta{}}
	if err := l.meta.UnmarshalVT(*m.meta.Load()); err != nil {
		m.log.Error().Err(err).Msg("the node's own meta cannot be read")
	}
	return l
}

// delegate has the methods that memberlist calls. memberlist holds a lock of its own
// while it calls the Notify methods, so they must not wait.
type delegate struct{ m *Members }

func (d delegate) NodeMeta(int) []byte             { return *d.m.meta.Load() }
func (delegate) NotifyMsg([]byte)                  {}
func (delegate) GetBroadcasts(int, int) [][]byte   { return nil }
func (delegate) LocalState(bool) []byte            { return nil }
func (delegate) MergeRemoteState([]byte, bool)     {}
func (d delegate) NotifyJoin(n *memberlist.Node)   { d.m.alive(n, "join") }
func (d delegate) NotifyUpdate(n *memberlist.Node) { d.m.alive(n, "update") }
func (d delegate) NotifyLeave(n *memberlist.Node)  { d.m.gone(n) }

// alive adds a living node, or changes what it says about itself.
func (m *Members) alive(n *memberlist.Node, what string) {
	name := n.Name
	if i := strings.LastIndexByte(name, '~'); i > 0 {
		name = name[:i]
	}
	l := &life{gossip: n.Name, name: name, addr: address(n), meta: &envelope.NodeMeta{}}
	if err := l.meta.UnmarshalVT(n.Meta); err != nil {
		m.log.Error().Err(err).Str("node", name).Str("addr", l.addr).
			Msg("what a node tells of itself cannot be read: it is left out; is it of this cluster and of a release near this one?")
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known[l.gossip] = l
	delete(m.lost, l.addr)
	m.metrics.changes.WithLabelValues(what).Inc()
	m.swapLocked()
}

// gone removes a node that has left or died.
func (m *Members) gone(n *memberlist.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.known[n.Name]
	if l == nil {
		return
	}
	delete(m.known, n.Name)
	// memberlist does not say whether the node died or left. Nodes that have left
	// without Leaving in their meta are tried in vain for a while.
	if l.gossip != m.gossip && !l.meta.Leaving {
		m.forgetOldestLocked()
		m.lost[l.addr] = time.Now()
	}
	m.metrics.changes.WithLabelValues("leave").Inc()
	m.swapLocked()
}

// forgetOldestLocked forgets the node that died first if lost is full.
func (m *Members) forgetOldestLocked() {
	if len(m.lost) < maxLost {
		return
	}
	oldest := ""
	for addr, since := range m.lost {
		if oldest == "" || since.Before(m.lost[oldest]) {
			oldest = addr
		}
	}
	delete(m.lost, oldest)
}

// swapLocked makes a new view, and closes Next of the one before.
func (m *Members) swapLocked() {
	newest := make(map[string]*life, len(m.known))
	for _, l := range m.known {
		if o := newest[l.name]; o == nil || l.later(o) {
			newest[l.name] = l
		}
	}
	v := &View{Nodes: make([]Node, 0, len(newest)), next: make(chan struct{})}
	for _, l := range newest {
		v.Nodes = append(v.Nodes, Node{Name: l.name, Meta: l.meta, Addr: l.addr, Self: l.gossip == m.gossip})
	}
	slices.SortFunc(v.Nodes, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	self := m.self().meta
	for _, n := range v.Nodes {
		if text := mismatch(self, n); text != "" {
			v.Mismatches = append(v.Mismatches, text)
		}
	}
	close(m.view.Swap(v).next)
}

// mismatch returns a sentence about how a node's log differs from this node's. It is "" if the log does not differ.
func mismatch(self *envelope.NodeMeta, n Node) string {
	if n.Self || n.Meta.KeptPartitions == 0 || self.KeptPartitions == 0 {
		return "" // one of the nodes does not know the log yet
	}
	var differs []string
	for _, f := range []struct {
		name      string
		own, that uint32
	}{
		{"partitions of the kept topic", self.KeptPartitions, n.Meta.KeptPartitions},
		{"partitions of the live topic", self.LivePartitions, n.Meta.LivePartitions},
		{"generation of the log", self.Generation, n.Meta.Generation},
	} {
		if f.own != f.that {
			differs = append(differs, fmt.Sprintf("%s %d here, %d there", f.name, f.own, f.that))
		}
	}
	if differs == nil {
		return ""
	}
	return fmt.Sprintf("node %s (%s) has another log: %s; give all nodes the same [kafka] settings and restart those that differ "+
		"(while the kept topic gets more partitions they differ for a moment)",
		n.Name, n.Addr, strings.Join(differs, "; "))
}

func address(n *memberlist.Node) string {
	return net.JoinHostPort(n.Addr.String(), fmt.Sprint(n.Port))
}
