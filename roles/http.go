package roles

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"

	"imgo/envelope"
)

// admin is the side of a node that operators and probes look at.
type admin struct{ *Node }

// mux serves the API, the console and the admin endpoints on one listener.
func (n admin) mux(api, page http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/v1/", api)
	mux.Handle("/1/", api)
	mux.Handle("/goim/", api)
	mux.Handle("/", page)
	mux.HandleFunc("/healthz", n.healthz)
	mux.HandleFunc("/readyz", n.readyz)
	mux.Handle("/metrics", promhttp.HandlerFor(prometheus.GathererFunc(n.gather), promhttp.HandlerOpts{}))
	debug := http.NewServeMux()
	debug.HandleFunc("/debug/pprof/", pprof.Index)
	debug.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	debug.HandleFunc("/debug/pprof/profile", pprof.Profile)
	debug.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	debug.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.Handle("/debug/pprof/", loopbackOnly(debug))
	return mux
}

// loopbackOnly refuses requests from other hosts and from proxies, because a profile shows memory and
// costs CPU time.
func loopbackOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		ip := net.ParseIP(host)
		if ip == nil || !ip.IsLoopback() || r.Header.Get("X-Forwarded-For") != "" || r.Header.Get("Forwarded") != "" {
			http.Error(w, "profiles are for callers on the same host, without a proxy", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// refuseLogic refuses requests for logic on a node that does not run it, and names nodes that do.
func (n admin) refuseLogic(w http.ResponseWriter, _ *http.Request) {
	message := "this node does not run logic, which has the API and the page: ask a node that does"
	if n.cluster != nil {
		if addresses := n.cluster.remote.Load().logicAddresses(); len(addresses) > 0 {
			message += ", such as " + strings.Join(addresses, " or ")
		}
	}
	writeJSON(w, http.StatusServiceUnavailable, map[string]any{"error": map[string]any{
		"code": envelope.CodeUnavailable, "message": message,
	}})
}

// gather reads the metrics of the node and of the core that serves.
func (n admin) gather() ([]*dto.MetricFamily, error) {
	return prometheus.Gatherers{n.metrics, n.core.Load().metrics}.Gather()
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the caller may be gone
}

// healthz answers that the process is alive.
func (n admin) healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok", "node": n.name, "version": n.opts.Version})
}

// readyz reports for each role whether it is ready, and for the disk whether pushes are accepted. A
// full disk alone does not make the node unready, since connections, deliveries and acknowledgements
// continue.
func (n admin) readyz(w http.ResponseWriter, _ *http.Request) {
	roles := make(map[string]string)
	for _, s := range append(n.core.Load().stages(), n.stages()...) {
		if s.ready == nil || s.name == coreStage {
			continue
		}
		roles[s.name] = "ok"
		if err := s.ready(); err != nil {
			roles[s.name] = err.Error()
		}
	}
	disk := "ok"
	if n.db != nil {
		if err := n.db.DiskOK(); err != nil {
			disk = err.Error()
		}
	}
	status, reason := http.StatusOK, ""
	if err := n.ready(); err != nil {
		status, reason = http.StatusServiceUnavailable, err.Error()
	}
	reply := map[string]any{"ready": status == http.StatusOK, "roles": roles, "disk": disk}
	if reason != "" {
		reply["reason"] = reason
	}
	writeJSON(w, status, reply)
}
