package roles

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/net/netutil"

	"imgo/config"
	"imgo/console"
	"imgo/envelope"
	"imgo/internal/loopback"
	"imgo/roles/logic/httpapi"
	"imgo/transport"
	"imgo/transport/ws"
)

// httpSide is the HTTP side of a node. Its port has the API, the console and the pages for operators and probes. The
// admin listener has the pages for programs of this machine.
type httpSide struct {
	*Node
	listener net.Listener
	server   *http.Server
	// handler is what server calls. It is replaced once the node is wired.
	handler atomic.Pointer[http.Handler]
	apiOpen atomic.Bool // callers of the API are let in
	// conns bounds the connections of listener.
	conns *httpConns
	// done is closed when server serves no more, and err is the reason. done is nil before the server starts.
	done chan struct{}
	err  error
	// admin is the admin listener, or nil if it is off.
	admin net.Listener
}

// bind binds the addresses and makes the server. It answers health only until wire is called.
func (n *httpSide) bind(ctx context.Context) (err error) {
	cfg := n.cfg.HTTP
	if n.listener, err = new(net.ListenConfig).Listen(ctx, "tcp", cfg.Listen); err != nil {
		return fmt.Errorf("listen for the HTTP API on %s: %w%s", cfg.Listen, err, listenHint(err, "--http"))
	}
	if cfg.Admin != "" {
		if n.admin, err = new(net.ListenConfig).Listen(ctx, "tcp", cfg.Admin); err != nil {
			return fmt.Errorf("listen for the admin pages on %s: %w%s", cfg.Admin, err, listenHint(err, "--http-admin"))
		}
	}
	handler := n.startingMux()
	n.handler.Store(&handler)
	n.server = httpapi.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		(*n.handler.Load()).ServeHTTP(w, r)
	}), n.log)
	n.conns = newHTTPConns(cfg.MaxConnections, n.metrics)
	n.server.ConnState = n.conns.track
	if cfg.TLSCert != "" {
		cert, err := transport.ReloadingTLS(cfg.TLSCert, cfg.TLSKey, n.log)
		if err != nil {
			return fmt.Errorf("http.tls_cert and http.tls_key: %w", err)
		}
		cert.NextProtos = []string{"h2", "http/1.1"}
		n.listener = tls.NewListener(n.listener, cert)
		n.server.TLSConfig = cert
	}
	return nil
}

// listenHint returns advice for an address that is in use, or "" for another error.
func listenHint(err error, flag string) string {
	if strings.Contains(err.Error(), "address already in use") {
		return fmt.Sprintf("; another process (perhaps another imgo) has it: stop that one or choose another address with %s", flag)
	}
	return ""
}

// close releases what bind has opened, and ends the server.
func (n *httpSide) close() {
	if n.listener != nil {
		_ = n.listener.Close()
	}
	if n.done != nil {
		_ = n.server.Close()
		<-n.done
	}
	if n.admin != nil {
		_ = n.admin.Close()
	}
}

// wire puts the API and the console on the HTTP port.
func (n *httpSide) wire() error {
	apiHandler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !n.apiOpen.Load() {
			n.refuseStarting(w, r)
			return
		}
		n.cores.serving.Load().apiHandler.ServeHTTP(w, r)
	})
	page := http.Handler(apiHandler)
	if n.cfg.Runs(config.RoleLogic) {
		page = console.Handler(console.Options{WebSocket: clientSide{n.Node}.addresses()[ws.Scheme], Version: n.opts.Version})
	}
	keyCheck, err := httpapi.NewKeyCheck(n.cfg.HTTP.Keys)
	if err != nil {
		return err
	}
	handler := n.mux(apiHandler, page, keyCheck)
	n.handler.Store(&handler)
	return nil
}

// serveAdmin serves the admin listener until ctx is done. Nobody waits for its requests.
func (n *httpSide) serveAdmin(ctx context.Context) error {
	server := httpapi.NewServer(n.localMux(), n.log)
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	// Its only callers are programs of this machine, but a fault of one must not use up the descriptors.
	if err := server.Serve(netutil.LimitListener(n.admin, maxAdminConns)); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the admin pages: %w", err)
	}
	return nil
}

// maxAdminConns bounds the connections of the admin listener.
const maxAdminConns = 64

// start begins to serve the HTTP port, at first health and readiness only.
func (n *httpSide) start() {
	n.done = make(chan struct{})
	go func() {
		defer close(n.done)
		n.err = n.server.Serve(n.listener)
	}()
}

// serve lets callers of the API in until ctx is done. Then it waits for the requests in progress.
func (n *httpSide) serve(ctx context.Context) error {
	n.apiOpen.Store(true)
	select {
	case <-n.done:
		return fmt.Errorf("serve the HTTP API: %w", n.err)
	case <-ctx.Done():
	}
	n.conns.end()
	n.cores.serving.Load().endStreams()
	grace, cancel := context.WithTimeout(context.Background(), n.cfg.Shutdown.Timeout/4)
	defer cancel()
	if err := n.server.Shutdown(grace); err != nil {
		// A slow caller has used up its time.
		_ = n.server.Close()
	}
	<-n.done
	if !errors.Is(n.err, http.ErrServerClosed) {
		return n.err
	}
	return nil
}

// mux serves the API, the console and the admin endpoints on one listener. A proxy may forward all of
// it, so profiles need a key: they show memory and cost CPU time.
func (n *httpSide) mux(api, page http.Handler, keyCheck *httpapi.KeyCheck) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/v1/", api)
	mux.Handle("/1/", api)
	mux.Handle("/goim/", api)
	mux.Handle("/", page)
	n.addHealth(mux)
	mux.Handle(profilePath, keyCheck.Require(httpapi.ScopeAdmin,
		`profiles need an API key with the scope "admin", or the admin listener (http.admin)`, profiles()))
	return mux
}

// startingMux serves a node that reads its log or waits for Kafka.
func (n *httpSide) startingMux() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", n.healthz)
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		reason := "the node is starting: it opens its data folder and its log"
		if n.cluster != nil {
			if why := n.cluster.kafka.waitingFor.Load(); why != nil {
				reason = "the node is starting: it waits for Kafka: " + *why
			}
		}
		writeJSON(w, http.StatusServiceUnavailable, map[string]any{"ready": false, "roles": map[string]string{}, "reason": reason})
	})
	mux.HandleFunc("/", n.refuseStarting)
	return mux
}

// refuseStarting refuses requests for what is not there yet.
func (n *httpSide) refuseStarting(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Retry-After", "1")
	refuse(w, "the node is starting: GET /readyz says what it waits for")
}

// localMux serves the admin endpoints without a key, for programs of this machine.
func (n *httpSide) localMux() http.Handler {
	mux := http.NewServeMux()
	n.addHealth(mux)
	mux.Handle(profilePath, profiles())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := loopback.Check(r, func(string) bool { return false }); err != nil {
			http.Error(w, "the admin listener is for programs of its machine only: "+err.Error(), http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// addHealth adds the pages that probes and monitoring read.
func (n *httpSide) addHealth(mux *http.ServeMux) {
	mux.HandleFunc("/healthz", n.healthz)
	mux.HandleFunc("/readyz", n.readyz)
	mux.Handle("/metrics", promhttp.HandlerFor(prometheus.GathererFunc(n.gather), promhttp.HandlerOpts{}))
}

const profilePath = "/debug/pprof/"

func profiles() http.Handler {
	debug := http.NewServeMux()
	debug.HandleFunc(profilePath, pprof.Index)
	debug.HandleFunc(profilePath+"cmdline", pprof.Cmdline)
	debug.HandleFunc(profilePath+"profile", pprof.Profile)
	debug.HandleFunc(profilePath+"symbol", pprof.Symbol)
	debug.HandleFunc(profilePath+"trace", pprof.Trace)
	return debug
}

// refuseLogic refuses requests for logic on a node that does not run it, and names nodes that do.
func (n *httpSide) refuseLogic(w http.ResponseWriter, _ *http.Request) {
	message := "this node does not run logic, which has the API and the page: ask a node that does"
	if n.cluster != nil {
		if addresses := n.cluster.remote.Load().logicAddresses(); len(addresses) > 0 {
			message += ", such as " + strings.Join(addresses, " or ")
		}
	}
	refuse(w, message)
}

// refuse answers in the form of the API that something is not there.
func refuse(w http.ResponseWriter, message string) {
	writeJSON(w, http.StatusServiceUnavailable, map[string]any{"error": map[string]any{
		"code": envelope.CodeUnavailable, "message": message,
	}})
}

// gather reads the metrics of the node and of the core that serves.
func (n *httpSide) gather() ([]*dto.MetricFamily, error) {
	return prometheus.Gatherers{n.metrics, n.cores.serving.Load().metrics}.Gather()
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the caller may be gone
}

// healthz answers that the process is alive.
func (n *httpSide) healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok", "node": n.name, "version": n.opts.Version})
}

// readyz reports for each role whether it is ready, and for the disk whether pushes are accepted. A
// full disk alone does not make the node unready, since connections, deliveries and acknowledgements
// continue.
func (n *httpSide) readyz(w http.ResponseWriter, _ *http.Request) {
	roles := make(map[string]string)
	for _, s := range append(n.cores.serving.Load().stages(), n.stages()...) {
		if s.ready == nil || s.name == coreStage {
			continue
		}
		roles[s.name] = "ok"
		if err := s.ready(); err != nil {
			roles[s.name] = err.Error()
		}
	}
	disk := "ok"
	if n.stores.db != nil {
		if err := n.stores.db.DiskOK(); err != nil {
			disk = err.Error()
		}
	}
	status, reply := http.StatusOK, map[string]any{"ready": true, "roles": roles, "disk": disk}
	if err := n.ready(); err != nil {
		status, reply["ready"], reply["reason"] = http.StatusServiceUnavailable, false, err.Error()
	}
	writeJSON(w, status, reply)
}
