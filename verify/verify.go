// Package verify watches a push server keep its promises, from the outside:
// devices of users that it makes up connect, kept and not kept messages are
// pushed for as long as told, and what every session of every device received
// is judged against I1 to I4 (docs/ARCHITECTURE.md; the judge is package
// history). It is what `imgo verify` runs, and what a program that breaks
// things meanwhile builds on (Mark).
//
// It guarantees that a run leaves nothing but the names of its devices on a
// server that keeps its promises (its tokens are revoked, its messages
// acknowledged), that what it says is wrong was seen, not guessed, and that
// its report names who was hit first and by what. It speaks the protocol and
// the HTTP API as they are and has no SDK's help: what an SDK would mend, such
// as a message that comes twice, is what it looks for.
//
// It does not break anything itself, and knows nothing of roles and settings.
// In memory it costs about 10 KB a device; what it remembers of pushes is
// bounded, however long it runs.
package verify

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"imgo/clients/go/pushapi"
	"imgo/envelope"
	"imgo/internal/wait"
	"imgo/verify/history"
)

// Config is what a run is told. Start from DefaultConfig; API is required.
type Config struct {
	// API are addresses of the HTTP API, http://host:port. Pushes take turns
	// over them, and one that is refused goes to the next.
	API []string
	// Key is the API key; empty: none is needed.
	Key string
	// Clients are where devices connect: host:port, tls://host:port,
	// ws://host:port/sub or wss://…; each goes to any of its transport. Empty:
	// what GET /v1/nodes says, asked again all the time.
	Clients []string
	// TLS is for the client addresses that use it; nil: the system's roots.
	TLS *tls.Config

	// Users are made up for the run, each with so many Devices: half of these
	// connect by TCP and half by WebSocket where both are to be had.
	Users, Devices int
	// Rate is how many pushes a second are begun. Callers bounds those under
	// way, and so what waits while nobody answers; 0: as many as can be begun
	// within CallTimeout, so that one address that hangs does not hold up the
	// others, but at most 4,096.
	Rate    float64
	Callers int
	// NotKept is the share of pushes that are not kept, and Keyless the share
	// of the kept ones that have no idempotency key: those are not repeated
	// once they may have been done. Both 0 to 1.
	NotKept, Keyless float64
	// Body is about how large a message is, in bytes.
	Body int
	// Churn is the share of devices that go away of their own will each
	// minute, for up to Away each.
	Churn float64
	Away  time.Duration

	// Duration is how long pushes are begun; 0: until Run's context is done.
	Duration time.Duration
	// Settle bounds how long what was accepted may take to arrive after that.
	Settle time.Duration
	// Linger is how long after everything has arrived something may still come
	// twice.
	Linger time.Duration
	// Late is how slow a delivery is that the report lists; with LateFails it
	// is a violation.
	Late      time.Duration
	LateFails bool
	// GiveUp is how long a push is repeated, and CallTimeout how long one call
	// of the API may take.
	GiveUp, CallTimeout time.Duration
	// ConnectTimeout bounds how long it takes until every device has been
	// connected for the first time.
	ConnectTimeout time.Duration

	// Prefix begins the names of the users. Empty, and right but for tests: one
	// that no other run has.
	Prefix string
	// Seed makes the same choices again; 0: any.
	Seed uint64

	// Progress, if there is one, is called every ProgressEvery, by one
	// goroutine.
	Progress      func(Progress)
	ProgressEvery time.Duration
}

// DefaultConfig are the defaults.
func DefaultConfig() Config {
	return Config{
		Users: 100, Devices: 2, Rate: 100, NotKept: 0.1, Keyless: 0.2, Body: 100, Churn: 0.1, Away: 5 * time.Second,
		Duration: time.Minute, Settle: time.Minute, Linger: time.Second, Late: 30 * time.Second,
		GiveUp: 2 * time.Minute, CallTimeout: 10 * time.Second, ConnectTimeout: time.Minute, ProgressEvery: time.Second,
	}
}

// Bounds of a Config. A device is a bit of a word, and users share a process
// with all of their connections.
const (
	maxDevices = 64
	maxUsers   = 1_000_000
	maxBody    = 48 << 10
)

// Check says which field is wrong, by its name.
func (c Config) Check() error {
	bad := func(field, format string, args ...any) error {
		return envelope.Invalid(field, fmt.Sprintf(format, args...))
	}
	switch {
	case len(c.API) == 0:
		return bad("API", "names no address")
	case c.Users < 1 || c.Users > maxUsers:
		return bad("Users", "must be 1 to %d", maxUsers)
	case c.Devices < 1 || c.Devices > maxDevices:
		return bad("Devices", "must be 1 to %d", maxDevices)
	case !(c.Rate > 0 && c.Rate <= 1e6):
		return bad("Rate", "must be more than 0 and at most 1,000,000")
	case c.Callers < 0:
		return bad("Callers", "must not be negative")
	case !(c.NotKept >= 0 && c.NotKept <= 1):
		return bad("NotKept", "must be 0 to 1")
	case !(c.Keyless >= 0 && c.Keyless <= 1):
		return bad("Keyless", "must be 0 to 1")
	case !(c.Churn >= 0 && c.Churn <= 60):
		return bad("Churn", "must be 0 to 60: the share of devices that go away each minute")
	case c.Body < 0 || c.Body > maxBody:
		return bad("Body", "must be 0 to %d bytes", maxBody)
	case c.Duration < 0:
		return bad("Duration", "must not be negative")
	case c.Linger < 0:
		return bad("Linger", "must not be negative")
	case len(c.Prefix) > 64:
		return bad("Prefix", "is longer than 64 bytes")
	}
	for _, d := range []struct {
		field string
		is    time.Duration
	}{
		{"Away", c.Away}, {"Settle", c.Settle}, {"Late", c.Late}, {"GiveUp", c.GiveUp}, {"CallTimeout", c.CallTimeout},
		{"ConnectTimeout", c.ConnectTimeout}, {"ProgressEvery", c.ProgressEvery},
	} {
		if d.is <= 0 {
			return bad(d.field, "must be more than 0")
		}
	}
	return nil
}

// account is a user of the run.
type account struct {
	name  string
	token string
}

// Verifier is one run. Make it with New and run it once with Run; Mark may be
// called from anywhere meanwhile.
type Verifier struct {
	cfg     Config
	prefix  string
	head    []byte // what every message begins with
	api     *pushapi.Client
	places  *places
	h       *history.History
	ledger  *ledger
	began   time.Time
	users   []*account
	devices []*device
	// dialing bounds the connections that are being made.
	dialing chan struct{}
	// calm is closed when devices are to come back and stay.
	calm  chan struct{}
	phase atomic.Value // string

	connected, reconnects, sentAway atomic.Int64

	mu       sync.Mutex
	problems []string
	nProblem int
	offences []Offence // but for losses, which are known at the end
	kinds    map[history.Kind]int64
}

// New checks the settings and makes a run. It connects to nothing.
func New(cfg Config) (*Verifier, error) {
	if err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	if cfg.Seed == 0 {
		cfg.Seed = rand.Uint64N(1 << 53) // what a JSON number can carry
	}
	if cfg.Callers == 0 {
		cfg.Callers = int(min(4096, 64+cfg.Rate*cfg.CallTimeout.Seconds()))
	}
	v := &Verifier{
		cfg: cfg, prefix: cfg.Prefix, h: history.New(), began: time.Now(),
		dialing: make(chan struct{}, 64), calm: make(chan struct{}),
		kinds: make(map[history.Kind]int64),
	}
	if v.prefix == "" {
		v.prefix = fmt.Sprintf("verify-%s-%06x-", v.began.UTC().Format("20060102T150405"), rand.Uint32N(1<<24))
	}
	v.head = messageHead(v.prefix)
	var err error
	if v.api, err = pushapi.New(pushapi.Config{Servers: cfg.API, Key: cfg.Key, Timeout: cfg.CallTimeout, Conns: cfg.Callers}); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	if v.places, err = newPlaces(cfg, v.api); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	v.ledger = newLedger(v.now, cfg.Late)
	v.phase.Store(PhaseConnecting)
	v.h.Watch(v.offended)
	v.h.Forget(pushesOfUser)
	return v, nil
}

// pushesOfUser is how many pushes of each user the history remembers, beside
// those that are not everywhere yet.
const pushesOfUser = 500

// now is how long the run has been going on.
func (v *Verifier) now() time.Duration { return time.Since(v.began) }

// The phases of a run.
const (
	PhaseConnecting = "connecting"
	PhasePushing    = "pushing"
	PhaseSettling   = "settling"
	PhaseDone       = "done"
)

// Run connects, pushes until Config.Duration is over or ctx is done, waits
// for what is still under way, and judges. The error says why nothing could
// be verified; what is wrong with the server is in the report, and then
// Report.OK is false. The two never come together.
func (v *Verifier) Run(ctx context.Context) (*Report, error) {
	// The end of ctx ends the pushing. The rest is bounded by itself.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer v.api.Close()

	if err := v.places.find(ctx); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	defer v.revoke(work)
	if err := v.enrol(ctx); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	var fleet, side sync.WaitGroup
	defer fleet.Wait()
	defer side.Wait()
	defer cancel()
	side.Go(func() { v.tell(work) })
	side.Go(func() { v.places.follow(work) })
	side.Go(func() { v.beat(work) })
	for _, d := range v.devices {
		fleet.Go(func() { d.run(work) })
	}
	if err := v.assemble(ctx); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}

	v.phase.Store(PhasePushing)
	pushing, stop := context.WithCancel(ctx)
	defer stop()
	if v.cfg.Duration > 0 {
		pushing, stop = context.WithTimeout(ctx, v.cfg.Duration)
		defer stop()
	}
	began := v.now()
	side.Go(func() { v.churn(pushing) })
	wait := v.push(pushing, work) // returns when pushing is done
	pushed := v.now() - began
	v.phase.Store(PhaseSettling)
	close(v.calm)
	wait()
	settled := v.settle(work)
	v.phase.Store(PhaseDone)
	report := v.report(pushed, settled)
	cancel()
	return report, nil
}

// spareTTL is how much longer than the run its tokens live, and endlessTTL how
// long those of a run without an end do: for one that is killed before it can
// revoke them.
const (
	spareTTL   = time.Hour
	endlessTTL = 30 * 24 * time.Hour
)

// enrol makes the users, their tokens and devices.
func (v *Verifier) enrol(ctx context.Context) error {
	v.users = make([]*account, v.cfg.Users)
	for i := range v.users {
		v.users[i] = &account{name: fmt.Sprintf("%s%d", v.prefix, i)}
	}
	ttl := spareTTL
	if v.cfg.Duration == 0 {
		ttl = endlessTTL
	}
	ttl += v.cfg.Duration + v.cfg.ConnectTimeout + 2*v.cfg.Settle
	err := v.each(ctx, func(ctx context.Context, u *account) (err error) {
		u.token, err = v.api.NewToken(ctx, u.name, ttl)
		return err
	})
	if err != nil {
		return err
	}
	for i := range v.users {
		for k := range v.cfg.Devices {
			v.devices = append(v.devices, newDevice(v, i, k))
		}
	}
	if v.places.nodes() > 1 {
		// A token is known on every node within a second. (With auth.mode =
		// "none" one that is not known yet would pass for a user's name.)
		return wait.Sleep(ctx, time.Second)
	}
	return nil
}

// parallelCalls is how many calls of the API are made at a time where the run
// begins and ends.
const parallelCalls = 16

// each does something for every user, several at a time, until it fails for
// one.
func (v *Verifier) each(ctx context.Context, do func(context.Context, *account) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var all sync.WaitGroup
	for range parallelCalls {
		all.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(v.users) {
					return
				}
				if err := do(ctx, v.users[i]); err != nil {
					cancel(err)
				}
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}

// goodbye bounds what is done about tokens at the end.
const goodbye = 30 * time.Second

// revoke takes the tokens back. One that cannot be is a problem to be said,
// and no more: it opens nothing but a user that only this run has used.
func (v *Verifier) revoke(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
	defer cancel()
	// What stopped the making of tokens may stop this, too.
	_ = v.each(ctx, func(ctx context.Context, u *account) error {
		if u.token == "" {
			return nil
		}
		return v.api.RevokeToken(ctx, u.token, false)
	})
}

// assemble waits until every device has been connected: from then on every
// push covers all of them.
func (v *Verifier) assemble(ctx context.Context) error {
	limit := time.NewTimer(v.cfg.ConnectTimeout)
	defer limit.Stop()
	for i, d := range v.devices {
		select {
		case <-d.known:
		case <-ctx.Done():
			return errors.New("interrupted before every device was connected")
		case <-limit.C:
			return fmt.Errorf("%d of %d devices had been connected within %s when %s had not: %w", i, len(v.devices), v.cfg.ConnectTimeout, d,
				d.trouble())
		}
	}
	return nil
}

// settle waits until everything accepted has arrived, for as long as it may
// take, and then for what may come twice. It says how long that took.
func (v *Verifier) settle(ctx context.Context) time.Duration {
	began := v.now()
	for v.ledger.waiting() > 0 && v.now()-began < v.cfg.Settle {
		if wait.Sleep(ctx, 20*time.Millisecond) != nil {
			break
		}
	}
	took := v.now() - began
	_ = wait.Sleep(ctx, v.cfg.Linger) // only ever ended by its time
	return took
}

// tell says how the run goes.
func (v *Verifier) tell(ctx context.Context) {
	if v.cfg.Progress == nil {
		return
	}
	ticker := time.NewTicker(v.cfg.ProgressEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			v.cfg.Progress(v.Progress())
		}
	}
}

// maxProblems is how many problems are remembered; all are counted.
const maxProblems = 20

// problem notes something wrong that is not the history's to judge.
func (v *Verifier) problem(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.nProblem++; len(v.problems) < maxProblems {
		v.problems = append(v.problems, fmt.Sprintf(format, args...))
	}
}

// padding is what makes a message as large as it is to be.
func (v *Verifier) padding(n int) string { return strings.Repeat("x", n) }
