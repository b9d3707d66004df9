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

// cluster is the part of a node that connects it to the other nodes.
type cluster struct {
	server     *rpc.Server
	pool       *rpc.Pool
	remote     atomic.Pointer[remoteRoles] // of the core that serves
	refreshing sync.Mutex                  // one refresh of the cluster state at a time
	members    *members.Members
	status     *statusReport
	pulse      *pulse // of the kept log

	metaMu sync.Mutex
	meta   *envelope.NodeMeta

	bus    *bus.Bus // nil until it is open
	growth *growth.Growth
	live   *bus.Log
	tokens *tokenlog.Tokens // nil: this process runs no logic
	keptMu sync.Mutex
	kept   map[uint16]*bus.Log // by generation
}

// Network lets tests cut the connections between nodes. Both functions are called for each packet or
// connection, with the address of the other end.
type Network struct {
	// Gossip reports whether packets to a gossip address are dropped.
	Gossip func(address string) bool
	// Dial connects to the RPC address of another node.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// bindCluster binds the RPC address of this node. The node's name may depend on it.
func (n *Node) bindCluster() (err error) {
	c := &cluster{kept: make(map[uint16]*bus.Log)}
	security := rpc.Security{Secret: n.cfg.Cluster.Secret, CertFile: n.cfg.Cluster.TLSCert, KeyFile: n.cfg.Cluster.TLSKey,
		CAFile: n.cfg.Cluster.TLSCA}
	if c.server, err = rpc.NewServer(rpc.ServerOptions{Listen: n.cfg.Cluster.RPC, Security: security, Log: n.log,
		Metrics: n.metrics}); err != nil {
		return fmt.Errorf("%w%s", err, listenHint(err, "--rpc"))
	}
	n.cluster = c
	c.pool, err = rpc.NewPool(rpc.PoolOptions{Security: security, Log: n.log, Metrics: n.metrics, Dial: n.opts.Network.Dial})
	return err
}

// clusterName returns the default name of a node. It has the host's name and a suffix that differs
// between the processes of one host. The name is the same at each start, since it decides which
// partitions a router owns.
func clusterName(host string, rpc net.Addr) string {
	ip, port, _ := net.SplitHostPort(rpc.String())
	if a := net.ParseIP(ip); a != nil && !a.IsUnspecified() {
		port = notName.ReplaceAllString(ip, "-") + "-" + port
	}
	return host[:min(len(host), config.MaxNodeID-1-len(port))] + "-" + port
}

// joinCluster makes this node known to the others. Call it after all advertised addresses are bound.
func (n *Node) joinCluster() (err error) {
	c, cfg, kept := n.cluster, n.cfg.Cluster, n.core.Load().kept
	meta := &envelope.NodeMeta{
		Roles: n.roles(), Zone: cfg.Zone, Weight: uint32(cfg.Weight), Version: shorten(n.opts.Version), StartMs: n.started.UnixMilli(),
		KeptPartitions: uint32(kept.Partitions()), LivePartitions: uint32(n.live.Partitions()), Generation: uint32(kept.Generation()),
		Http: reachable(n.listener.Addr()), Endpoints: clientSide{n}.endpoints(),
		RecordVersion: n.readsRecords(),
	}
	// dead_after has room for four probes of a dead node and for spreading the news.
	probe := max(cfg.DeadAfter/6, 50*time.Millisecond)
	c.members, err = members.New(members.Options{
		Name: n.name, Bind: cfg.Gossip, Advertise: cfg.GossipAddress, Join: cfg.Join, Secret: cfg.Secret, Meta: meta,
		ProbeInterval: probe, ProbeTimeout: probe / 2, GossipInterval: min(100*time.Millisecond, probe),
		Log: n.log, Metrics: n.metrics, Cut: n.opts.Network.Gossip,
	})
	if err != nil {
		return fmt.Errorf("%w%s", err, listenHint(err, "--gossip"))
	}
	meta.Rpc = cfg.RPCAddress
	if meta.Rpc == "" {
		if meta.Rpc = reachable(c.server.Addr()); meta.Rpc == "" {
			host, _, _ := net.SplitHostPort(c.members.Advertised())
			_, port, _ := net.SplitHostPort(c.server.Addr().String())
			meta.Rpc = net.JoinHostPort(host, port)
		}
	}
	c.meta, c.remote.Load().members = meta, c.members
	return c.members.UpdateMeta(meta)
}

// GossipAddr returns the gossip address of this node, host:port, or "" without a cluster.
func (n *Node) GossipAddr() string {
	if n.cluster == nil {
		return ""
	}
	return n.cluster.members.Advertised()
}

// RPCAddr returns the RPC address of this node, host:port, or "" without a cluster.
func (n *Node) RPCAddr() string {
	if n.cluster == nil {
		return ""
	}
	return n.cluster.server.Addr().String()
}

// reachable returns an address that other hosts can use, or "" for a listener that
// is bound to every address of this host.
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

// shorten returns the first 40 bytes of a version, because gossip has little room.
func shorten(version string) string { return version[:min(len(version), 40)] }

// register tells peers which roles run in this process, so that calls to them stay in the process, and
// which services to export. It must be called before the core runs.
func (n *Node) register(c *core) {
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
	c.remote.router, c.remote.logic, c.remote.comet = s.Router, s.Logic, s.Comet
	c.offered = s
}

// stages returns the parts that start before the roles and stop after them. So a node accepts calls
// and follows gossip until its roles have ended.
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

// leaveTime bounds the time for telling the others that this node leaves.
const leaveTime = 2 * time.Second

// gossip runs the members until ctx is done, and then leaves the cluster.
func (c *cluster) gossip(ctx context.Context) error {
	// The members run on until this node has left.
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
			c.remote.Load().log.Warn().Err(err).Msg("the other nodes were not told that this node leaves. They will detect it by gossip")
		}
		return nil
	})
	return g.Wait()
}

// updateMeta changes the data about this node that gossip spreads.
func (c *cluster) updateMeta(change func(*envelope.NodeMeta)) error {
	c.metaMu.Lock()
	defer c.metaMu.Unlock()
	c.meta = proto.CloneOf(c.meta)
	change(c.meta)
	return c.members.UpdateMeta(c.meta)
}

// leaving tells the other nodes to give this node no new work. It finishes its present work.
func (c *cluster) leaving(log zerolog.Logger) {
	if err := c.updateMeta(func(m *envelope.NodeMeta) { m.Leaving = true }); err != nil {
		log.Warn().Err(err).Msg("the other nodes were not told that this node is about to leave")
	}
}

// wiringOf returns the roles and logs that the roles of a core call in a cluster. Comet lives longer
// than a core, so it finds logics through the core that serves.
func (c *cluster) wiringOf(n *Node, of *core) wiring {
	r := of.remote
	w := wiring{
		routers: remoteRouters{r}, owners: r, rooms: r, comets: r, logic: remoteLogics{c}, owned: r.owned,
		kept: c.growth.FencedLog(of.kept), growth: routerGrowth{n, of.kept.Generation()},
	}
	if of.group != nil {
		w.group = group{of.group}
	}
	if c.tokens != nil {
		w.tokens = c.tokens
	}
	return w
}

// close closes gossip, the RPC server and the connections to other nodes.
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
