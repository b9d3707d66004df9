package roles

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"imgo/cluster/bus"
	"imgo/cluster/members"
	"imgo/cluster/pulse"
	"imgo/cluster/rpc"
	"imgo/config"
	"imgo/envelope"
)

// cluster is the part of a node that connects it to the other nodes.
type cluster struct {
	*Node
	server     *rpc.Server
	pool       *rpc.Pool
	remote     atomic.Pointer[remoteRoles] // of the core that serves
	refreshing sync.Mutex                  // one refresh of the cluster state at a time
	members    *members.Members
	status     statusReport
	pulse      *pulse.Pulse // of the kept log
	tokens     *pulse.Pulse // of the tokens topic
	kafka      kafka

	metaMu sync.Mutex
	meta   *envelope.NodeMeta
}

func newCluster(n *Node) *cluster {
	c := &cluster{Node: n, kafka: kafka{process: n.process, kept: make(map[uint16]*bus.Log)}}
	c.status.cluster = c
	return c
}

// bind binds the RPC address of this node. The node's name may depend on it.
func (c *cluster) bind() (err error) {
	cfg := c.cfg.Cluster
	security := rpc.Security{Secret: cfg.Secret, CertFile: cfg.TLSCert, KeyFile: cfg.TLSKey, CAFile: cfg.TLSCA}
	if c.server, err = rpc.NewServer(rpc.ServerOptions{Listen: cfg.RPC, Security: security, Log: c.log, Metrics: c.metrics}); err != nil {
		return fmt.Errorf("%w%s", err, listenHint(err, "--rpc"))
	}
	c.pool, err = rpc.NewPool(rpc.PoolOptions{Security: security, Log: c.log, Metrics: c.metrics, Faults: c.opts.Faults.RPC})
	return err
}

// open opens the logs of the cluster.
func (c *cluster) open(ctx context.Context) (storage, error) {
	kept, err := c.kafka.open(ctx, c.stores.db)
	if err != nil {
		return storage{}, err
	}
	c.stores.live, c.stores.tokens = c.kafka.live, c.kafka.tokens
	s, err := c.storageOf(ctx, kept)
	if err == nil {
		c.remote.Store(s.remote)
	}
	return s, err
}

// storageOf returns the storage of a core that uses this generation of the kept
// topic.
func (c *cluster) storageOf(ctx context.Context, kept *bus.Log) (storage, error) {
	s := storage{kept: kept, remote: newRemoteRoles(c.name, kept, c.members, c.pool, &c.refreshing, c.log)}
	posts := c.cfg.Runs(config.RoleJob) && len(c.cfg.Hooks) > 0
	if c.cfg.Runs(config.RoleRouter) || c.cfg.Runs(config.RoleLogic) || posts {
		var err error
		if s.events, err = c.kafka.eventsOf(ctx, kept.Generation(), kept.Partitions()); err != nil {
			return storage{}, err
		}
	}
	if c.cfg.Runs(config.RoleJob) {
		var err error
		if s.group, err = c.kafka.bus.Group(ctx, bus.GroupOptions{Name: "job", Logs: []*bus.Log{kept, c.kafka.live}}); err != nil {
			return storage{}, err
		}
	}
	return s, nil
}

// notName matches what a node name may not have.
var notName = regexp.MustCompile(`[^a-zA-Z0-9._-]+`)

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

// join makes this node known to the others. Call it after all advertised addresses are bound.
func (c *cluster) join() (err error) {
	serving, cfg := c.cores.serving.Load(), c.cfg.Cluster
	kept := serving.kept
	c.server.Register(serving.offered)
	c.pulse, c.tokens = c.newPulse(), c.newTokensPulse()
	meta := &envelope.NodeMeta{
		Roles: c.roles(), Zone: cfg.Zone, Weight: uint32(cfg.Weight), Version: shorten(c.opts.Version), StartMs: c.started.UnixMilli(),
		KeptPartitions: uint32(kept.Partitions()), LivePartitions: uint32(c.stores.live.Partitions()), Generation: uint32(kept.Generation()),
		Http: reachable(c.http.listener.Addr()), Endpoints: clientSide{c.Node}.endpoints(),
		RecordVersion: c.readsRecords(),
	}
	// dead_after has room for four probes of a dead node and for spreading the news.
	probe := max(cfg.DeadAfter/6, 50*time.Millisecond)
	c.members, err = members.New(members.Options{
		Name: c.name, Bind: cfg.Gossip, Advertise: cfg.GossipAddress, Join: cfg.Join, Secret: cfg.Secret, Meta: meta,
		ProbeInterval: probe, ProbeTimeout: probe / 2, GossipInterval: min(100*time.Millisecond, probe),
		Log: c.log, Metrics: c.metrics, Faults: c.opts.Faults.Gossip,
	})
	if err != nil {
		return fmt.Errorf("%w%s", err, listenHint(err, "--gossip"))
	}
	if meta.Rpc = cmp.Or(cfg.RPCAddress, reachable(c.server.Addr())); meta.Rpc == "" {
		host, _, _ := net.SplitHostPort(c.members.Advertised())
		_, port, _ := net.SplitHostPort(c.server.Addr().String())
		meta.Rpc = net.JoinHostPort(host, port)
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
		{name: "control topic", run: c.kafka.growth.Run},
	}
	if c.kafka.tokens != nil {
		all = append(all, stage{name: "tokens", run: c.kafka.tokens.Run, ready: c.kafka.tokens.Ready})
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
			c.log.Warn().Err(err).Msg("the other nodes were not told that this node leaves. They will detect it by gossip")
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
func (c *cluster) leaving() {
	if err := c.updateMeta(func(m *envelope.NodeMeta) { m.Leaving = true }); err != nil {
		c.log.Warn().Err(err).Msg("the other nodes were not told that this node is about to leave")
	}
}

// wiringOf returns the roles and logs that the roles of a core call in a cluster. Comet lives longer
// than a core, so it finds logics through the core that serves.
func (c *cluster) wiringOf(of *core) wiring {
	r := of.remote
	w := wiring{
		routers: remoteRouters{r}, owners: r, rooms: r, comets: r, logic: rpc.AnyLogic(remoteLogics{c}.try), owned: r.owned,
		kept: c.kafka.growth.FencedLog(of.kept), growth: routerGrowth{&c.kafka, of.kept.Generation()},
	}
	if of.group != nil {
		w.group = group{of.group}
	}
	return w
}

// close closes gossip, the RPC server and the connections to other nodes.
func (c *cluster) close() {
	if c.members != nil {
		if err := c.members.Close(); err != nil {
			c.log.Warn().Err(err).Msg("gossip was not closed cleanly")
		}
	}
	if c.server != nil {
		c.server.Close()
	}
	if c.pool != nil {
		c.pool.Close()
	}
}
