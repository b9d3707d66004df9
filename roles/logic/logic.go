// Package logic decides. It knows who a client is (opaque tokens, JWTs), what
// a push means and whether it is allowed, whom to ask (the router that owns a
// user) and what to throw on the log: kept pushes, acknowledgements and claims
// on the kept topic, everything that is worthless a minute later on the live
// one.
//
// It guarantees that a push which it answered without an error is in the log,
// that a push which it refused for its input left nothing there, that a user
// who is named twice in one call is pushed to once, and that no token is ever
// logged or stored in clear. It keeps no state that another logic would need:
// run as many as you like.
//
// It holds no connection (comet does), remembers no session and no message
// (router does) and carries nothing to a client (job does). Its HTTP face is
// the folder api.
package logic

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"imgo/envelope"
	"imgo/internal/lazyctx"
	"imgo/roles/logic/auth"
)

// Logic is the role. All methods may be called from anywhere at any time;
// after Run was told to stop they answer envelope.ErrUnavailable.
type Logic struct {
	cfg     Config
	routers Routers
	kept    KeptLog
	live    LiveLog
	comets  Comets
	tokens  TokenStore
	log     zerolog.Logger
	now     func() time.Time
	started time.Time

	auth      Authenticator
	metrics   *metrics
	events    *eventRing
	unsettled *unsettled
	// warn bounds what trouble with other roles writes to the log.
	warn *rate.Limiter

	// gate orders begin against stop: nobody enters once stopping is set, so
	// that inflight only falls from then on.
	gate     sync.RWMutex
	running  bool
	stopping bool
	inflight sync.WaitGroup
}

// New makes a logic. It reads the key files of cfg.JWT: one that cannot be
// read or has no usable key is an error here, while later only a warning.
func New(cfg Config, deps Deps) (*Logic, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("logic settings: %w", err)
	}
	missing := []struct {
		name string
		is   bool
	}{
		{"Routers", deps.Routers == nil}, {"Kept", deps.Kept == nil}, {"Live", deps.Live == nil},
		{"Comets", deps.Comets == nil}, {"Tokens", deps.Tokens == nil},
	}
	for _, m := range missing {
		if m.is {
			return nil, fmt.Errorf("logic: Deps.%s is missing", m.name)
		}
	}
	if have, want := deps.Routers.Partitions(), deps.Kept.Partitions(); have != want || want <= 0 {
		return nil, fmt.Errorf("logic: routers have %d partitions and the kept log %d: they must be equal and positive", have, want)
	}
	if deps.Live.Partitions() <= 0 {
		return nil, fmt.Errorf("logic: the live log has %d partitions", deps.Live.Partitions())
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	m, err := newMetrics(deps.Metrics)
	if err != nil {
		return nil, fmt.Errorf("register logic's metrics: %w", err)
	}
	l := &Logic{
		cfg: cfg, routers: deps.Routers, kept: deps.Kept, live: deps.Live,
		comets: deps.Comets, tokens: deps.Tokens,
		log:  deps.Log.With().Str("role", "logic").Logger(),
		now:  deps.Now,
		warn: rate.NewLimiter(rate.Every(time.Second), 10), metrics: m,
		started: deps.Now(), unsettled: newUnsettled(),
	}
	l.events = newEventRing(l.started)
	if l.auth, err = newAuthenticator(cfg, deps, l.log); err != nil {
		return nil, err
	}
	return l, nil
}

// newAuthenticator returns the authenticator that the settings ask for.
func newAuthenticator(cfg Config, deps Deps, log zerolog.Logger) (Authenticator, error) {
	opaque := auth.NewOpaque(deps.Tokens, deps.Now)
	switch {
	case cfg.AuthMode == AuthNone:
		return auth.NewOpen(opaque), nil
	case cfg.JWT.Enabled():
		return auth.NewJWT(cfg.JWT, opaque, log, deps.Metrics)
	}
	return opaque, nil
}

// Run keeps the keys of JWTs fresh until ctx is done, then refuses new work
// and returns once all that was under way has ended (each operation has a
// deadline of its own). Stop whoever calls logic, comets first, before it. It
// runs once.
func (l *Logic) Run(ctx context.Context) error {
	l.gate.Lock()
	if l.running || l.stopping {
		l.gate.Unlock()
		return errors.New("logic: Run was called twice")
	}
	l.running = true
	l.gate.Unlock()

	var keys sync.WaitGroup
	keys.Go(func() { l.auth.Run(ctx) })
	<-ctx.Done()
	l.gate.Lock()
	l.stopping = true
	l.gate.Unlock()
	l.inflight.Wait()
	keys.Wait()
	return nil
}

// Ready says why logic cannot serve, nil when it can: it runs, every partition
// has an owner, and there are keys if JWTs need fetched ones.
func (l *Logic) Ready() error {
	l.gate.RLock()
	running, stopping := l.running, l.stopping
	l.gate.RUnlock()
	switch {
	case stopping:
		return envelope.Errorf(envelope.CodeNotReady, "logic is stopping")
	case !running:
		return envelope.Errorf(envelope.CodeNotReady, "logic is not running yet")
	}
	if err := l.auth.Ready(); err != nil {
		return err
	}
	for p := range l.kept.Partitions() {
		if _, err := l.routers.Owner(p); err != nil {
			return fmt.Errorf("find the owner of partition %d: %w", p, err)
		}
	}
	return nil
}

// begin admits an operation and bounds its time; end must be called.
func (l *Logic) begin(ctx context.Context) (opCtx context.Context, end func(), err error) {
	l.gate.RLock()
	defer l.gate.RUnlock()
	if l.stopping {
		return nil, nil, envelope.Errorf(envelope.CodeUnavailable, "logic is stopping: try another node")
	}
	l.inflight.Add(1)
	if by, ok := ctx.Deadline(); ok && time.Until(by) <= l.cfg.CallTimeout {
		return ctx, l.inflight.Done, nil // bounded as it is, and a context fewer
	}
	opCtx, cancel := lazyctx.Timeout(ctx, l.cfg.CallTimeout)
	return opCtx, func() { cancel(); l.inflight.Done() }, nil
}

// partition is where a user's kept records are, and everything else that one
// owner must see in order.
func (l *Logic) partition(key string) int32 {
	return envelope.Partition(key, int(l.kept.Partitions()))
}

func (l *Logic) nowMS() int64 { return l.now().UnixMilli() }

// trouble logs something that went wrong without failing the operation.
func (l *Logic) trouble(err error, what string) {
	if l.warn.Allow() {
		l.log.Warn().Err(err).Msg(what)
	}
}
