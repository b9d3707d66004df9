package roles

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"imgo/cluster/bus"
	"imgo/cluster/growth"
	"imgo/cluster/members"
	"imgo/cluster/rpc"
	"imgo/config"
	"imgo/envelope"
	"imgo/roles/logic/tokenlog"
)

// cluster is what a node has to be one of several.
type cluster struct {
	server  *rpc.Server
	pool    *rpc.Pool
	peers   atomic.Pointer[peers] // of the core of the moment
	looking sync.Mutex            // one look at who is there at a time
	members *members.Members
	census  *census

	metaMu sync.Mutex
	meta   *envelope.NodeMeta

	bus    *bus.Bus // nil: not open
	growth *growth.Growth
	live   *bus.Log
	tokens *tokenlog.Tokens // nil: no logic here
	keptMu sync.Mutex
	kept   map[uint16]*bus.Log // by generation
}

// Network lets tests cut nodes off from one another; both are asked at every
// packet and connection, with the address at the other end.
type Network struct {
	// Gossip says whether nothing may go to a gossip address.
	Gossip func(address string) bool
	// Dial makes connections to where another node is called.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// bindCluster binds where other nodes call this one; the node's name may
// depend on it.
func (n *Node) bindCluster() (err error) {
	c := &cluster{kept: make(map[uint16]*bus.Log)}
	security := rpc.Security{Secret: n.cfg.Cluster.Secret, CertFile: n.cfg.Cluster.TLSCert, KeyFile: n.cfg.Cluster.TLSKey, CAFile: n.cfg.Cluster.TLSCA}
	if c.server, err = rpc.NewServer(rpc.ServerOptions{Listen: n.cfg.Cluster.RPC, Security: security, Log: n.log, Metrics: n.metrics}); err != nil {
		return fmt.Errorf("%w%s", err, mendListen(err, "--rpc"))
	}
	n.cluster = c
	c.pool, err = rpc.NewPool(rpc.PoolOptions{Security: security, Log: n.log, Metrics: n.metrics, Dial: n.opts.Network.Dial})
	return err
}

// clusterName is a node's name where none is set: the host's and what tells
// the processes of one host apart, and the same at every start, since a
// router's partitions go by it.
func clusterName(host string, rpc net.Addr) string {
	ip, port, _ := net.SplitHostPort(rpc.String())
	if a := net.ParseIP(ip); a != nil && !a.IsUnspecified() {
		port = notName.ReplaceAllString(ip, "-") + "-" + port
	}
	return host[:min(len(host), config.MaxNodeID-1-len(port))] + "-" + port
}

// joinCluster makes this node known to the others. Everything that they are
// told is bound by now.
func (n *Node) joinCluster() (err error) {
	c, cfg, kept := n.cluster, n.cfg.Cluster, n.core.Load().kept
	meta := &envelope.NodeMeta{
		Roles: n.roles(), Zone: cfg.Zone, Weight: uint32(cfg.Weight), Version: short(n.opts.Version), StartMs: n.started.UnixMilli(),
		KeptPartitions: uint32(kept.Partitions()), LivePartitions: uint32(n.live.Partitions()), Generation: uint32(kept.Generation()),
		Http: reachable(n.listener.Addr()), Endpoints: n.endpoints(),
	}
	// Four probes of a dead node fit into the time, and the word of it.
	probe := max(cfg.DeadAfter/6, 50*time.Millisecond)
	c.members, err = members.New(members.Options{
		Name: n.name, Bind: cfg.Gossip, Advertise: cfg.GossipAddress, Join: cfg.Join, Secret: cfg.Secret, Meta: meta,
		ProbeInterval: probe, ProbeTimeout: probe / 2, GossipInterval: min(100*time.Millisecond, probe),
		Log: n.log, Metrics: n.metrics, Cut: n.opts.Network.Gossip,
	})
	if err != nil {
		return fmt.Errorf("%w%s", err, mendListen(err, "--gossip"))
	}
	meta.Rpc = cfg.RPCAddress
	if meta.Rpc == "" {
		if meta.Rpc = reachable(c.server.Addr()); meta.Rpc == "" {
			host, _, _ := net.SplitHostPort(c.members.Advertised())
			_, port, _ := net.SplitHostPort(c.server.Addr().String())
			meta.Rpc = net.JoinHostPort(host, port)
		}
	}
	c.meta, c.peers.Load().members = meta, c.members
	return c.members.UpdateMeta(meta)
}

// GossipAddr is where this node gossips, host:port; "": it is alone.
func (n *Node) GossipAddr() string {
	if n.cluster == nil {
		return ""
	}
	return n.cluster.members.Advertised()
}

// RPCAddr is where other nodes call this one, host:port; "": it is alone.
func (n *Node) RPCAddr() string {
	if n.cluster == nil {
		return ""
	}
	return n.cluster.server.Addr().String()
}

// reachable is an address that others can use; "" for one that is everywhere
// on this host.
func reachable(a net.Addr) string {
	if a == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(a.String())
	if ip := net.ParseIP(host); err != nil || ip == nil || ip.IsUnspecified() {
		return ""
	}
	return a.String()
}

// short keeps a version within what gossip has room for.
func short(version string) string { return version[:min(len(version), 40)] }

// know tells a core's view of the other nodes which roles are here, where a
// call need not leave the process, and what the others are to be offered. It is
// for before the core runs.
func (n *Node) know(c *core) {
	s := rpc.Services{Status: n, Generation: c.kept.Generation()}
	// A nil pointer must stay a nil interface.
	if c.router != nil {
		s.Router = c.router
	}
	if c.logic != nil {
		s.Logic = c.logic
	}
	if n.comet != nil {
		s.Comet = n.comet
	}
	c.peers.router, c.peers.logic, c.peers.comet = s.Router, s.Logic, s.Comet
	c.offered = s
}

// stages are what has to run before the roles, and after them on the way down:
// a node takes the others' calls and follows gossip to the end.
func (c *cluster) stages() []stage {
	all := []stage{
		{name: "calls of other nodes", run: c.server.Run},
		{name: "members", run: c.gossip},
		{name: "control topic", run: c.growth.Run},
	}
	if c.tokens != nil {
		all = append(all, stage{name: "tokens", run: c.tokens.Run, ready: c.tokens.Ready})
	}
	return all
}

// leaveTime bounds how long the others are told that this node goes.
const leaveTime = 2 * time.Second

// gossip follows who is there until ctx is done, then says goodbye.
func (c *cluster) gossip(ctx context.Context) error {
	// The members go on until they have left.
	mctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, gctx := errgroup.WithContext(mctx)
	g.Go(func() error { return c.members.Run(gctx) })
	g.Go(func() error {
		select {
		case <-gctx.Done():
			return nil
		case <-ctx.Done():
		}
		lctx, cancel := context.WithTimeout(gctx, leaveTime)
		defer cancel()
		err := c.members.Leave(lctx)
		stop()
		if err != nil {
			c.peers.Load().log.Warn().Err(err).Msg("the other nodes were not told that this one goes: they find out by themselves")
		}
		return nil
	})
	return g.Wait()
}

// tell changes what the others are told of this node.
func (c *cluster) tell(change func(*envelope.NodeMeta)) error {
	c.metaMu.Lock()
	defer c.metaMu.Unlock()
	c.meta = proto.CloneOf(c.meta)
	change(c.meta)
	return c.members.UpdateMeta(c.meta)
}

// leaving tells the others that nothing new is to go to this node. It goes on
// with what it has.
func (c *cluster) leaving(log zerolog.Logger) {
	if err := c.tell(func(m *envelope.NodeMeta) { m.Leaving = true }); err != nil {
		log.Warn().Err(err).Msg("the other nodes were not told that this one is about to go")
	}
}

// around are the roles of all nodes, as those of a core see them. Comet, which
// outlives cores, finds its logics by the core of the moment.
func (c *cluster) around(n *Node, of *core) around {
	p := of.peers
	near := around{
		routers: routersOf{p}, owners: p, rooms: p, comets: p, logic: logics{c}, owned: p.owned,
		kept: c.growth.Gate(of.kept), growth: moves{n, of.kept.Generation()},
	}
	if of.group != nil {
		near.group = group{of.group}
	}
	if c.tokens != nil {
		near.tokens = c.tokens
	}
	return near
}

// close ends what New has begun.
func (c *cluster) close(log zerolog.Logger) {
	if c.members != nil {
		if err := c.members.Close(); err != nil {
			log.Warn().Err(err).Msg("gossip was not closed cleanly")
		}
	}
	c.server.Close()
	if c.pool != nil {
		c.pool.Close()
	}
}
