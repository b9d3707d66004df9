package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/internal/weborigin"
	"imgo/roles/logic/httpapi/internal/httpcall"
)

// Config is the settings of the API: its part of section [http]. Start from
// DefaultConfig.
type Config struct {
	MaxBody        int      `toml:"body_limit" default:"16MiB" unit:"size" min:"4KiB" max:"1GiB" doc:"The largest request body."`
	MaxUsers       int      `toml:"max_users" default:"100000" unit:"users" min:"1" max:"1000000" doc:"The most users that one push may name."`
	TrustedOrigins []string `toml:"trusted_origins" unit:"origins such as \"https://console.example.com\"" doc:"Web pages of other addresses that may call the API and read its answers (CORS). If the API has keys, such a\npage needs one. Without keys only the API's own pages and the pages of this list may call."`
	Keys           []Key    `toml:"api_keys" secret:"true" unit:"name:key, name:key:rate or name:key:rate:scope+scope, comma-separated, as a flag or in the environment" doc:"The keys of the programs that may call the API. Without keys only programs of this machine may call."`

	// Transports are the names of the transports by which clients may connect.
	Transports []string
	// MaxBatch is how many pushes one batch may have.
	MaxBatch int `default:"1000"`
	// Concurrency is how many pushes of one batch run at once.
	Concurrency int `default:"32"`
	// MaxLarge is how many request bodies above 64 KiB may be in memory at once.
	// Further ones wait, for Timeout at most.
	MaxLarge int `default:"16"`
	// Timeout bounds the work on one request. With a large body it begins again once the body was read.
	Timeout time.Duration `default:"60s"`
}

// API is the HTTP API. It starts no goroutine that outlives a request.
type API struct {
	cfg     Config
	service Service
	log     zerolog.Logger
	keys    *keyring
	metrics *metrics
	origins *http.CrossOriginProtection
	shared  httpcall.Shared
	// streams is done when streams of pushes have to end.
	streams    context.Context
	endStreams context.CancelFunc
	mux        *http.ServeMux
	routes     []*route
}

// New makes the API of a service. It returns an error for keys that cannot be told
// apart and for invalid origins.
func New(cfg Config, service Service, log zerolog.Logger, reg prometheus.Registerer) (*API, error) {
	if service == nil || reg == nil {
		return nil, errors.New("make the HTTP API: the service and the metrics registerer must not be nil")
	}
	keys, err := newKeyring(cfg.Keys)
	if err != nil {
		return nil, fmt.Errorf("make the HTTP API: %w", err)
	}
	origins := http.NewCrossOriginProtection()
	cfg.TrustedOrigins = slices.Clone(cfg.TrustedOrigins)
	for i, origin := range cfg.TrustedOrigins {
		exact, err := weborigin.Exact(origin)
		if err == nil {
			err = origins.AddTrustedOrigin(exact)
		}
		if err != nil {
			return nil, fmt.Errorf("make the HTTP API: trusted origin %q: %w", origin, err)
		}
		cfg.TrustedOrigins[i] = exact
	}
	m, err := newMetrics(reg)
	if err != nil {
		return nil, fmt.Errorf("make the HTTP API: %w", err)
	}
	streams, endStreams := context.WithCancel(context.Background())
	a := &API{
		cfg: cfg, service: guard{service}, log: log.With().Str("role", "logic").Logger(), keys: keys, metrics: m,
		origins: origins, mux: http.NewServeMux(),
		streams: streams, endStreams: endStreams,
	}
	a.shared = httpcall.Shared{MaxBody: int64(cfg.MaxBody), Large: make(chan struct{}, cfg.MaxLarge), Timeout: cfg.Timeout, Report: a.report}
	a.register()
	return a, nil
}

// Handler serves /v1/, /1/ and /goim/. Any other path gets a 404 in /v1's error
// form, so that the handler may be mounted at the root or beside others. It may
// be called from any number of goroutines.
func (a *API) Handler() http.Handler { return a.mux }

// EndStreams ends all streams of pushes, and those that still begin: lines
// that were read are pushed and get their results. Other calls are not
// affected. It does not wait.
func (a *API) EndStreams() { a.endStreams() }

// serve handles one request: it admits the caller, calls the handler, answers
// errors in the route's form, and counts the request.
func (a *API) serve(rt *route, w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	c := &call{Call: httpcall.New(&a.shared, w, r), metrics: a.metrics}
	defer func() {
		if v := recover(); v != nil {
			if v == http.ErrAbortHandler { //nolint:errorlint // net/http compares it so, too
				panic(v)
			}
			rt.fail(c, fmt.Errorf("the handler panicked: %v\n%s", v, debug.Stack()))
		}
		c.Finish()
		label := rt.path
		if rt.methods == nil {
			label = "other"
		}
		took := time.Since(start)
		a.metrics.request(label, c.Status, took)
		if e := a.log.Debug(); e.Enabled() {
			e.Str("method", r.Method).Str("path", r.URL.Path).Int("status", c.Status).Str("key", c.Caller).
				Str("remote", r.RemoteAddr).Dur("took_ms", took).Msg("API request")
		}
	}()

	if a.cors(c, rt) {
		return
	}
	if rt.methods == nil {
		rt.form.WrongMethod(c.Call, rt.path, nil)
		return
	}
	if !rt.open() {
		if err := a.enter(c, start); err != nil {
			rt.fail(c, err)
			return
		}
	}
	m, ok := rt.methods[r.Method]
	if !ok && r.Method == http.MethodHead && rt.form.Head {
		m, ok = rt.methods[http.MethodGet]
	}
	if !ok {
		rt.form.WrongMethod(c.Call, rt.path, rt.allowed())
		return
	}
	if err := c.permit(m.scope); err != nil {
		rt.fail(c, err)
		return
	}
	if err := rt.checkNames(c); err != nil {
		rt.fail(c, err)
		return
	}
	c.Bound()
	if err := m.handle(c); err != nil {
		rt.fail(c, err)
	}
}

// enter admits a caller that has a known key, is within its rate, and is not a
// page of another site.
func (a *API) enter(c *call, now time.Time) error {
	key, err := a.keys.identify(c.R, now)
	if err != nil {
		a.metrics.callers.WithLabelValues("unknown", "unauthorized").Inc()
		return err
	}
	c.key, c.Caller = key, key.label()
	if err := c.admit(now); err != nil {
		return err
	}
	return a.checkLocal(c.R)
}

// permit checks that the caller has a scope.
func (c *call) permit(s Scope) error {
	if s == httpcall.ScopeOpen {
		return nil
	}
	if err := c.key.checkScope(s); err != nil {
		c.metrics.callers.WithLabelValues(c.key.label(), "forbidden").Inc()
		return err
	}
	if c.key.limited() {
		c.R = c.R.WithContext(context.WithValue(c.R.Context(), callerKey{}, c.key))
		c.Ctx = c.R.Context()
	}
	return nil
}

// admit takes one request, or one line of a stream, from the caller's
// allowance and counts it.
func (c *call) admit(now time.Time) error {
	err := c.key.admit(now)
	outcome := "allowed"
	if err != nil {
		outcome = "rate_limited"
	}
	c.metrics.callers.WithLabelValues(c.key.label(), outcome).Inc()
	return err
}

// fail answers with an error, in the form of the route's API.
func (rt *route) fail(c *call, err error) {
	p := c.Report(err)
	if c.Status != 0 {
		return // the answer has begun
	}
	rt.form.Problem(c.Call, p)
}

// report counts a problem. A fault of the server is logged here and nowhere
// else.
func (a *API) report(c *httpcall.Call, err error) httpcall.Problem {
	p := httpcall.Explain(err)
	a.metrics.problem(&p)
	if p.Hidden != nil {
		level := zerolog.ErrorLevel
		if p.Status == http.StatusServiceUnavailable || p.Status == http.StatusInsufficientStorage {
			level = zerolog.WarnLevel // the server protects itself; the cause has its own line elsewhere
		}
		a.log.WithLevel(level).Str("method", c.R.Method).Str("path", c.R.URL.Path).Str("key", c.Caller).
			Int("status", p.Status).Err(p.Hidden).Msg("an API request failed")
	}
	return p
}
