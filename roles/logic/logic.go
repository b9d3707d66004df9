// Package logic decides. It checks who a client is, what a push means and
// whether it is allowed. It asks the router that owns a user, and it appends to
// the log: kept pushes, acknowledgements and claims to the kept topic, and
// everything that is worthless a minute later to the live topic.
//
// It guarantees that a push which it answered without an error is in the log,
// that a push which it refused for its input left nothing there, that a user
// who is named twice in one call is pushed to once, and that no token is ever
// logged or stored in clear. It has no state that another logic would need, so
// any number of them may run.
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

	life   *lifecycle
	owners *owners
	auth   Authenticator
}

// New makes a logic. It reads the key files of cfg.Auth: one that cannot be read
// or has no usable key is an error here, and later only a warning.
func New(cfg Config, deps Deps) (*Logic, error) {
	var wrong error
	cfg.Auth.Check(func(key, text, mend string) {
		wrong = errors.Join(wrong, fmt.Errorf("auth.%s %s; %s", key, text, mend))
	})
	cfg.CheckWebhook(&cfg.Auth, func(key, text, mend string) {
		wrong = errors.Join(wrong, fmt.Errorf("%s %s; %s", key, text, mend))
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
	authenticator, err := newAuthenticator(cfg, deps, now, metrics)
	if err != nil {
		return nil, err
	}
	backend, err := newRoomWebhook(cfg, deps, now)
	if err != nil {
		return nil, err
	}
	life := &lifecycle{callTimeout: cfg.CallTimeout}
	calls, err := newUpstreamCalls(cfg, deps.Metrics)
	if err != nil {
		return nil, err
	}
	warn := newWarnings(deps.Log)
	owners := &owners{routers: deps.Routers, partitions: int(deps.Kept.Partitions())}
	level, ok := events.ParseLevel(string(cfg.DefaultReport))
	if !ok {
		return nil, fmt.Errorf("report %q is none of none, settled and each", cfg.DefaultReport)
	}
	live := &publisher{live: deps.Live, now: now}
	kicker := &kicker{owners: owners, live: live, metrics: metrics}
	comets := &cometSurvey{comets: deps.Comets, timeout: cfg.CometTimeout, warn: warn}
	return &Logic{
		pushHandler: pushHandler{
			life: life, turns: newTurns(), cfg: cfg, owners: owners, kept: deps.Kept, live: live, metrics: metrics, warn: warn, now: now,
			records: deps.Records, level: level,
			claims: &claims{owners: owners, kept: deps.Kept, now: now, byKey: make(map[string]claim)},
		},
		sessionHandler: sessionHandler{
			life: life, auth: authenticator, rules: cfg.RoomRules, backend: backend, owners: owners, live: live, kicker: kicker,
			metrics: metrics, warn: warn, undoTimeout: cfg.LookupTimeout,
		},
		upstreamHandler: upstreamHandler{
			life: life, owners: owners, kept: deps.Kept, records: deps.Records, metrics: metrics, warn: warn, now: now,
			rules: upstream.NewTable(cfg.Upstream), calls: calls, maxBody: cfg.MaxBody, log: deps.Log,
		},
		announceHandler: announceHandler{life: life, owners: owners, warn: warn},
		ackHandler:      ackHandler{life: life, owners: owners, kept: deps.Kept, metrics: metrics, now: now},
		readHandler: readHandler{
			life: life, owners: owners, kept: deps.Kept, live: live, records: deps.Records, metrics: metrics, warn: warn, now: now,
			lookupTimeout: cfg.LookupTimeout,
		},
		roomHandler: roomHandler{life: life, comets: comets, live: live, maxUsers: cfg.MaxUsers},
		memberHandler: memberHandler{
			life: life, owners: owners, kept: deps.Kept, comets: deps.Comets, now: now, cometTimeout: cfg.CometTimeout,
		},
		userHandler: userHandler{life: life, owners: owners, kicker: kicker, maxUsers: cfg.MaxUsers},
		removeHandler: removeHandler{
			life: life, owners: owners, kicker: kicker, tokens: deps.Tokens, retention: cfg.Retention, now: now,
		},
		tokenHandler:    tokenHandler{life: life, auth: authenticator, tokens: deps.Tokens, kicker: kicker, now: now},
		overviewHandler: overviewHandler{life: life, owners: owners, comets: comets, metrics: metrics, now: now, started: now()},
		noticeLog:       newNoticeLog(metrics.notices, warn, now),
		life:            life, owners: owners, auth: authenticator,
	}, nil
}

// newAuthenticator returns the authenticator that the settings ask for.
func newAuthenticator(cfg Config, deps Deps, now clock, m *metrics) (timedAuthenticator, error) {
	opaque := auth.NewOpaque(deps.Tokens, now)
	switch {
	case cfg.Auth.Mode == auth.ModeNone:
		return timedAuthenticator{auth.NewOpen(opaque), m.authSeconds}, nil
	case cfg.Auth.Mode == auth.ModeWebhook:
		backend, err := auth.NewWebhook(cfg.Auth, opaque, deps.Log, deps.Metrics)
		return timedAuthenticator{backend, m.authSeconds}, err
	case cfg.Auth.UsesJWT():
		signed, err := auth.NewJWT(cfg.Auth, opaque, deps.Log, deps.Metrics)
		return timedAuthenticator{signed, m.authSeconds}, err
	}
	return timedAuthenticator{opaque, m.authSeconds}, nil
}

// timedAuthenticator measures how long Authenticate takes.
type timedAuthenticator struct {
	Authenticator
	seconds prometheus.Observer
}

// Authenticate returns the identity of a client, as the embedded one does.
func (a timedAuthenticator) Authenticate(ctx context.Context, token, mid string) (auth.Identity, error) {
	start := time.Now()
	id, err := a.Authenticator.Authenticate(ctx, token, mid)
	a.seconds.Observe(time.Since(start).Seconds())
	return id, asUnavailable(err)
}

// Decide returns the identity of the client of a connect: the webhook's answer, if
// there is one, else that of its token.
func (a timedAuthenticator) Decide(ctx context.Context, r *envelope.ConnectRequest) (auth.Identity, error) {
	backend, ok := a.Authenticator.(*auth.Webhook)
	if !ok {
		return a.Authenticate(ctx, r.GetToken(), r.GetMid())
	}
	start := time.Now()
	id, err := backend.Decide(ctx, r)
	a.seconds.Observe(time.Since(start).Seconds())
	return id, asUnavailable(err)
}

// DecideAgain returns the identity of the client of a new token: the webhook's answer, if there is
// one, else that of the token.
func (a timedAuthenticator) DecideAgain(ctx context.Context, r *envelope.RefreshRequest) (auth.Identity, error) {
	backend, ok := a.Authenticator.(*auth.Webhook)
	if !ok {
		return a.Authenticate(ctx, r.GetToken(), r.GetMid())
	}
	start := time.Now()
	id, err := backend.DecideAgain(ctx, r)
	a.seconds.Observe(time.Since(start).Seconds())
	return id, asUnavailable(err)
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
	background.Go(func() { l.backend.run(ctx) })
	background.Go(func() { l.calls.run(ctx) })
	<-ctx.Done()
	l.life.stop()
	background.Wait()
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
