package roles

import (
	"context"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"imgo/cluster/bus"
	"imgo/cluster/rpc"
	"imgo/config"
	"imgo/roles/comet"
	"imgo/roles/job"
	"imgo/roles/logic"
	"imgo/roles/logic/httpapi"
	"imgo/roles/router"
	"imgo/store"
)

// core is what of a node depends on how many partitions the kept topic has:
// the topic, and the roles that write or read it. When the topic grows while
// the node runs, a new core takes the place of the old one; clients keep their
// connections to comet, which is not part of it.
type core struct {
	ground
	metrics *prometheus.Registry // of this core's roles
	// The roles; nil: another process's.
	router *router.Router
	job    *job.Job
	logic  *logic.Logic
	face   http.Handler // logic's, or one that says where logic is
	// offered is what the other nodes may call of it.
	offered rpc.Services
}

// ground is what a core stands on.
type ground struct {
	kept keptLog
	// peers and group are nil where this process is all there is; group also
	// where it does not run job.
	peers *peers
	group *bus.Group
}

// around is what the roles of this process call, wherever it is.
type around struct {
	routers logic.Routers
	owners  job.Owners
	rooms   logic.Comets
	comets  job.Comets
	logic   comet.Logic
	tokens  logic.TokenStore
	kept    logic.KeptLog
	// local is the router of this process, which owns every partition; nil where
	// routers and comets may be in other processes.
	local job.LocalRouter
	// owned, group and growth are nil where this process has every partition.
	owned  func() ([]int32, <-chan struct{})
	group  job.Group
	growth router.Growth
}

// around decides who is called: here, and only here.
func (n *Node) around(c *core) around {
	if n.cluster != nil {
		return n.cluster.around(n, c)
	}
	here := &neighbours{n, c}
	return around{
		routers: owners{here, c.kept.Partitions()}, owners: here, rooms: here, comets: here, tokens: store.NewTokens(n.db),
		kept: c.kept, local: here,
	}
}

// newCore makes the roles that this process runs on a ground and gives each the
// others that it calls. The core closes the topic, also when newCore fails.
func (n *Node) newCore(ctx context.Context, g ground) (*core, around, error) {
	c := &core{ground: g, metrics: prometheus.NewRegistry()}
	near := n.around(c)
	if err := n.fill(ctx, c, near); err != nil {
		n.closed(g.kept.Close())
		return nil, near, err
	}
	return c, near, nil
}

func (n *Node) fill(ctx context.Context, c *core, near around) (err error) {
	bad := n.opts.Faults
	if n.cfg.Runs(config.RoleRouter) {
		c.router, err = router.New(n.routerConfig(), router.Deps{
			Kept: bad.routerLog(c.kept), Live: n.live, Store: store.NewMailboxes(n.db), Owned: near.owned, Growth: near.growth, Log: n.log, Metrics: c.metrics, Events: n.report,
		})
		if err != nil {
			return err
		}
	}
	if n.cfg.Runs(config.RoleJob) {
		c.job, err = job.New(ctx, job.DefaultConfig(), job.Deps{
			Kept: c.kept, Live: n.live, Owners: near.owners, Comets: bad.comets(near.comets), Local: near.local, Group: near.group,
			Log: n.log, Metrics: c.metrics,
		})
		if err != nil {
			return err
		}
	}
	if !n.cfg.Runs(config.RoleLogic) {
		c.face = http.HandlerFunc(n.elsewhere)
		return nil
	}
	c.logic, err = logic.New(n.logicConfig(), logic.Deps{
		Routers: near.routers, Kept: bad.logicLog(near.kept), Live: n.live, Comets: near.rooms, Tokens: near.tokens, Log: n.log, Metrics: c.metrics,
	})
	if err != nil {
		return err
	}
	c.face, err = n.api(c)
	return err
}

// api is the HTTP face of a core's logic.
func (n *Node) api(c *core) (http.Handler, error) {
	keys := make([]httpapi.Key, len(n.cfg.HTTP.APIKeys))
	for i, k := range n.cfg.HTTP.APIKeys {
		keys[i] = httpapi.Key{Name: k.Name, Key: k.Key, Rate: k.Rate}
	}
	a, err := httpapi.New(httpapi.Config{
		Keys: keys, MaxBody: int64(n.cfg.HTTP.BodyLimit), MaxUsers: n.cfg.HTTP.MaxUsers, TrustedOrigins: n.cfg.HTTP.Origins,
	}, service{c.logic, n}, n.log, c.metrics)
	if err != nil {
		return nil, err
	}
	return a.Handler(), nil
}

// report takes a router's event to the logic of this process, which shows it
// in GET /v1/events, or to the log.
func (n *Node) report(kind, user, detail string) {
	if c := n.core.Load(); c != nil && c.logic != nil {
		c.logic.Report(kind, user, detail)
		return
	}
	n.log.Warn().Str("event", kind).Str("user", user).Msg(detail)
}

// stages are a core's parts in the order in which they start.
func (c *core) stages() []stage {
	all := []stage{{name: "kept log", run: c.kept.Run}}
	if c.peers != nil {
		all = append(all, stage{name: "gossip", run: c.peers.run, ready: c.peers.joined})
	}
	if c.router != nil {
		all = append(all, stage{name: config.RoleRouter, run: c.router.Run, ready: c.router.Ready})
	}
	if c.job != nil {
		all = append(all, stage{name: config.RoleJob, run: c.job.Run, ready: c.job.Ready})
	}
	if c.logic != nil {
		all = append(all, stage{name: config.RoleLogic, run: c.logic.Run, ready: c.logic.Ready})
	}
	return all
}
