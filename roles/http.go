package roles

import (
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"

	"imgo/envelope"
	"imgo/internal/loopback"
	"imgo/roles/logic/httpapi"
)

// admin is the side of a node that operators and probes look at.
type admin struct{ *Node }

// mux serves the API, the console and the admin endpoints on one listener. A proxy may forward all of
// it, so profiles need a key: they show memory and cost CPU time.
func (n admin) mux(api, page http.Handler, gate *httpapi.Gate) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/v1/", api)
	mux.Handle("/1/", api)
	mux.Handle("/goim/", api)
	mux.Handle("/", page)
	n.addHealth(mux)
	mux.Handle(profilePath, gate.Require(httpapi.ScopeAdmin,
		`profiles need an API key with the scope "admin", or the admin listener (http.admin)`, profiles()))
	return mux
}

// startingMux serves a node that reads its log or waits for Kafka.
func (n admin) startingMux() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", n.healthz)
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		reason := "the node is starting: it opens its data folder and its log"
		if why := n.waitingFor.Load(); why != nil {
			reason = "the node is starting: it waits for Kafka: " + *why
		}
		writeJSON(w, http.StatusServiceUnavailable, map[string]any{"ready": false, "roles": map[string]string{}, "reason": reason})
	})
	mux.HandleFunc("/", n.refuseStarting)
	return mux
}

// refuseStarting refuses requests for what is not there yet.
func (n admin) refuseStarting(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Retry-After", "1")
	writeJSON(w, http.StatusServiceUnavailable, map[string]any{"error": map[string]any{
		"code": envelope.CodeUnavailable, "message": "the node is starting: GET /readyz says what it waits for",
	}})
}

// localMux serves the admin endpoints without a key, for programs of this machine.
func (n admin) localMux() http.Handler {
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
func (n admin) addHealth(mux *http.ServeMux) {
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
