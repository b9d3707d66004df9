package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"imgo/roles/logic/httpapi/goim"
	"imgo/roles/logic/httpapi/imgo2016"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/internal/lazyctx"
	"imgo/roles/logic/httpapi/internal/httpcall"
)

// Config is what the API's operator sets. A zero field has the default that
// its comment names.
type Config struct {
	// Keys may call; none: everybody who can reach the listener.
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
	// once; further ones wait their turn, within Timeout. 16.
	MaxLarge int
	// MaxTake is how many messages one /1/msg/get gives; 1,000.
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

// New makes the API of a service. It refuses keys that cannot be told apart,
// bounds below zero and origins that are none.
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

// Handler serves /v1/, /1/ and /goim/; any other path gets a 404 in /v1's
// error form, so that it may be mounted at the root or beside others. It may
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

// handler answers one request, or returns the error that its form shows.
type handler func(*call) error

// call is one request under way, with what only /v1 needs of it.
type call struct {
	*httpcall.Call
	api *API
	// key is the caller's API key, nil where no keys are set.
	key *caller
}

// route is one path.
type route struct {
	path    string
	form    *httpcall.Form
	methods map[string]handler // nil: the API has no such path
	open    bool               // without an API key
}

// allowed are the route's methods, sorted.
func (rt *route) allowed() []string {
	methods := make([]string, 0, len(rt.methods))
	for m := range rt.methods {
		methods = append(methods, m)
	}
	slices.Sort(methods)
	return methods
}

func (a *API) register() {
	get := func(h handler) map[string]handler { return map[string]handler{http.MethodGet: h} }
	post := func(h handler) map[string]handler { return map[string]handler{http.MethodPost: h} }
	v1 := v1Form()

	a.routes = []*route{
		{path: "/v1/push", form: v1, methods: post(a.push)},
		{path: "/v1/push/batch", form: v1, methods: post(a.pushBatch)},
		{path: "/v1/push/stream", form: v1, methods: post(a.pushStream)},
		{path: "/v1/users", form: v1, methods: get(a.usersOnline)},
		{path: "/v1/users/online", form: v1, methods: post(a.usersOnlineList)},
		{path: "/v1/users/{user}", form: v1, methods: get(a.user)},
		{path: "/v1/users/{user}/kick", form: v1, methods: post(a.kick)},
		{path: "/v1/rooms", form: v1, methods: get(a.rooms)},
		{path: "/v1/rooms/{room}", form: v1, methods: get(a.room)},
		{path: "/v1/stats", form: v1, methods: get(a.stats)},
		{path: "/v1/nodes", form: v1, methods: get(a.nodes)},
		{path: "/v1/nodes/best", form: v1, methods: get(a.bestNodes), open: true},
		{path: "/v1/partitions", form: v1, methods: map[string]handler{http.MethodGet: a.partitions, http.MethodPost: a.grow}},
		{path: "/v1/events", form: v1, methods: get(a.events)},
		{path: "/v1/tokens", form: v1, methods: post(a.newToken)},
		{path: "/v1/tokens/revoke", form: v1, methods: post(a.revokeTokens)},
		{path: "/v1/openapi.json", form: v1, methods: get(a.openapiJSON), open: true},
		{path: "/v1/openapi.yaml", form: v1, methods: get(a.openapiYAML), open: true},
		{path: "/", form: v1},
	}
	imgo := imgo2016.New(imgo2016.Config{MaxUsers: a.cfg.MaxUsers, MaxTake: a.cfg.MaxTake}, a.service)
	a.addAncestor("/1/", imgo2016.Form(), imgo.Routes())
	a.addAncestor("/goim/", goim.Form(), goim.New(a.cfg.Goim, a.service).Routes())
	for _, rt := range a.routes {
		a.mux.HandleFunc(rt.path, func(w http.ResponseWriter, r *http.Request) { a.serve(rt, w, r) })
	}
}

// addAncestor adds the routes of an API of before, and what else is below root.
func (a *API) addAncestor(root string, form *httpcall.Form, routes []httpcall.Route) {
	for _, r := range routes {
		h := func(c *call) error { return r.Handler(c.Call) }
		a.routes = append(a.routes, &route{path: r.Path, form: form, methods: map[string]handler{r.Method: h}})
	}
	a.routes = append(a.routes, &route{path: root, form: form})
}

// serve walks one request through its route: who is it, may it, do it, answer
// in the route's form, and count it.
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

// enter lets a caller in: known, within its rate, and no page of a stranger.
func (a *API) enter(c *call, now time.Time) error {
	key, err := a.keys.identify(c.R.Header)
	if err != nil {
		a.metrics.callers.WithLabelValues("unknown", "unauthorized").Inc()
		return err
	}
	c.key, c.Caller = key, key.label()
	if err := a.admit(key, now); err != nil {
		return err
	}
	return a.checkOrigin(c.R)
}

// admit takes one request, or one line of a stream, from the caller's
// allowance and counts it.
func (a *API) admit(key *caller, now time.Time) error {
	err := key.admit(now)
	outcome := "allowed"
	if err != nil {
		outcome = "rate_limited"
	}
	a.metrics.callers.WithLabelValues(key.label(), outcome).Inc()
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
