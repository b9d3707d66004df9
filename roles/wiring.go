package roles

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"

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

// core is the part of a node that depends on the number of partitions of the
// kept topic: the topic itself, and the roles that write or read it. When the
// topic grows while the node runs, a new core replaces the old one. Comet is not
// part of it, so clients keep their connections.
type core struct {
	storage
	metrics *prometheus.Registry // of this core's roles
	// The roles; nil if this process does not run the role.
	router *router.Router
	job    *job.Job
	logic  *logic.Logic
	// apiHandler is the API of logic, or a handler that names nodes that run logic.
	apiHandler http.Handler
	// endStreams ends the push streams of this core's logic.
	endStreams func()
	// offered are the services that other nodes may call.
	offered rpc.Services
}

// storage is the log and the cluster view that a core uses.
type storage struct {
	kept keptLog
	// events is the events topic of the kept topic's generation. It is nil if no role of this process
	// uses it.
	events eventsLog
	// remote and group are nil if this process is the only node. group is also nil if the process does
	// not run job.
	remote *remoteRoles
	group  *bus.Group
}

// wiring holds the roles and logs that the roles of this process call. They may be in other processes.
type wiring struct {
	routers logic.Routers
	owners  job.Owners
	rooms   logic.Comets
	comets  job.Comets
	logic   comet.Logic
	kept    logic.KeptLog
	// local is the router of this process, which owns every partition. It is nil if routers and comets
	// may be in other processes.
	local job.LocalRouter
	// owned, group and growth are nil if this process owns every partition.
	owned  func() ([]int32, <-chan struct{})
	group  job.Group
	growth router.Growth
}

// wiringOf returns the roles and logs that the roles of a core call. No other function decides this.
func (n *cores) wiringOf(c *core) wiring {
	if n.cluster != nil {
		return n.cluster.wiringOf(c)
	}
	local := &localRoles{n.Node, c}
	return wiring{
		routers: localRouters{local}, owners: local, rooms: local, comets: local, kept: c.kept, local: local,
	}
}

// closeLogs closes the logs of the storage.
func (s storage) closeLogs() error {
	err := s.kept.Close()
	if s.events != nil {
		err = errors.Join(err, s.events.Close())
	}
	return err
}

// cores makes the cores of a node, one for each generation of the kept topic, and runs the one that serves.
type cores struct {
	*Node
	serving atomic.Pointer[core]
}

// newCore creates the roles of this process on a storage and connects them. The core closes the topic,
// even if newCore fails.
func (n *cores) newCore(ctx context.Context, s storage) (*core, wiring, error) {
	c := &core{storage: s, metrics: prometheus.NewRegistry()}
	w := n.wiringOf(c)
	if err := n.makeRoles(ctx, c, w); err != nil {
		n.logClose(s.closeLogs())
		return nil, w, err
	}
	return c, w, nil
}

// makeRoles makes the roles of a core.
func (n *cores) makeRoles(ctx context.Context, c *core, w wiring) (err error) {
	faults := n.opts.Faults
	if n.cfg.Runs(config.RoleRouter) {
		c.router, err = router.New(n.routerConfig(), router.Deps{
			Kept: faults.routerLog(c.kept), Live: n.stores.live, Topic: c.events,
			Store: store.NewMailboxes(n.stores.db).ForGeneration(c.kept.Generation()).DerivedBy(n.readsRecords()), Owned: w.owned,
			Growth: w.growth, Records: n.records.inUse(), Versions: &n.records, Log: n.log, Metrics: c.metrics, Notices: n.report, Now: n.now,
		})
		if err != nil {
			return err
		}
	}
	if n.cfg.Runs(config.RoleJob) {
		c.job, err = job.New(ctx, job.DefaultConfig(), job.Deps{
			Kept: c.kept, Live: n.stores.live, Owners: w.owners, Comets: faults.comets(w.comets), Local: w.local, Group: w.group,
			Log: n.log, Metrics: c.metrics,
		})
		if err != nil {
			return err
		}
	}
	if !n.cfg.Runs(config.RoleLogic) {
		c.apiHandler, c.endStreams = http.HandlerFunc(n.http.refuseLogic), func() {}
		return nil
	}
	c.logic, err = logic.New(n.logicConfig(), logic.Deps{
		Routers: w.routers, Kept: faults.logicLog(w.kept), Live: n.stores.live, Comets: w.rooms, Tokens: n.stores.tokens,
		Log: n.log, Metrics: c.metrics, Now: n.now, Records: &n.records,
	})
	if err != nil {
		return err
	}
	apiConfig := n.cfg.HTTP.Config
	for _, t := range (clientSide{n.Node}).transports() {
		apiConfig.Transports = append(apiConfig.Transports, t.scheme)
	}
	api, err := httpapi.New(apiConfig, service{c.logic, n.Node}, n.log, c.metrics)
	if err != nil {
		return err
	}
	c.apiHandler, c.endStreams = api.Handler(), api.EndStreams
	return nil
}

// report passes a router's notice to the logic of this process, which shows it in GET /v1/notices.
// Without a logic it is logged.
func (n *cores) report(kind, user string, count int, detail string) {
	if c := n.serving.Load(); c != nil && c.logic != nil {
		c.logic.Report(kind, user, count, detail)
		return
	}
	n.log.Warn().Str("notice", kind).Str("user", user).Msg(detail)
}

// stages returns the parts of a core in the order in which they start.
func (c *core) stages() []stage {
	all := []stage{{name: "kept log", run: c.kept.Run}}
	if c.events != nil {
		all = append(all, stage{name: "events log", run: c.events.Run})
	}
	if c.remote != nil {
		all = append(all, stage{name: "gossip", run: c.remote.run, ready: c.remote.joined})
	}
	if c.router != nil {
		all = append(all, stage{name: config.RoleRouter, run: c.router.Run, ready: c.router.Ready})
	}
	if c.job != nil {
		all = append(all, stage{name: config.RoleJob, run: c.runJob, ready: c.job.Ready})
	}
	if c.logic != nil {
		all = append(all, stage{name: config.RoleLogic, run: c.logic.Run, ready: c.logic.Ready, started: c.logic.Started})
	}
	return all
}

// runJob runs job until ctx is done, and then leaves its group. A member that stays in the group keeps its partitions,
// and nobody carries them while the other stages stop.
func (c *core) runJob(ctx context.Context) error {
	err := c.job.Run(ctx)
	if c.group != nil {
		err = errors.Join(err, c.group.Close())
	}
	return err
}

// run runs the core, until ctx is done.
func (n *cores) run(ctx context.Context) error {
	r := newRunner(n.log)
	err := r.start(ctx, n.serving.Load().stages()...)
	for err == nil && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case err = <-r.failed:
		case <-n.generationOver():
			r, err = n.replace(ctx, r)
		}
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil
	}
	// Run has its own limit, and its error names the part that does not stop.
	return r.stop(err, n.cfg.Shutdown.Timeout)
}

// ready returns why the core cannot serve, or nil.
func (n *cores) ready() error {
	return firstError(n.serving.Load().stages(), func(s *stage) func() error { return s.ready })
}

// started returns why the parts that use the core have to wait, or nil.
func (n *cores) started() error { return firstError(n.serving.Load().stages(), (*stage).waitFor) }
