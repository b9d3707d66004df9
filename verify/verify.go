// Package verify checks from the outside whether a push server keeps its promises. It invents
// users, connects their devices, and pushes kept and other messages for a configured time. Package
// history then judges what every session of every device received against I1 to I4
// (docs/ARCHITECTURE.md). The command `imgo verify` runs it. Programs that inject faults meanwhile
// use Mark.
//
// A run leaves nothing on a correct server except the names of its devices: it revokes its tokens
// and acknowledges its messages. Each violation in the report was observed. The report names the
// first affected user and the violation.
//
// By default the devices use the protocol without an SDK, because an SDK would hide faults such as
// duplicate messages. Config.Kinds adds devices that use the Go SDK, and Config.Drivers adds client
// libraries of other languages. They must hide such faults.
//
// The package does not inject faults and does not know roles or settings. It needs about 10 KB of
// memory for each device. The memory for pushes is bounded, however long the run is.
package verify

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"imgo/clients/conformance/driver"
	"imgo/clients/go/pushapi"
	"imgo/envelope"
	"imgo/internal/wait"
	"imgo/verify/history"
)

// Config is the configuration of a run. Start from DefaultConfig. API is required.
type Config struct {
	// API holds addresses of the HTTP API as http://host:port. Pushes go to them in turn. A push
	// that fails at one address goes to the next.
	API []string
	// Key is the API key. Empty means that none is needed.
	Key string
	// Clients holds the addresses that devices connect to: host:port, tls://host:port,
	// ws://host:port/sub or wss://…. Each device uses any address of its transport. If Clients is
	// empty, the addresses come from GET /v1/nodes, which is asked again every two seconds.
	Clients []string
	// TLS is for client addresses with TLS. Nil means the root certificates of the system.
	TLS *tls.Config

	// Users is the number of users, and Devices the number of devices of each. Kinds are the kinds of
	// the devices in turn. A kind whose transport the server does not offer uses the other transport.
	Users, Devices int
	Kinds          []DeviceKind
	// Drivers are the programs of the devices of the kind DeviceDriver, in turn. Each one runs once and has a client
	// for each of its devices (clients/conformance). A driver without TCP uses WebSocket.
	Drivers []driver.Command
	// Slow is the number of users whose first device reads slowly and connects without an SDK. One
	// push in ten goes to one of them, with a larger body. Lazy is the share of devices without an
	// SDK that acknowledge late or leave acknowledgements out until the pushing ends.
	Slow int
	Lazy float64
	// Rooms is the number of rooms. Each has up to 10 users, whose devices are all members. Two in
	// five pushes that are not kept then go to a room. Broadcast is the share of the pushes that are
	// not kept that go to every client of the server, including clients outside the run.
	Rooms     int
	Broadcast float64
	// Rate is the number of pushes that start each second. Callers bounds the pushes in flight. If
	// Callers is 0, it is 64 plus the number of pushes that start within CallTimeout, at most 4,096.
	// One address that hangs then does not delay pushes to the others.
	Rate    float64
	Callers int
	// NotKept is the share of pushes that are not kept. Keyless is the share of kept pushes without
	// an idempotency key. A push without a key is not repeated if the server may have executed it.
	// Both are 0 to 1.
	NotKept, Keyless float64
	// Body is the approximate size of a message, in bytes. Large is the share of pushes whose message
	// has 8 KiB more.
	Body  int
	Large float64
	// Churn is the share of devices that leave by their own will each minute. Each stays away for a
	// random time of up to Away.
	Churn float64
	Away  time.Duration

	// Duration is the time during which pushes start. 0 means until the context of Run is done.
	Duration time.Duration
	// ArrivalTimeout bounds the time after Duration in which accepted messages may arrive.
	ArrivalTimeout time.Duration
	// Linger is the time for which duplicates are still looked for after everything has arrived.
	Linger time.Duration
	// Late is the delivery time above which the report lists a delivery. With LateFails such a
	// delivery is a violation.
	Late      time.Duration
	LateFails bool
	// GiveUp bounds the time for which a push is repeated. CallTimeout bounds one call of the API.
	GiveUp, CallTimeout time.Duration
	// ConnectTimeout bounds the time until every device has connected once.
	ConnectTimeout time.Duration

	// Events, if not nil, has pushes ask for events, and judges them.
	Events *Events

	// Falsify falsifies what one device received, or the events. The run then reports a violation on a correct
	// server. This proves that it would find a real one. Empty means that nothing is falsified.
	Falsify Falsify

	// OnPhase, if not nil, is called at the start of each phase after PhaseConnecting, on the
	// goroutine of Run. The phase begins when it returns. The context ends with Run. An error is a
	// problem of the report. A program that injects faults uses OnPhase to act between two phases.
	OnPhase func(ctx context.Context, phase string) error

	// Prefix is the start of the names of the users. Empty means a prefix that no other run has.
	// Only tests should set it.
	Prefix string
	// Seed selects the random choices of the run. 0 means a random seed.
	Seed uint64

	// Progress, if not nil, is called every ProgressEvery by one goroutine.
	Progress      func(Progress)
	ProgressEvery time.Duration
}

// DefaultConfig returns the default configuration. API is empty.
func DefaultConfig() Config {
	return Config{
		Users: 100, Devices: 2, Kinds: []DeviceKind{DeviceTCP, DeviceWS},
		Rate: 100, NotKept: 0.1, Keyless: 0.2, Body: 100, Churn: 0.1, Away: 5 * time.Second,
		Duration: time.Minute, ArrivalTimeout: time.Minute, Linger: time.Second, Late: 30 * time.Second,
		GiveUp: 2 * time.Minute, CallTimeout: 10 * time.Second, ConnectTimeout: time.Minute, ProgressEvery: time.Second,
	}
}

// Bounds of a Config. A bit mask in a uint64 holds the devices of a user. All users share one
// process with all of their connections.
const (
	maxDevices = 64
	maxUsers   = 1_000_000
	maxBody    = 48 << 10
	maxRooms   = 10_000
)

// Check returns an error that names the first wrong field, or nil.
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
	case !(c.Churn >= 0 && c.Churn <= 60):
		return bad("Churn", "must be 0 to 60: the share of devices that go away each minute")
	case c.Body < 0 || c.Body > maxBody:
		return bad("Body", "must be 0 to %d bytes", maxBody)
	case c.Slow < 0 || c.Slow > c.Users:
		return bad("Slow", "must be 0 to the number of users")
	case c.Rooms < 0 || c.Rooms > maxRooms:
		return bad("Rooms", "must be 0 to %d", maxRooms)
	case c.Falsify != "" && !slices.Contains(falsifies, c.Falsify):
		return bad("Falsify", "is %q, must be one of %s", c.Falsify, names(falsifies))
	case c.Falsify.ofEvents() && c.Events == nil:
		return bad("Falsify", "is %q, which needs events", c.Falsify)
	case len(c.Kinds) == 0:
		return bad("Kinds", "names none of %s", names(DeviceKinds()))
	case c.Duration < 0:
		return bad("Duration", "must not be negative")
	case c.Linger < 0:
		return bad("Linger", "must not be negative")
	case len(c.Prefix) > 64:
		return bad("Prefix", "is longer than 64 bytes")
	}
	if err := c.Events.check(bad); err != nil {
		return err
	}
	for _, kind := range c.Kinds {
		if kind == DeviceDriver {
			if len(c.Drivers) == 0 {
				return bad("Drivers", "names no program for the kind %q", DeviceDriver)
			}
			continue
		}
		if !slices.Contains(DeviceKinds(), kind) {
			return bad("Kinds", "has %q, must be of %s", kind, names(DeviceKinds()))
		}
	}
	for _, share := range []struct {
		field string
		is    float64
	}{{"NotKept", c.NotKept}, {"Keyless", c.Keyless}, {"Lazy", c.Lazy}, {"Broadcast", c.Broadcast}, {"Large", c.Large}} {
		if !(share.is >= 0 && share.is <= 1) { // NaN is wrong too
			return bad(share.field, "must be 0 to 1")
		}
	}
	for _, d := range []struct {
		field string
		is    time.Duration
	}{
		{"Away", c.Away}, {"ArrivalTimeout", c.ArrivalTimeout}, {"Late", c.Late}, {"GiveUp", c.GiveUp}, {"CallTimeout", c.CallTimeout},
		{"ConnectTimeout", c.ConnectTimeout}, {"ProgressEvery", c.ProgressEvery},
	} {
		if d.is <= 0 {
			return bad(d.field, "must be more than 0")
		}
	}
	return nil
}

// names joins the names of a list for an error.
func names[T ~string](list []T) string {
	var all []string
	for _, one := range list {
		all = append(all, string(one))
	}
	return strings.Join(all, ", ")
}

// account is a user of the run. Each of its devices is a member of its rooms.
type account struct {
	name  string
	token string
	rooms []string
}

// room is a room of the run with the names of its users.
type room struct {
	name  string
	users []string
}

// roomUsers is the number of users in a room.
const roomUsers = 10

// Verifier is one run. New makes it, and Run may be called once. Mark and Progress are safe for
// concurrent use.
type Verifier struct {
	cfg     Config
	prefix  string
	head    []byte // first bytes of every message
	api     *pushapi.Client
	places  *places
	h       *history.History
	ledger  *ledger
	events  *observer
	began   time.Time
	users   []*account
	devices []*device
	drivers []*driver.Process
	rooms   []room
	// dialing is a semaphore for connections that are being made.
	dialing chan struct{}
	// pushesDone is closed when the pushing ends: devices must then come back and stay.
	pushesDone chan struct{}
	phase      atomic.Value // string
	// emptied is true once every mailbox was empty. No kept message may arrive after that.
	emptied atomic.Bool

	connected, away, reconnects, sentAway atomic.Int64

	mu       sync.Mutex
	problems []string
	nProblem int
	offences []Offence // without losses, which are known only at the end
	kinds    map[history.Kind]int64
}

// New checks the settings and makes a run. It does not connect yet.
func New(cfg Config) (*Verifier, error) {
	if err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	if cfg.Seed == 0 {
		cfg.Seed = rand.Uint64N(1 << 53) // the integers that a JSON number holds exactly
	}
	if cfg.Callers == 0 {
		cfg.Callers = int(min(4096, 64+cfg.Rate*cfg.CallTimeout.Seconds()))
	}
	v := &Verifier{
		cfg: cfg, prefix: cfg.Prefix, h: history.New(), began: time.Now(),
		dialing: make(chan struct{}, 64), pushesDone: make(chan struct{}),
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
	if v.events, err = newObserver(v); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	v.phase.Store(PhaseConnecting)
	v.h.Watch(v.onViolation)
	v.h.Forget(pushesOfUser)
	return v, nil
}

// pushesOfUser is the number of pushes of each user that the history remembers, besides unfinished
// ones.
const pushesOfUser = 500

// now returns the time since the start of the run. This is the "time of the run" elsewhere.
func (v *Verifier) now() time.Duration { return time.Since(v.began) }

// The phases of a run, in their order.
const (
	PhaseConnecting = "connecting" // all devices connect
	PhasePushing    = "pushing"    // callers push, devices come and go
	PhaseArriving   = "settling"   // accepted messages still arrive
	PhaseEmptying   = "emptying"   // waits for the acknowledgements at the server, and for all events
	PhaseLingering  = "lingering"  // no message may arrive any more
	PhaseDone       = "done"       // the report is complete
)

// enter begins a phase.
func (v *Verifier) enter(ctx context.Context, phase string) {
	if v.cfg.OnPhase != nil {
		if err := v.cfg.OnPhase(ctx, phase); err != nil {
			v.problem("at the start of the phase %q: %v", phase, err)
		}
	}
	v.phase.Store(phase)
}

// Run connects the devices, pushes until Config.Duration is over or ctx is done, waits for messages
// in flight, and judges the result. It returns either a report or an error. The error means that
// nothing could be verified. Faults of the server are in the report, and then Report.OK is false.
func (v *Verifier) Run(ctx context.Context) (*Report, error) {
	// The end of ctx only ends the pushing. The later phases have their own bounds.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer v.api.Close()

	if err := v.places.find(ctx); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	stopHook, err := v.events.begin(ctx)
	defer stopHook()
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	defer v.revoke(work)
	if err := v.createUsers(ctx); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	stopDrivers, err := v.startDrivers(work)
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	defer stopDrivers()
	var devices, background sync.WaitGroup
	defer devices.Wait()
	defer background.Wait()
	defer cancel()
	background.Go(func() { v.reportProgress(work) })
	background.Go(func() { v.places.follow(work) })
	background.Go(func() { v.beat(work) })
	background.Go(func() { v.events.follow(work) })
	for _, d := range v.devices {
		devices.Go(func() { d.run(work) })
	}
	if err := v.awaitDevices(ctx); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}

	v.enter(work, PhasePushing)
	pushing, stop := context.WithCancel(ctx)
	defer stop()
	if v.cfg.Duration > 0 {
		pushing, stop = context.WithTimeout(ctx, v.cfg.Duration)
		defer stop()
	}
	began := v.now()
	background.Go(func() { v.churn(pushing) })
	finish := newCaller(v).run(pushing, work) // returns when the context is done
	pushed := v.now() - began
	v.enter(work, PhaseArriving)
	close(v.pushesDone)
	finish()
	arrived := v.awaitArrivals(work)
	v.enter(work, PhaseEmptying)
	v.awaitEmpty(work)
	v.events.awaitEvents(work, v.emptied.Load())
	v.enter(work, PhaseLingering)
	_ = wait.Sleep(work, v.cfg.Linger) // only the end of Run cancels work, so this cannot fail
	v.events.judgePresence(work)
	v.enter(work, PhaseDone)
	evidence := v.evidence(work)
	report := v.report(pushed, arrived, evidence)
	cancel()
	return report, nil
}

// spareTTL is the lifetime of tokens beyond the planned run. endlessTTL replaces it for a run
// without Duration. The lifetimes matter if the process is killed before it revokes its tokens. The spare time has
// room for nodes whose clocks are hours apart: a token lives by the clocks of the nodes, a message does not.
const (
	spareTTL   = 6 * time.Hour
	endlessTTL = 30 * 24 * time.Hour
)

// createUsers makes the users, their tokens and their devices.
func (v *Verifier) createUsers(ctx context.Context) error {
	v.users = make([]*account, v.cfg.Users)
	for i := range v.users {
		v.users[i] = &account{name: fmt.Sprintf("%s%d", v.prefix, i)}
	}
	v.createRooms()
	ttl := spareTTL
	if v.cfg.Duration == 0 {
		ttl = endlessTTL
	}
	ttl += v.cfg.Duration + v.cfg.ConnectTimeout + 2*v.cfg.ArrivalTimeout
	err := v.each(ctx, func(ctx context.Context, u *account) error {
		made, err := v.api.NewToken(ctx, u.name, pushapi.TokenOptions{TTL: ttl})
		u.token = made.Token
		return err
	})
	if err != nil {
		return err
	}
	for i := range v.users {
		for k := range v.cfg.Devices {
			d := newDevice(v, i, k)
			v.devices = append(v.devices, d)
			v.events.device(d)
		}
	}
	if v.cfg.Falsify != "" && !v.cfg.Falsify.ofEvents() {
		// A fast device, so that it receives enough for a false record.
		v.devices[v.cfg.Slow*v.cfg.Devices%len(v.devices)].falsifier = &falsifier{how: v.cfg.Falsify}
	}
	if v.places.nodes() > 1 {
		// Every node knows a new token within a second. With auth.mode = "none", a node would take
		// an unknown token for the name of a user, so wait for this.
		return wait.Sleep(ctx, time.Second)
	}
	return nil
}

// createRooms chooses the users of each room.
func (v *Verifier) createRooms() {
	dice := rand.New(rand.NewPCG(v.cfg.Seed, 3))
	for i := range v.cfg.Rooms {
		r := room{name: fmt.Sprintf("%sroom-%d", v.prefix, i)}
		for len(r.users) < min(roomUsers, len(v.users)) {
			if u := v.users[dice.IntN(len(v.users))]; !slices.Contains(r.users, u.name) {
				u.rooms = append(u.rooms, r.name)
				r.users = append(r.users, u.name)
			}
		}
		v.rooms = append(v.rooms, r)
	}
}

// parallelCalls is the number of concurrent API calls at the start and the end of the run.
const parallelCalls = 16

// each calls do for every user, parallelCalls at a time. It returns the first error, which also ends the context of
// the other calls.
func (v *Verifier) each(ctx context.Context, do func(context.Context, *account) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelCalls)
	for _, u := range v.users {
		g.Go(func() error { return do(ctx, u) })
	}
	return g.Wait()
}

// revokeTimeout bounds the revocation of all tokens.
const revokeTimeout = 30 * time.Second

// revoke revokes the tokens. Errors are ignored, because a token gives access only to a user that
// no other run uses, and it expires.
func (v *Verifier) revoke(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeTimeout)
	defer cancel()
	// The API may be unavailable here for the same reason that ended the run.
	_ = v.each(ctx, func(ctx context.Context, u *account) error {
		if u.token == "" {
			return nil
		}
		return v.api.RevokeToken(ctx, u.token, false)
	})
}

// awaitDevices waits until every device has connected once. Every later push covers all devices.
func (v *Verifier) awaitDevices(ctx context.Context) error {
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

// awaitArrivals waits until everything accepted has arrived, for at most Config.ArrivalTimeout. It returns the time
// until everything had arrived.
func (v *Verifier) awaitArrivals(ctx context.Context) time.Duration {
	began := v.now()
	for v.ledger.waiting() > 0 && v.now()-began < v.cfg.ArrivalTimeout {
		if wait.Sleep(ctx, 20*time.Millisecond) != nil {
			break
		}
	}
	return v.now() - began
}

// awaitEmpty waits until the server has every acknowledgement, so that the mailboxes of all users
// are empty. It reports a mailbox that is not empty after Config.ArrivalTimeout as a problem. It does nothing
// if messages are missing, because those are still in a mailbox, and after a violation.
func (v *Verifier) awaitEmpty(ctx context.Context) {
	if v.ledger.waiting() > 0 || v.h.Stats().Violations > 0 {
		return
	}
	limit := v.now() + v.cfg.ArrivalTimeout
	err := v.each(ctx, func(ctx context.Context, u *account) error {
		for {
			state, err := v.api.User(ctx, u.name)
			if err == nil && state.Pending == 0 {
				return nil
			}
			if v.now() > limit {
				return errors.Join(fmt.Errorf("the mailbox of %s is not empty after %s: %+v", u.name, v.cfg.ArrivalTimeout, state), err)
			}
			if err := wait.Sleep(ctx, 20*time.Millisecond); err != nil {
				return err
			}
		}
	})
	if err != nil {
		v.problem("%v", err)
		return
	}
	v.emptied.Store(true)
}

// reportProgress calls Config.Progress at intervals until ctx is done.
func (v *Verifier) reportProgress(ctx context.Context) {
	if v.cfg.Progress == nil {
		return
	}
	for wait.Sleep(ctx, v.cfg.ProgressEvery) == nil {
		v.cfg.Progress(v.Progress())
	}
}

// maxProblems is the number of problems that are stored. All are counted.
const maxProblems = 20

// problem records a failure that is not a violation of I1 to I4.
func (v *Verifier) problem(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.nProblem++; len(v.problems) < maxProblems {
		v.problems = append(v.problems, fmt.Sprintf(format, args...))
	}
}

// pushingEnded reports whether no push starts any more.
func (v *Verifier) pushingEnded() bool {
	select {
	case <-v.pushesDone:
		return true
	default:
		return false
	}
}

// pauseWhilePushing waits for d, or until the pushing ends. It returns ctx.Err() if ctx was done first.
func (v *Verifier) pauseWhilePushing(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-v.pushesDone:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}
