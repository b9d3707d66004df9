package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"imgo/roles/logic/httpapi/goim"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/internal/lazyctx"
	"imgo/roles/logic/httpapi/internal/httpcall"
)

// Config is what the API's operator sets. A zero field has the default that
// its comment names.
type Config struct {
	// Keys are the callers. Without any, everybody who can reach the listener
	// may call.
	Keys []Key
	// MaxBody is the largest request body in bytes; 16 MiB.
	MaxBody int64
	// MaxUsers is how many users one push may name; 100,000.
	MaxUsers int
	// MaxBatch is how many pushes one batch may have; 1,000.
	MaxBatch int
	// Concurrency is how many pushes of one batch run at once; 32.
	Concurrency int
	// MaxLarge is how many request bodies above 64 KiB may be in memory at
	// once. Further ones wait, within Timeout. 16.
	MaxLarge int
	// MaxTake is how many messages one /1/msg/get returns; 1,000.
	MaxTake int
	// Timeout bounds the work on one request once it was read; 30 s.
	Timeout time.Duration
	// TrustedOrigins are the origins ("https://console.example.com") whose
	// pages may call an API without keys, beside its own.
	TrustedOrigins []string
	// Goim is what /goim/nodes/… tells clients.
	Goim goim.Config
}

func (c Config) withDefaults() Config {
	orInt := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	if c.MaxBody == 0 {
		c.MaxBody = 16 << 20
	}
	if c.Timeout == 0 {
		c.Timeout = 30 * time.Second
	}
	orInt(&c.MaxUsers, 100_000)
	orInt(&c.MaxBatch, 1000)
	orInt(&c.Concurrency, 32)
	orInt(&c.MaxLarge, 16)
	orInt(&c.MaxTake, 1000)
	return c
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
// apart, for bounds below zero and for invalid origins.
func New(cfg Config, service Service, log zerolog.Logger, reg prometheus.Registerer) (*API, error) {
	if service == nil || reg == nil {
		return nil, errors.New("make the HTTP API: the service and the metrics registerer must not be nil")
	}
	cfg = cfg.withDefaults()
	for name, v := range map[string]int64{
		"MaxBody": cfg.MaxBody, "MaxUsers": int64(cfg.MaxUsers), "MaxBatch": int64(cfg.MaxBatch),
		"Concurrency": int64(cfg.Concurrency), "MaxLarge": int64(cfg.MaxLarge), "MaxTake": int64(cfg.MaxTake), "Timeout": int64(cfg.Timeout),
	} {
		if v < 0 {
			return nil, fmt.Errorf("make the HTTP API: %s is %d, it must not be negative", name, v)
		}
	}
	keys, err := newKeyring(cfg.Keys)
	if err != nil {
		return nil, fmt.Errorf("make the HTTP API: %w", err)
	}
	origins := http.NewCrossOriginProtection()
	for _, origin := range cfg.TrustedOrigins {
		if err := origins.AddTrustedOrigin(origin); err != nil {
			return nil, fmt.Errorf("make the HTTP API: trusted origin %q: %w", origin, err)
		}
	}
	m, err := newMetrics(reg)
	if err != nil {
		return nil, fmt.Errorf("make the HTTP API: %w", err)
	}
	streams, endStreams := context.WithCancel(context.Background())
	a := &API{
		cfg: cfg, service: service, log: log.With().Str("role", "logic").Logger(), keys: keys, metrics: m,
		origins: origins, mux: http.NewServeMux(),
		streams: streams, endStreams: endStreams,
	}
	a.shared = httpcall.Shared{MaxBody: cfg.MaxBody, Large: make(chan struct{}, cfg.MaxLarge), Report: a.report}
	a.register()
	return a, nil
}

// Handler serves /v1/, /1/ and /goim/. Any other path gets a 404 in /v1's error
// form, so that the handler may be mounted at the root or beside others. It may
// be called from any number of goroutines.
func (a *API) Handler() http.Handler { return a.mux }

// Routes are the paths of /v1, each with its methods, as ServeMux patterns
// ("/v1/users/{user}"). The OpenAPI document is tested against it.
func (a *API) Routes() map[string][]string {
	routes := map[string][]string{}
	for _, rt := range a.routes {
		if strings.HasPrefix(rt.path, "/v1/") && rt.methods != nil {
			routes[rt.path] = rt.allowed()
		}
	}
	return routes
}

// serve handles one request: it admits the caller, calls the handler, answers
// errors in the route's form, and counts the request.
func (a *API) serve(rt *route, w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	c := &call{Call: httpcall.New(&a.shared, w, r), api: a}
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

	if rt.methods == nil {
		rt.form.WrongMethod(c.Call, rt.path, nil)
		return
	}
	if !rt.open {
		if err := a.enter(c, start); err != nil {
			rt.fail(c, err)
			return
		}
	}
	h := rt.methods[r.Method]
	if h == nil && r.Method == http.MethodHead && rt.form.Head {
		h = rt.methods[http.MethodGet]
	}
	if h == nil {
		rt.form.WrongMethod(c.Call, rt.path, rt.allowed())
		return
	}
	ctx, cancel := lazyctx.Timeout(c.Ctx, a.cfg.Timeout)
	defer cancel()
	c.Ctx = ctx
	if err := h(c); err != nil {
		rt.fail(c, err)
	}
}

// enter admits a caller that has a known key, is within its rate, and is not a
// page of another site.
func (a *API) enter(c *call, now time.Time) error {
	key, err := a.keys.identify(c.R.Header)
	if err != nil {
		a.metrics.callers.WithLabelValues("unknown", "unauthorized").Inc()
		return err
	}
	c.key, c.Caller = key, key.label()
	if err := c.admit(now); err != nil {
		return err
	}
	return checkOrigin(a.keys, a.origins, c.R)
}

// admit takes one request, or one line of a stream, from the caller's
// allowance and counts it.
func (c *call) admit(now time.Time) error {
	err := c.key.admit(now)
	outcome := "allowed"
	if err != nil {
		outcome = "rate_limited"
	}
	c.api.metrics.callers.WithLabelValues(c.key.label(), outcome).Inc()
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

// report counts a problem. What is the server's fault is logged here and nowhere
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
