// Package logic decides. It checks who a client is, what a push means and whether it is
// allowed. It asks the router that owns a user, and it appends to the log. Kept pushes,
// acknowledgements and claims go to the kept topic. Everything that is worthless a minute
// later goes to the live topic.
//
// It guarantees that a push which it answered without an error is in the log. A push that
// it refused for its input left nothing there. A user who is named twice in one call is
// pushed to once. No token is ever logged or stored in clear. It has no state that
// another logic would need, so any number of them may run.
//
// It holds no connection (comet does), remembers no session and no message
// (router does) and delivers nothing to a client (job does). Package auth
// decides who a client is, and package httpapi is the HTTP side.
package logic

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/internal/upstream"
	"imgo/roles/logic/auth"
)

// Logic is the role. Its calls are those of the handlers that it embeds. All
// methods may be called from anywhere at any time; once Run was told to stop,
// they return envelope.ErrUnavailable.
type Logic struct {
	pushHandler
	sessionHandler
	upstreamHandler
	announceHandler
	ackHandler
	readHandler
	roomHandler
	memberHandler
	userHandler
	removeHandler
	tokenHandler
	overviewHandler
	*noticeLog

	*shared
	auth Authenticator
}

// New makes a logic. It reads the key files of cfg.Auth: one that cannot be read
// or has no usable key is an error here, and later only a warning.
func New(cfg Config, deps Deps) (*Logic, error) {
	var wrong error
	cfg.Auth.Check(func(key, text, fix string) {
		wrong = errors.Join(wrong, fmt.Errorf("auth.%s %s; %s", key, text, fix))
	})
	cfg.CheckWebhook(&cfg.Auth, func(key, text, fix string) {
		wrong = errors.Join(wrong, fmt.Errorf("%s %s; %s", key, text, fix))
	})
	if wrong != nil {
		return nil, wrong
	}
	if err := deps.check(); err != nil {
		return nil, err
	}
	metrics, err := newMetrics(deps.Metrics)
	if err != nil {
		return nil, fmt.Errorf("register logic's metrics: %w", err)
	}
	now := clock(deps.Now)
	if now == nil {
		now = time.Now
	}
	deps.Log = deps.Log.With().Str("role", "logic").Logger()
	decider, err := newAuthenticator(cfg, deps, now)
	if err != nil {
		return nil, err
	}
	authenticator := timedAuthenticator{decider, metrics.authSeconds}
	backend, err := newRoomWebhook(cfg, deps)
	if err != nil {
		return nil, err
	}
	calls, err := newUpstreamCalls(cfg, deps.Metrics)
	if err != nil {
		return nil, err
	}
	level, ok := events.ParseLevel(string(cfg.DefaultReport))
	if !ok {
		return nil, fmt.Errorf("report %q is none of none, settled and each", cfg.DefaultReport)
	}
	c := &shared{
		cfg: cfg, life: &lifecycle{callTimeout: cfg.CallTimeout},
		owners: &owners{routers: deps.Routers, partitions: int(deps.Kept.Partitions())},
		kept:   &keptWriter{log: deps.Kept, records: deps.Records, now: now}, live: &publisher{live: deps.Live, now: now},
		tokens: deps.Tokens, metrics: metrics, warn: newWarnings(deps.Log), log: deps.Log, now: now,
	}
	c.kicker = &kicker{owners: c.owners, live: c.live, metrics: metrics}
	c.comets = &cometSurvey{Comets: deps.Comets, life: c.life, timeout: cfg.CometTimeout, warn: c.warn}
	return &Logic{
		pushHandler: pushHandler{
			shared: c, slots: newSlots(), level: level, claims: &claims{owners: c.owners, kept: c.kept, byKey: make(map[string]claim)},
		},
		sessionHandler:  sessionHandler{shared: c, auth: authenticator, backend: backend},
		upstreamHandler: upstreamHandler{shared: c, rules: upstream.NewTable(cfg.Upstream), calls: calls},
		announceHandler: announceHandler{c},
		ackHandler:      ackHandler{c},
		readHandler:     readHandler{c},
		roomHandler:     roomHandler{c},
		memberHandler:   memberHandler{c},
		userHandler:     userHandler{c},
		removeHandler:   removeHandler{c},
		tokenHandler:    tokenHandler{shared: c, auth: authenticator},
		overviewHandler: overviewHandler{shared: c, started: now()},
		noticeLog:       newNoticeLog(metrics.notices, c.warn, now),
		shared:          c,
		auth:            authenticator,
	}, nil
}

// newAuthenticator returns the authenticator that the settings ask for.
func newAuthenticator(cfg Config, deps Deps, now clock) (Authenticator, error) {
	opaque := auth.NewOpaque(deps.Tokens, now)
	switch {
	case cfg.Auth.Mode == auth.ModeNone:
		return auth.NewOpen(opaque), nil
	case cfg.Auth.Mode == auth.ModeWebhook:
		return auth.NewWebhook(cfg.Auth, opaque, deps.Log, deps.Metrics)
	case cfg.Auth.UsesJWT():
		return auth.NewJWT(cfg.Auth, opaque, deps.Log, deps.Metrics)
	}
	return opaque, nil
}

// timedAuthenticator measures how long it takes to decide who a client is.
type timedAuthenticator struct {
	Authenticator
	seconds prometheus.Observer
}

// Authenticate returns the identity of a client, as the embedded one does.
func (a timedAuthenticator) Authenticate(ctx context.Context, token, mid string) (auth.Identity, error) {
	return a.timed(func() (auth.Identity, error) { return a.Authenticator.Authenticate(ctx, token, mid) })
}

func (a timedAuthenticator) timed(decide func() (auth.Identity, error)) (auth.Identity, error) {
	start := time.Now()
	id, err := decide()
	a.seconds.Observe(time.Since(start).Seconds())
	return id, asUnavailable(err)
}

// Decide returns the identity of the client of a connect. An auth.Decider decides by the
// whole request, other authenticators by the token.
func (a timedAuthenticator) Decide(ctx context.Context, r *envelope.ConnectRequest) (auth.Identity, error) {
	decider, ok := a.Authenticator.(auth.Decider)
	if !ok {
		return a.Authenticate(ctx, r.GetToken(), r.GetMid())
	}
	return a.timed(func() (auth.Identity, error) { return decider.Decide(ctx, r) })
}

// DecideAgain returns the identity of the client of a new token, as Decide does.
func (a timedAuthenticator) DecideAgain(ctx context.Context, r *envelope.RefreshRequest) (auth.Identity, error) {
	decider, ok := a.Authenticator.(auth.Decider)
	if !ok {
		return a.Authenticate(ctx, r.GetToken(), r.GetMid())
	}
	return a.timed(func() (auth.Identity, error) { return decider.DecideAgain(ctx, r) })
}

// Run keeps the keys of JWTs up to date until ctx is done. It then refuses new
// calls and returns once those under way have ended, each within its own
// deadline. The callers of logic, comets first, must be stopped before it. It
// runs once.
func (l *Logic) Run(ctx context.Context) error {
	if err := l.life.start(); err != nil {
		return err
	}
	var background sync.WaitGroup
	background.Go(func() { l.auth.Run(ctx) })
	<-ctx.Done()
	l.life.stop()
	background.Wait()
	if l.backend != nil {
		l.backend.Close()
	}
	for _, caller := range l.calls {
		caller.Close()
	}
	return nil
}

// Ready returns an error while logic cannot serve everybody: it must have started
// and have the keys for JWTs.
func (l *Logic) Ready() error {
	if err := l.Started(); err != nil {
		return err
	}
	return l.auth.Ready()
}

// Started returns an error while logic cannot serve at all: it must be running, and
// every partition must have an owner. Keys for JWTs are not needed: pushes, and
// clients with other tokens, do not wait for an identity provider.
func (l *Logic) Started() error {
	if err := l.life.ready(); err != nil {
		return err
	}
	for p := range int32(l.owners.partitions) {
		if _, err := l.owners.routers.Owner(p); err != nil {
			return fmt.Errorf("find the owner of partition %d: %w", p, err)
		}
	}
	return nil
}
