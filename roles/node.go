// Package roles composes a node: it creates the configured roles, connects them, and starts and stops
// them in order.
//
// It guarantees that every started part is stopped and waited for, in the reverse order. It contains
// no logic of any role. Only main and tests import it.
package roles

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"imgo/config"
	"imgo/internal/events"
	"imgo/roles/comet"
	"imgo/roles/job/hooks"
)

// RunOptions are the inputs of a node besides its settings.
type RunOptions struct {
	// Stdout gets the banner for a person at a terminal, Stderr gets the log. Nil means that nothing
	// is written.
	Stdout, Stderr io.Writer
	// Version is the version that the node reports.
	Version string
	// Program is how a shell runs this program, such as ./imgo. The banner's examples begin with it.
	// Empty means imgo.
	Program string
	// Terminal reports whether Stderr is a terminal, for logging.format = "auto".
	Terminal bool
	// Faults are defects for tests.
	Faults Faults
}

// Node is a running mix of roles. New binds every address and opens the data folder.
// Run serves until its context is done and everything has drained.
type Node struct {
	*process
	http    httpSide
	stores  stores
	cluster *cluster // nil: this process is the only node
	records recordVersions
	cores   cores
	comet   *comet.Comet // nil: this process runs no comet
	topics  eventTopics
	events  *events.Feed
	hooks   *hooks.Hooks // nil: there are no hooks here

	serving atomic.Bool // all stages have started and none stops yet
}

// Run makes a node and runs it until ctx is done.
func Run(ctx context.Context, cfg config.Config, opts RunOptions) error {
	n, err := New(ctx, cfg, opts)
	switch {
	case err != nil && errors.Is(err, context.Canceled) && ctx.Err() != nil: // stopped while it waited for something
		return nil
	case err != nil:
		return err
	}
	return n.Run(ctx)
}

// New opens the data folder and binds every address. If it fails, it closes what it
// has opened. The settings must come from config.Load or config.Default, and must
// have passed Validate.
func New(ctx context.Context, cfg config.Config, opts RunOptions) (_ *Node, err error) {
	if opts.Stdout == nil {
		opts.Stdout = io.Discard
	}
	if opts.Stderr == nil {
		opts.Stderr = io.Discard
	}
	n := &Node{
		process: &process{
			cfg: cfg, opts: opts, name: cmp.Or(cfg.NodeID, config.HostNodeID()), started: time.Now(), metrics: prometheus.NewRegistry(),
		},
	}
	n.http.Node, n.stores.process, n.records.Node, n.cores.Node = n, n.process, n, n
	n.topics = eventTopics{Node: n, older: make(map[uint16]eventsLog)}
	n.events = events.NewFeed(&n.topics)
	if n.log, err = newLogger(cfg.Logging, opts); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	// The checks that fail most often come first: a port in use is reported before
	// a log is read.
	if cfg.Clustered() {
		n.cluster = newCluster(n)
		if err = n.cluster.bind(); err != nil {
			return nil, err
		}
		if cfg.NodeID == "" || cfg.NodeID == config.HostNodeID() && cfg.Origin("node_id") == "default" {
			n.name = clusterName(n.name, n.cluster.server.Addr())
		}
	}
	n.log = n.log.With().Str("node", n.name).Logger()
	for _, w := range cfg.Warnings() {
		n.log.Warn().Msg(w)
	}
	n.metrics.MustRegister(collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(
		collectors.GoRuntimeMetricsRule{Matcher: regexp.MustCompile(`^/sched/pauses/total/gc:seconds$`)})),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "imgo_node_start_seconds", Help: "When the node started, Unix seconds.",
			ConstLabels: prometheus.Labels{"version": opts.Version}}, func() float64 { return float64(n.started.Unix()) }))
	if err = n.http.bind(ctx); err != nil {
		return nil, err
	}
	// Health is answered from now on, also while the log is read or Kafka is waited for.
	n.http.start()
	s, err := n.open(ctx)
	if err != nil {
		return nil, err
	}
	if err = n.wire(ctx, s); err != nil {
		return nil, err
	}
	if n.cluster != nil {
		n.register(n.cores.serving.Load())
		if err = n.cluster.join(); err != nil {
			return nil, err
		}
	}
	// Nothing of n that the pages read is written from here on.
	if err = n.http.wire(); err != nil {
		return nil, err
	}
	return n, nil
}

// close releases what New has opened.
func (n *Node) close() {
	if n.cluster != nil {
		// All parts have ended, or their time is up. Nothing below may wait for Kafka for kafka.write_timeout.
		n.cluster.kafka.abort()
	}
	if n.comet != nil {
		n.comet.Close()
	}
	if n.cluster != nil {
		n.cluster.close()
	}
	if c := n.cores.serving.Load(); c != nil {
		n.logClose(c.closeLogs())
	}
	n.stores.close()
	if n.cluster != nil {
		n.cluster.kafka.close()
	}
	n.http.close()
}

// open opens the logs, and the data folder if a role of this process needs it.
func (n *Node) open(ctx context.Context) (s storage, err error) {
	if n.cluster == nil || n.cfg.Runs(config.RoleRouter) || n.cfg.Runs(config.RoleLogic) {
		if err := n.stores.open(); err != nil {
			return s, err
		}
	}
	if n.cluster != nil {
		return n.cluster.open(ctx)
	}
	if err := n.records.open(); err != nil {
		return s, err
	}
	return n.stores.openLogs()
}

// wire creates the roles of this process.
func (n *Node) wire(ctx context.Context, s storage) error {
	c, w, err := n.cores.newCore(ctx, s)
	if err != nil {
		return err
	}
	n.cores.serving.Store(c)
	if n.cfg.Runs(config.RoleComet) {
		if w.logic == nil {
			w.logic = c.logic
		}
		cometConfig, err := clientSide{n}.cometConfig()
		if err != nil {
			return err
		}
		n.comet, err = comet.New(cometConfig, w.logic, n.log, n.metrics)
		if err != nil {
			return fmt.Errorf("%w%s", err, listenHint(err, "--tcp or --ws"))
		}
	}
	n.hooks, err = n.newHooks(ctx)
	return err
}

// Kept returns the number of partitions of the kept topic that the roles use, and its
// generation.
func (n *Node) Kept() (partitions int32, generation uint16) {
	kept := n.cores.serving.Load().kept
	return kept.Partitions(), kept.Generation()
}

// HTTPAddr returns the address of the API, the console and the admin endpoints.
func (n *Node) HTTPAddr() net.Addr { return n.http.listener.Addr() }

// AdminAddr returns the address of the admin listener, or nil if there is none.
func (n *Node) AdminAddr() net.Addr {
	if n.http.admin == nil {
		return nil
	}
	return n.http.admin.Addr()
}
