package roles

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"imgo/cluster/members"
	"imgo/config"
	"imgo/envelope"
	"imgo/roles/logic"
)

// service is logic with what only the node knows.
type service struct {
	*logic.Logic
	n *Node
}

// Nodes are all nodes, this one as it is and the others as they say, by name.
func (s service) Nodes(ctx context.Context) []logic.NodeInfo {
	if s.n.cluster == nil {
		return []logic.NodeInfo{s.n.info()}
	}
	return s.n.cluster.census.nodes(ctx, s.n)
}

// info is this node.
func (n *Node) info() logic.NodeInfo {
	return logic.NodeInfo{
		Name: n.name, Roles: n.roles(), Address: n.listener.Addr().String(), Version: n.opts.Version,
		StartMS: n.started.UnixMilli(), Ready: n.ready() == nil, Sessions: n.sessions(), Clients: n.clientAddresses(),
	}
}

func (n *Node) sessions() int {
	if n.comet == nil {
		return 0
	}
	return n.comet.Sessions()
}

// Status is how this node is, for the others.
func (n *Node) Status(context.Context, *envelope.StatusRequest) (*envelope.StatusReply, error) {
	reply := &envelope.StatusReply{Ready: true, Sessions: uint32(n.sessions())}
	if err := n.ready(); err != nil {
		reply.Ready, reply.Reason = false, err.Error()
	}
	return reply, nil
}

const (
	// censusAge is how old an answer to "how are you" may be.
	censusAge = time.Second
	// censusTime bounds one such question: a node that hangs is shown as not
	// ready, and nobody waits for it.
	censusTime = time.Second
)

// census is how all nodes are, as of a moment ago. Safe for concurrent use.
type census struct {
	cluster *cluster

	mu    sync.Mutex
	at    time.Time
	known []logic.NodeInfo
}

// nodes asks all nodes how they are, at most once a second, however many want
// to know. Nobody may change what it returns.
func (c *census) nodes(ctx context.Context, n *Node) []logic.NodeInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.at) < censusAge {
		return c.known
	}
	ctx, cancel := context.WithTimeout(ctx, censusTime)
	defer cancel()
	nodes := c.cluster.peers.Load().now.Load().nodes
	infos := make([]logic.NodeInfo, len(nodes))
	var asking sync.WaitGroup
	for i, node := range nodes {
		if infos[i] = remoteInfo(node); node.Name == n.name {
			info := n.info()
			infos[i].Ready, infos[i].Sessions = info.Ready, info.Sessions
			continue
		}
		asking.Go(func() {
			reply, err := c.cluster.pool.Node(node.Meta.GetRpc()).Status().Status(ctx, &envelope.StatusRequest{})
			if err == nil {
				infos[i].Ready, infos[i].Sessions = reply.GetReady(), int(reply.GetSessions())
			}
		})
	}
	asking.Wait()
	c.known, c.at = infos, time.Now()
	return infos
}

// remoteInfo is a node as gossip tells of it.
func remoteInfo(node members.Node) logic.NodeInfo {
	m := node.Meta
	info := logic.NodeInfo{
		Name: node.Name, Roles: m.GetRoles(), Address: m.GetHttp(), Version: m.GetVersion(), StartMS: m.GetStartMs(),
		Clients: make(map[string]string, 2), Weight: int(m.GetWeight()), Zone: m.GetZone(), Leaving: m.GetLeaving(),
	}
	for _, e := range m.GetEndpoints() {
		info.Clients[e.GetScheme()] = e.GetAddress()
	}
	return info
}

// otherComets are where clients of this comet may go instead, those of this
// zone first and else in no order: all clients of one comet go at once.
func (c *cluster) otherComets(zone string) func(scheme string) []string {
	return func(scheme string) []string {
		p := c.peers.Load()
		var out []string
		var rest []string
		nodes := slices.Clone(p.now.Load().nodes)
		rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
		for _, node := range nodes {
			m := node.Meta
			address := endpoint(m, scheme)
			switch {
			case node.Name == p.name || m.GetLeaving() || address == "" || !slices.Contains(m.GetRoles(), config.RoleComet):
			case m.GetZone() == zone:
				out = append(out, address)
			default:
				rest = append(rest, address)
			}
		}
		return append(out, rest...)
	}
}

// endpoint returns the address that a node tells clients of a transport, or ""
// where it tells none.
func endpoint(m *envelope.NodeMeta, scheme string) string {
	for _, e := range m.GetEndpoints() {
		if e.GetScheme() == scheme {
			return e.GetAddress()
		}
	}
	return ""
}
