package roles

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"imgo/cluster/clocks"
	"imgo/cluster/members"
	"imgo/config"
	"imgo/envelope"
	"imgo/roles/logic"
)

// service adds the answers that only the node knows to logic's.
type service struct {
	*logic.Logic
	n *Node
}

// Nodes returns all nodes by name. In a cluster their state may be statusAge old.
func (s service) Nodes(ctx context.Context) []logic.NodeInfo {
	if s.n.cluster == nil {
		return []logic.NodeInfo{s.n.info()}
	}
	return s.n.cluster.status.nodes(ctx)
}

// info returns this node.
func (n *Node) info() logic.NodeInfo {
	return logic.NodeInfo{
		Name: n.name, Roles: n.roles(), Address: n.http.listener.Addr().String(), Version: n.opts.Version,
		StartMS: n.started.UnixMilli(), Ready: n.ready() == nil, Sessions: n.sessions(), Clients: clientSide{n}.addresses(),
	}
}

func (n *Node) sessions() int {
	if n.comet == nil {
		return 0
	}
	return n.comet.Sessions()
}

// Status returns the state of this node to another node.
func (n *Node) Status(context.Context, *envelope.StatusRequest) (*envelope.StatusReply, error) {
	reply := &envelope.StatusReply{Ready: true, Sessions: uint32(n.sessions()), NowMs: n.now().UnixMilli()}
	if err := n.ready(); err != nil {
		reply.Ready, reply.Reason = false, err.Error()
	}
	return reply, nil
}

const (
	// statusAge is the greatest age of an answer that is reused.
	statusAge = time.Second
	// statusTimeout bounds one request. A node that hangs is shown as not ready.
	statusTimeout = time.Second
)

// statusReport is the state of all nodes, at most statusAge old. Safe for concurrent
// use.
type statusReport struct {
	cluster *cluster

	mu    sync.Mutex
	at    time.Time
	known []logic.NodeInfo
}

// compareClocks compares this node's clock with those of the other nodes, until ctx is done.
func (c *statusReport) compareClocks(ctx context.Context) error {
	return clocks.Compare(ctx, func(ctx context.Context) map[string]time.Duration {
		ahead := make(map[string]time.Duration)
		for _, node := range c.nodes(ctx) {
			ahead[node.Name] = time.Duration(node.ClockMS) * time.Millisecond
		}
		return ahead
	}, c.cluster.metrics, c.cluster.log)
}

// nodes asks all nodes for their state, at most once in statusAge. The end of ctx does not end the calls, because other
// callers use the result. The caller must not change it.
func (c *statusReport) nodes(ctx context.Context) []logic.NodeInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.at) < statusAge {
		return c.known
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), statusTimeout)
	defer cancel()
	nodes := c.cluster.remote.Load().state.Load().nodes
	infos := make([]logic.NodeInfo, len(nodes))
	var questions sync.WaitGroup
	for i, node := range nodes {
		if infos[i] = remoteInfo(node); node.Name == c.cluster.name {
			info := c.cluster.info()
			infos[i].Ready, infos[i].Sessions = info.Ready, info.Sessions
			continue
		}
		questions.Go(func() {
			asked := c.cluster.now()
			reply, err := c.cluster.pool.Node(node.Meta.GetRpc()).Status().Status(ctx, &envelope.StatusRequest{})
			if err == nil {
				infos[i].Ready, infos[i].Sessions = reply.GetReady(), int(reply.GetSessions())
				// The other node read its clock about half way between question and answer.
				here := asked.Add(c.cluster.now().Sub(asked) / 2)
				infos[i].ClockMS = reply.GetNowMs() - here.UnixMilli()
			}
		})
	}
	questions.Wait()
	c.known, c.at = infos, time.Now()
	return infos
}

// remoteInfo returns a node as gossip describes it.
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

// otherComets returns a function that lists addresses of other comets for clients of this one. Comets
// of the same zone come first. Otherwise the order is random, because all clients of a stopping comet
// move at once.
func (c *cluster) otherComets(zone string) func(scheme string) []string {
	return func(scheme string) []string {
		p := c.remote.Load()
		var out, rest []string
		nodes := slices.Clone(p.state.Load().nodes)
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

// endpoint returns the address for clients of a transport, or "" if the node advertises none.
func endpoint(m *envelope.NodeMeta, scheme string) string {
	for _, e := range m.GetEndpoints() {
		if e.GetScheme() == scheme {
			return e.GetAddress()
		}
	}
	return ""
}
