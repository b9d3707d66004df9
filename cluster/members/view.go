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

// Node is a node that lives, as it was told last. Meta must not be changed.
type Node struct {
	Name string
	Meta *envelope.NodeMeta
	// Addr is where it gossips, host:port; Meta.Rpc is where it is called.
	Addr string
	// Self is this node.
	Self bool
}

// View is who lives at one moment. It never changes.
type View struct {
	// Nodes are all nodes, those that leave included, by name.
	Nodes []Node
	// Mismatches say which nodes have another idea of the log than this one, a
	// sentence each; empty: all agree. Such nodes must not work together.
	Mismatches []string

	roles map[string][]Node
	next  chan struct{}
}

// Node finds a node by its name.
func (v *View) Node(name string) (Node, bool) {
	i, ok := slices.BinarySearchFunc(v.Nodes, name, func(n Node, name string) int { return cmp.Compare(n.Name, name) })
	if !ok {
		return Node{}, false
	}
	return v.Nodes[i], true
}

// Role are the nodes that have a role and do not leave, by name. The slice must
// not be changed.
func (v *View) Role(role string) []Node { return v.roles[role] }

// Next is closed when there is a newer view.
func (v *View) Next() <-chan struct{} { return v.next }

// Snapshot is the newest view. It costs an atomic load.
func (m *Members) Snapshot() *View { return m.view.Load() }

// life is one start of a node, as memberlist told it.
type life struct {
	gossip, name, addr string
	meta               *envelope.NodeMeta
}

// later says whether l started after o.
func (l *life) later(o *life) bool {
	if l.meta.StartMs != o.meta.StartMs {
		return l.meta.StartMs > o.meta.StartMs
	}
	return l.gossip > o.gossip
}

// self is this node as it is told to others.
func (m *Members) self() life {
	l := life{gossip: m.gossip, name: m.o.Name, addr: m.advertise, meta: &envelope.NodeMeta{}}
	if err := l.meta.UnmarshalVT(*m.meta.Load()); err != nil {
		m.log.Error().Err(err).Msg("the node's own meta cannot be read")
	}
	return l
}

// delegate is what memberlist calls, the Notify methods under its lock.
type delegate struct{ m *Members }

func (d delegate) NodeMeta(int) []byte             { return *d.m.meta.Load() }
func (delegate) NotifyMsg([]byte)                  {}
func (delegate) GetBroadcasts(int, int) [][]byte   { return nil }
func (delegate) LocalState(bool) []byte            { return nil }
func (delegate) MergeRemoteState([]byte, bool)     {}
func (d delegate) NotifyJoin(n *memberlist.Node)   { d.m.alive(n, "join") }
func (d delegate) NotifyUpdate(n *memberlist.Node) { d.m.alive(n, "update") }
func (d delegate) NotifyLeave(n *memberlist.Node)  { d.m.gone(n) }

// alive takes a node that lives, or what is new about it.
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
	m.swap()
}

// gone takes a node that has left or died.
func (m *Members) gone(n *memberlist.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.known[n.Name]
	if l == nil {
		return
	}
	delete(m.known, n.Name)
	// memberlist does not tell death and departure apart here. Who has left
	// with a word is tried in vain for a while.
	if l.gossip != m.gossip && !l.meta.Leaving {
		m.forgetOldest()
		m.lost[l.addr] = time.Now()
	}
	m.metrics.changes.WithLabelValues("leave").Inc()
	m.swap()
}

// forgetOldest makes room among the lost for one more; the caller holds mu.
func (m *Members) forgetOldest() {
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

// swap makes the newest view; the caller holds mu.
func (m *Members) swap() {
	newest := make(map[string]*life, len(m.known))
	for _, l := range m.known {
		if o := newest[l.name]; o == nil || l.later(o) {
			newest[l.name] = l
		}
	}
	v := &View{Nodes: make([]Node, 0, len(newest)), roles: make(map[string][]Node), next: make(chan struct{})}
	for _, l := range newest {
		v.Nodes = append(v.Nodes, Node{Name: l.name, Meta: l.meta, Addr: l.addr, Self: l.gossip == m.gossip})
	}
	slices.SortFunc(v.Nodes, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	self := m.self().meta
	for _, n := range v.Nodes {
		if text := mismatch(self, n); text != "" {
			v.Mismatches = append(v.Mismatches, text)
		}
		if n.Meta.Leaving {
			continue
		}
		for i, role := range n.Meta.Roles {
			if !slices.Contains(n.Meta.Roles[:i], role) {
				v.roles[role] = append(v.roles[role], n)
			}
		}
	}
	close(m.view.Swap(v).next)
}

// mismatch says how a node's idea of the log differs from this one's.
func mismatch(self *envelope.NodeMeta, n Node) string {
	if n.Self || n.Meta.KeptPartitions == 0 || self.KeptPartitions == 0 {
		return "" // a node that does not know the log yet
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
	return fmt.Sprintf("node %s (%s) has another log: %s; give all nodes the same [kafka] settings and restart those that differ (while the kept topic gets more partitions they differ for a moment)",
		n.Name, n.Addr, strings.Join(differs, "; "))
}

func address(n *memberlist.Node) string {
	return net.JoinHostPort(n.Addr.String(), fmt.Sprint(n.Port))
}
