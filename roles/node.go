// Package roles composes a node: it creates the configured roles, connects them, and starts and stops
// them in order.
//
// It guarantees that every started part is stopped and waited for, in the reverse order. It contains
// no logic of any role. Only main and tests import it.
package roles

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/rs/zerolog"

	"imgo/cluster/growth"
	"imgo/config"
	"imgo/console"
	"imgo/roles/comet"
	"imgo/roles/job"
	"imgo/roles/logic"
	"imgo/roles/logic/httpapi"
	"imgo/roles/router"
	"imgo/store"
	"imgo/transport"
	"imgo/transport/ws"
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
	// FreeBytes returns the free bytes of the file system of a folder. Nil asks the operating system.
	// Tests simulate a full disk with it.
	FreeBytes func(dir string) (int64, error)
	// Network lets tests cut the connections to other nodes.
	Network Network
	// Growth has the durations of a growth of the kept topic. Zero means the defaults. All nodes of a
	// cluster must use the same.
	Growth growth.Config
	// Faults are defects for tests.
	Faults Faults
}

// Node is a running mix of roles. New binds every address and opens the data folder.
// Run serves until its context is done and everything has drained.
type Node struct {
	cfg     config.Config
	opts    RunOptions
	name    string
	log     zerolog.Logger
	started time.Time
	metrics *prometheus.Registry

	db       *store.DB // nil: no role of this process needs it
	live     liveLog
	core     atomic.Pointer[core]
	comet    *comet.Comet // nil: this process runs no comet
	cluster  *cluster     // nil: this process is the only node
	records  recordGate
	topics   eventTopics
	hooks    *hookService // nil: there are no hooks here
	listener net.Listener
	server   *http.Server
	// handler is what server calls. It is replaced once the node is wired.
	handler atomic.Pointer[http.Handler]
	apiOpen atomic.Bool // callers of the API are let in
	// waitingFor is why the node cannot open its log yet. nil: it is not known to wait.
	waitingFor atomic.Pointer[string]
	// httpDone is closed when server serves no more, and httpErr is the reason. httpDone is nil before
	// the server starts.
	httpDone chan struct{}
	httpErr  error
	// httpConns bounds the connections of listener.
	httpConns *httpConns
	// adminListener has the pages for operators of this machine. nil: off.
	adminListener net.Listener

	killed  chan struct{} // closed by Kill
	serving atomic.Bool   // all stages have started and none stops yet
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
	n := &Node{cfg: cfg, opts: opts, name: nodeName(cfg.NodeID), started: time.Now(), metrics: prometheus.NewRegistry(),
		killed: make(chan struct{})}
	n.records.n, n.topics.n = n, n
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
		if err = n.bindCluster(); err != nil {
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
	if n.listener, err = new(net.ListenConfig).Listen(ctx, "tcp", cfg.HTTP.Listen); err != nil {
		return nil, fmt.Errorf("listen for the HTTP API on %s: %w%s", cfg.HTTP.Listen, err, listenHint(err, "--http"))
	}
	if err = n.bindHTTP(); err != nil {
		return nil, err
	}
	// Health is answered from now on, also while the log is read or Kafka is waited for.
	n.startHTTP()
	if cfg.HTTP.Admin != "" {
		if n.adminListener, err = new(net.ListenConfig).Listen(ctx, "tcp", cfg.HTTP.Admin); err != nil {
			return nil, fmt.Errorf("listen for the admin pages on %s: %w%s", cfg.HTTP.Admin, err, listenHint(err, "--http-admin"))
		}
	}
	s, err := n.open(ctx)
	if err != nil {
		return nil, err
	}
	if err = n.wire(ctx, s); err != nil {
		return nil, err
	}
	if n.cluster != nil {
		n.register(n.core.Load())
		n.cluster.server.Register(n.core.Load().offered)
		n.cluster.pulse = n.newPulse()
		if err = n.joinCluster(); err != nil {
			return nil, err
		}
	}
	// Nothing of n that the pages read is written from here on.
	if err = n.wireHTTP(); err != nil {
		return nil, err
	}
	return n, nil
}

// close releases what New has opened.
func (n *Node) close() {
	if n.comet != nil {
		n.comet.Close()
	}
	if n.cluster != nil {
		n.cluster.close(n.log)
	}
	n.closeStore()
	if n.cluster != nil && n.cluster.bus != nil {
		n.logClose(n.cluster.bus.Close())
	}
	if n.listener != nil {
		_ = n.listener.Close()
	}
	if n.httpDone != nil {
		_ = n.server.Close()
		<-n.httpDone
	}
	if n.adminListener != nil {
		_ = n.adminListener.Close()
	}
}

var notName = regexp.MustCompile(`[^a-zA-Z0-9._-]+`)

// nodeName returns the setting, or the name of the host if it is empty. The result has at most 64 bytes.
func nodeName(id string) string {
	if id == "" {
		id, _ = os.Hostname()
		id = strings.Trim(notName.ReplaceAllString(id, "-"), "-")
	}
	if id == "" {
		return "imgo"
	}
	return id[:min(len(id), 64)]
}

// listenHint returns advice for an address that is in use, or "" for another error.
func listenHint(err error, flag string) string {
	if strings.Contains(err.Error(), "address already in use") {
		return fmt.Sprintf("; another process (perhaps another imgo) has it: stop that one or choose another address with %s", flag)
	}
	return ""
}

// open opens the logs, and the data folder if a role of this process needs it.
func (n *Node) open(ctx context.Context) (s storage, err error) {
	if n.cluster == nil {
		if err := n.openStore(); err != nil {
			return s, err
		}
		if err := n.openRecords(n.db); err != nil {
			return s, err
		}
		err = n.openLogs(&s)
		return s, err
	}
	if n.cfg.Runs(config.RoleRouter) || n.cfg.Runs(config.RoleLogic) {
		if err := n.openStore(); err != nil {
			return s, err
		}
	}
	return kafkaStorage{n}.openBus(ctx)
}

func (n *Node) openStore() (err error) {
	reserve := int64(n.cfg.Disk.Reserve)
	if reserve == 0 {
		reserve = -1
	}
	n.db, err = store.Open(store.Options{
		Dir: n.cfg.DataDir, Reserve: reserve, Log: n.log, Metrics: n.metrics, FreeBytes: n.opts.FreeBytes,
		Faults: n.opts.Faults.Store,
	})
	return err
}

// openLogs opens the topics of the log that is embedded in this process.
func (n *Node) openLogs(s *storage) error {
	live, err := store.NewLiveLog(store.LiveOptions{
		Partitions: int32(n.cfg.Live.Partitions), MaxBytes: n.cfg.Live.MaxBytes,
		Retention: n.cfg.Live.Retention, Metrics: n.metrics,
	})
	if err != nil {
		return err
	}
	n.live = live
	kept, err := store.OpenLog(n.db, store.LogOptions{
		Partitions: int32(n.cfg.Kept.Partitions), Retention: n.cfg.Kept.Retention,
	})
	if err != nil {
		return err
	}
	s.kept = kept
	topic, err := store.OpenLog(n.db, store.LogOptions{
		Events: true, Partitions: kept.Partitions(), Generation: kept.Generation(), Retention: n.cfg.Events.Retention,
		TailBytes: eventsTailBytes,
	})
	if err != nil {
		return errors.Join(err, kept.Close())
	}
	s.events = topic
	return nil
}

// eventsTailBytes is how much of each partition of the embedded events log is in memory for readers.
const eventsTailBytes = 64 << 10

// closeStore closes the logs and the data folder.
func (n *Node) closeStore() {
	if n.live != nil {
		n.logClose(n.live.Close())
	}
	if c := n.core.Load(); c != nil {
		n.logClose(c.closeLogs())
	}
	if n.db != nil {
		n.logClose(n.db.Close())
	}
}

// logClose logs the error of a close, unless it is nil.
func (n *Node) logClose(err error) {
	if err != nil {
		n.log.Error().Err(err).Msg("the log or the data folder was not closed cleanly")
	}
}

// keptLog is the kept topic: embedded, or on Kafka.
type keptLog interface {
	logic.KeptLog
	router.KeptLog
	Run(ctx context.Context) error
	Close() error
}

// eventsLog is the events topic: embedded, or on Kafka.
type eventsLog interface {
	router.EventsLog
	Run(ctx context.Context) error
	Close() error
}

// liveLog is the live topic: in memory, or on Kafka.
type liveLog interface {
	logic.LiveLog
	router.LiveLog
	job.Log
	Run(ctx context.Context) error
	Close() error
}

// wire creates the roles of this process and its HTTP side.
func (n *Node) wire(ctx context.Context, s storage) error {
	c, w, err := n.newCore(ctx, s)
	if err != nil {
		return err
	}
	n.core.Store(c)
	if n.cfg.Runs(config.RoleComet) {
		if w.logic == nil {
			w.logic = c.logic
		}
		cometConfig, err := n.cometConfig()
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

// bindHTTP makes the server of the HTTP port.
func (n *Node) bindHTTP() error {
	handler := admin{n}.startingMux()
	n.handler.Store(&handler)
	n.server = httpapi.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		(*n.handler.Load()).ServeHTTP(w, r)
	}), n.log)
	n.httpConns = newHTTPConns(n.cfg.HTTP.MaxConnections, n.metrics)
	n.server.ConnState = n.httpConns.track
	if n.cfg.HTTP.TLSCert != "" {
		cert, err := transport.ReloadingTLS(n.cfg.HTTP.TLSCert, n.cfg.HTTP.TLSKey, n.log)
		if err != nil {
			return fmt.Errorf("http.tls_cert and http.tls_key: %w", err)
		}
		cert.NextProtos = []string{"h2", "http/1.1"}
		n.listener = tls.NewListener(n.listener, cert)
		n.server.TLSConfig = cert
	}
	return nil
}

// wireHTTP puts the API and the console on the HTTP port.
func (n *Node) wireHTTP() error {
	apiHandler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !n.apiOpen.Load() {
			admin{n}.refuseStarting(w, r)
			return
		}
		n.core.Load().apiHandler.ServeHTTP(w, r)
	})
	page := http.Handler(apiHandler)
	if n.cfg.Runs(config.RoleLogic) {
		page = console.Handler(console.Options{WebSocket: clientSide{n}.addresses()[ws.Scheme], Version: n.opts.Version})
	}
	gate, err := httpapi.NewGate(n.cfg.HTTP.Keys)
	if err != nil {
		return err
	}
	handler := admin{n}.mux(apiHandler, page, gate)
	n.handler.Store(&handler)
	return nil
}

// Kept returns the number of partitions of the kept topic that the roles use, and its
// generation.
func (n *Node) Kept() (partitions int32, generation uint16) {
	kept := n.core.Load().kept
	return kept.Partitions(), kept.Generation()
}

// HTTPAddr returns the address of the API, the console and the admin endpoints.
func (n *Node) HTTPAddr() net.Addr { return n.listener.Addr() }

// AdminAddr returns the address of the admin listener, or nil if there is none.
func (n *Node) AdminAddr() net.Addr {
	if n.adminListener == nil {
		return nil
	}
	return n.adminListener.Addr()
}

// roles returns the roles of this process in display order.
func (n *Node) roles() []string {
	return slices.DeleteFunc(config.AllRoles(), func(role string) bool { return !n.cfg.Runs(role) })
}
