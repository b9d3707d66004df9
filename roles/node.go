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

	"imgo/console"
	"imgo/roles/comet"
	"imgo/roles/job"
	"imgo/roles/logic"
	"imgo/roles/logic/api"
	"imgo/roles/router"
	"imgo/store"
	"imgo/transport"
)

// RunOptions are what a node is given beside its settings.
type RunOptions struct {
	// Stdout is where a person at a terminal is told what runs where; Stderr
	// is where the log goes. Nil: nowhere.
	Stdout, Stderr io.Writer
	// Version is what the node calls itself.
	Version string
	// Terminal says that Stderr is a terminal, for logging.format = "auto".
	Terminal bool
	// FreeBytes says how much of the data folder's file system is free, in
	// bytes; nil: ask the operating system. Tests fill disks with it.
	FreeBytes func(dir string) (int64, error)
}

// Node is a running mix of roles: New binds every address and opens the data
// folder, Run serves until its context is done and everything has drained.
type Node struct {
	cfg     Config
	opts    RunOptions
	name    string
	log     zerolog.Logger
	started time.Time
	metrics *prometheus.Registry

	// What the roles of this process need; nil: no role here needs it.
	db   *store.DB
	kept keptLog
	live liveLog
	// The roles; nil: another process's.
	router   *router.Router
	job      *job.Job
	logic    *logic.Logic
	comet    *comet.Comet
	listener net.Listener
	server   *http.Server

	serving atomic.Bool // every stage has started and none is to stop
}

// Run makes a node and runs it until ctx is done.
func Run(ctx context.Context, cfg Config, opts RunOptions) error {
	n, err := New(ctx, cfg, opts)
	if err != nil {
		return err
	}
	return n.Run(ctx)
}

// New opens the data folder and binds every address. What it has opened is
// closed again when it fails. The settings must come from Load (or Default)
// and have passed Validate.
func New(ctx context.Context, cfg Config, opts RunOptions) (_ *Node, err error) {
	if opts.Stdout == nil {
		opts.Stdout = io.Discard
	}
	if opts.Stderr == nil {
		opts.Stderr = io.Discard
	}
	if cfg.Clustered() {
		return nil, errors.New("cluster.join is set, but this build runs as one node: leave --join and --kafka out")
	}
	n := &Node{cfg: cfg, opts: opts, name: nodeName(cfg.NodeID), started: time.Now(), metrics: prometheus.NewRegistry()}
	if n.log, err = newLogger(cfg.Logging, opts); err != nil {
		return nil, err
	}
	n.log = n.log.With().Str("node", n.name).Logger()
	for _, w := range cfg.Warnings() {
		n.log.Warn().Msg(w)
	}
	n.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "imgo_node_start_seconds", Help: "When the node started, Unix seconds.",
			ConstLabels: prometheus.Labels{"version": opts.Version}}, func() float64 { return float64(n.started.Unix()) }))
	defer func() {
		if err != nil {
			if n.comet != nil {
				n.comet.Close()
			}
			n.closeStore()
			if n.listener != nil {
				_ = n.listener.Close()
			}
		}
	}()
	// The cheap things that go wrong for people come first: a port in use is
	// said before a log is read.
	if n.listener, err = new(net.ListenConfig).Listen(ctx, "tcp", cfg.HTTP.Listen); err != nil {
		return nil, fmt.Errorf("listen for the HTTP API on %s: %w%s", cfg.HTTP.Listen, err, mendListen(err, "--http"))
	}
	if err = n.openStore(ctx); err != nil {
		return nil, err
	}
	if err = n.wire(ctx); err != nil {
		return nil, err
	}
	return n, nil
}

var notName = regexp.MustCompile(`[^a-zA-Z0-9._-]+`)

// nodeName is the setting, or the host's name.
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

func mendListen(err error, flag string) string {
	if strings.Contains(err.Error(), "address already in use") {
		return fmt.Sprintf("; another process (perhaps another imgo) has it: stop that one or choose another address with %s", flag)
	}
	return ""
}

func (n *Node) openStore(ctx context.Context) error {
	reserve := int64(n.cfg.Disk.Reserve)
	if reserve == 0 {
		reserve = -1
	}
	var err error
	n.db, err = store.Open(store.Options{
		Dir: n.cfg.DataDir, Reserve: reserve, Log: n.log, Metrics: n.metrics, FreeBytes: n.opts.FreeBytes,
	})
	if err != nil {
		return err
	}
	n.kept, err = store.OpenLog(n.db, store.LogOptions{
		Partitions: int32(n.cfg.Kept.Partitions), Retention: n.cfg.Kept.Retention.Duration,
	})
	if err != nil {
		return err
	}
	n.live, err = store.NewLiveLog(store.LiveOptions{
		Partitions: int32(n.cfg.Live.Partitions), MaxBytes: int(n.cfg.Live.MaxBytes),
		Retention: n.cfg.Live.Retention.Duration, Metrics: n.metrics,
	})
	return err
}

func (n *Node) closeStore() {
	var err error
	if n.live != nil {
		err = n.live.Close()
	}
	if n.kept != nil {
		err = errors.Join(err, n.kept.Close())
	}
	if n.db != nil {
		err = errors.Join(err, n.db.Close())
	}
	if err != nil {
		n.log.Error().Err(err).Msg("the data folder was not closed cleanly")
	}
}

// keptLog is the kept topic, whatever carries it.
type keptLog interface {
	logic.KeptLog
	router.KeptLog
	Run(ctx context.Context) error
	Close() error
}

// liveLog is the live topic, whatever carries it.
type liveLog interface {
	logic.LiveLog
	router.LiveLog
	job.Log
	Run(ctx context.Context) error
	Close() error
}

// around is what the roles of this process call, wherever it is.
type around struct {
	routers logic.Routers
	owners  job.Owners
	rooms   logic.Comets
	comets  job.Comets
	logic   comet.Logic
	tokens  logic.TokenStore
}

// wire makes the roles that this process runs and gives each the others that
// it calls.
func (n *Node) wire(ctx context.Context) error {
	here := &neighbours{n}
	near := around{
		routers: owners{here, n.kept.Partitions()}, owners: here, rooms: here, comets: here,
		tokens: store.NewTokens(n.db),
	}
	var err error
	if n.cfg.Runs(RoleRouter) {
		n.router, err = router.New(n.routerConfig(), router.Deps{
			Kept: n.kept, Live: n.live, Store: store.NewMailboxes(n.db), Log: n.log, Metrics: n.metrics, Events: n.report,
		})
		if err != nil {
			return err
		}
	}
	if n.cfg.Runs(RoleLogic) {
		n.logic, err = logic.New(n.logicConfig(), logic.Deps{
			Routers: near.routers, Kept: n.kept, Live: n.live, Comets: near.rooms, Tokens: near.tokens, Log: n.log, Metrics: n.metrics,
		})
		if err != nil {
			return err
		}
	}
	if n.cfg.Runs(RoleJob) {
		n.job, err = job.New(ctx, job.DefaultConfig(), job.Deps{
			Kept: n.kept, Live: n.live, Owners: near.owners, Comets: near.comets, Log: n.log, Metrics: n.metrics,
		})
		if err != nil {
			return err
		}
	}
	if n.cfg.Runs(RoleComet) {
		if near.logic == nil {
			near.logic = n.logic
		}
		cometConfig, err := n.cometConfig()
		if err != nil {
			return err
		}
		n.comet, err = comet.New(cometConfig, near.logic, n.log, n.metrics)
		if err != nil {
			return fmt.Errorf("%w%s", err, mendListen(err, "--tcp or --ws"))
		}
	}
	return n.wireHTTP()
}

// report takes a router's event to the logic of this process, which shows it
// in GET /v1/events, or to the log.
func (n *Node) report(kind, user, detail string) {
	if n.logic != nil {
		n.logic.Report(kind, user, detail)
		return
	}
	n.log.Warn().Str("event", kind).Str("user", user).Msg(detail)
}

func (n *Node) wireHTTP() error {
	keys := make([]api.Key, len(n.cfg.HTTP.APIKeys))
	for i, k := range n.cfg.HTTP.APIKeys {
		keys[i] = api.Key{Name: k.Name, Key: k.Key, Rate: k.Rate}
	}
	a, err := api.New(api.Config{
		Keys: keys, MaxBody: int64(n.cfg.HTTP.BodyLimit), MaxUsers: n.cfg.HTTP.MaxUsers, TrustedOrigins: n.cfg.HTTP.Origins,
	}, service{n.logic, n}, n.log, n.metrics)
	if err != nil {
		return err
	}
	page := console.Handler(console.Options{WebSocket: n.clientAddresses()["ws"], Version: n.opts.Version})
	n.server = api.NewServer(n.adminMux(a.Handler(), page), n.log)
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

// HTTPAddr is where the API, the page and the admin side are.
func (n *Node) HTTPAddr() net.Addr { return n.listener.Addr() }

// TCPAddr is where TCP clients connect; nil: nowhere.
func (n *Node) TCPAddr() net.Addr {
	if n.comet == nil {
		return nil
	}
	return n.comet.TCPAddr()
}

// WSAddr is where WebSocket clients connect; nil: nowhere.
func (n *Node) WSAddr() net.Addr {
	if n.comet == nil {
		return nil
	}
	return n.comet.WSAddr()
}

// service is logic with what only the node knows.
type service struct {
	*logic.Logic
	n *Node
}

// Nodes is this node: it is alone.
func (s service) Nodes(context.Context) []logic.NodeInfo { return []logic.NodeInfo{s.n.info()} }

func (n *Node) info() logic.NodeInfo {
	sessions := 0
	if n.comet != nil {
		sessions = n.comet.Sessions()
	}
	return logic.NodeInfo{
		Name: n.name, Roles: n.roles(), Address: n.listener.Addr().String(), Version: n.opts.Version,
		StartMS: n.started.UnixMilli(), Ready: n.ready() == nil, Sessions: sessions, Clients: n.clientAddresses(),
	}
}

// roles are what this process runs, in the order in which they are shown.
func (n *Node) roles() []string {
	return slices.DeleteFunc(allRoles(), func(role string) bool { return !n.cfg.Runs(role) })
}

// clientAddresses are where clients connect, by transport.
func (n *Node) clientAddresses() map[string]string {
	out := make(map[string]string, 2)
	for name, a := range map[string]net.Addr{"tcp": n.TCPAddr(), "ws": n.WSAddr()} {
		if a == nil {
			continue
		}
		host, port, err := net.SplitHostPort(a.String())
		if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
			// Every address of this host: the caller knows one of them.
			host = ""
		}
		out[name] = net.JoinHostPort(host, port)
	}
	if n.cfg.Comet.TLSCert != "" {
		if n.cfg.Comet.WSTLS && out["ws"] != "" {
			out["ws"] = "wss://" + out["ws"]
		}
		if n.cfg.Comet.TCPTLS && out["tcp"] != "" {
			out["tcp"] = "tls://" + out["tcp"]
		}
	}
	return out
}

