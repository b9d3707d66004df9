// Package soak runs the real server as a process of its own, with callers that
// push and clients that receive, kills it again and again, and lets package
// history judge what came of it (docs/ARCHITECTURE.md, I1 to I4).
//
// It is a folder of bench because it is a load of its own kind, run by `make
// soak`; its short form is a test of this package and so of `go test ./...`.
//
// Around the server are callers of POST /v1/push (kept pushes to one user or
// several, a part of them with an Idempotency-Key and repeated until accepted;
// pushes that are not kept; rooms; everybody) and two devices of each user, by
// TCP, WebSocket with binary and with text messages, and the Go client: some
// acknowledge late or leave some out, some do not acknowledge at all, some
// read slowly, and all go offline for a while now and then.
//
// It ends only the processes that it has started. It does not simulate a loss
// of power: what the operating system has is on the disk for all that is seen
// here (package store's tests go into that).
package soak

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"imgo/clients/go/pushapi"
	"imgo/verify/history"
)

// account is a user.
type account struct {
	name, token string
}

// room is a room and its members: every device of its users.
type room struct {
	name  string
	users []string
}

// counts are what a run counts beside its history.
type counts struct {
	pushes                                               atomic.Uint64 // the last number
	accepted, refused, unanswered, repeated, again       atomic.Int64
	received, sentAway, kills, terms, starting, stopping atomic.Int64
}

// run is one run.
type run struct {
	cfg     Config
	rng     *rand.Rand // of the goroutine that is Run's
	h       *history.History
	server  *server
	api     *pushapi.Client
	users   []*account
	rooms   []room
	devices []*device
	began   time.Time

	// calm is closed when nothing is made difficult any more.
	calm  chan struct{}
	count counts

	mu       sync.Mutex
	problems []string
	nProblem int
	// killed is when the server was last killed, until a push that began later
	// was accepted.
	killed                 time.Time
	reconnects, unfinished int

	toAccept, toReconnect, toStop time.Duration
}

// Run runs one soak. The error says what was wrong with the server, or why it
// could not be tried; the report is there in both cases, as far as it got.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	if err := cfg.check(); err != nil {
		return &Report{}, fmt.Errorf("soak: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.Limit, fmt.Errorf("it was not done within %s", cfg.Limit))
	defer cancel()
	rng := rand.New(rand.NewPCG(cfg.Seed, 0))
	server, err := newServer(ctx, cfg, rng)
	if err != nil {
		return &Report{}, fmt.Errorf("soak: %w", err)
	}
	defer server.close()
	api, err := pushapi.New(pushapi.Config{Servers: []string{server.http}, Timeout: callLimit, Conns: cfg.Callers})
	if err != nil {
		return &Report{}, fmt.Errorf("soak: %w", err)
	}
	r := &run{
		cfg: cfg, rng: rng, h: history.New(), server: server, api: api,
		began: time.Now(), calm: make(chan struct{}),
	}
	defer r.api.Close()
	err = r.all(ctx)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w (%w)", err, context.Cause(ctx))
	}
	r.mu.Lock()
	if r.nProblem > 0 {
		err = errors.Join(err, fmt.Errorf("%d problems", r.nProblem))
		for _, p := range r.problems {
			err = errors.Join(err, errors.New("  "+p))
		}
	}
	r.mu.Unlock()
	return r.report(), err
}

// problem notes something wrong that is not the history's to judge.
func (r *run) problem(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.nProblem++; len(r.problems) < 20 {
		r.problems = append(r.problems, fmt.Sprintf(format, args...))
	}
}

func (r *run) isCalm() bool {
	select {
	case <-r.calm:
		return true
	default:
		return false
	}
}

// all is the run, from the first start to the last end.
func (r *run) all(ctx context.Context) error {
	if err := r.server.start(); err != nil {
		return err
	}
	if err := r.server.wait(ctx); err != nil {
		return err
	}
	if err := r.populate(ctx); err != nil {
		return err
	}

	// The last two to end, in this order: devices, progress.
	var progress, devices, callers sync.WaitGroup
	side, cancel := context.WithCancel(ctx)
	defer progress.Wait()
	defer devices.Wait()
	defer cancel()
	progress.Go(func() { r.tell(side) })
	for _, d := range r.devices {
		devices.Go(func() { d.run(side) })
	}
	// Every device is known before the first push, so that it covers all.
	for _, d := range r.devices {
		select {
		case <-d.known:
		case <-ctx.Done():
			return fmt.Errorf("%s could not connect while all was well", d)
		}
	}

	stop := make(chan struct{})
	for i := range r.cfg.Callers {
		c := &caller{r: r, rng: r.dice(1_000_000 + i)}
		callers.Go(func() { c.run(side, stop) })
	}
	err := r.chaos(ctx)
	close(stop)
	if err != nil {
		cancel()
	}
	callers.Wait() // those with a key are repeated until they are accepted
	if err != nil {
		return err
	}
	close(r.calm)
	if err := r.settle(ctx); err != nil {
		return err
	}
	if err := r.afterwards(ctx); err != nil {
		return err
	}
	if err := r.server.stop(); err != nil {
		return err
	}
	cancel()
	devices.Wait()
	for _, line := range r.server.complaints() {
		r.problem("the server's log has: %s", line)
	}
	return r.h.Verdict()
}

func (r *run) dice(n int) *rand.Rand { return rand.New(rand.NewPCG(r.cfg.Seed, uint64(n)+1)) }

// populate makes the users, their tokens, rooms and devices.
func (r *run) populate(ctx context.Context) error {
	for i := range r.cfg.Users {
		u := &account{name: fmt.Sprintf("user-%d", i)}
		var err error
		if u.token, err = r.api.NewToken(ctx, u.name, time.Hour); err != nil {
			return err
		}
		r.users = append(r.users, u)
	}
	for i := range r.cfg.Rooms {
		members := room{name: fmt.Sprintf("room-%d", i)}
		for _, k := range r.rng.Perm(len(r.users))[:roomUsers] {
			members.users = append(members.users, r.users[k].name)
		}
		r.rooms = append(r.rooms, members)
	}
	spoilers := falsifiers(r.cfg.Falsify)
	for i, u := range r.users {
		for k, name := range []string{"phone", "laptop"} {
			n := 2*i + k
			d := &device{
				r: r, user: u, name: name, rng: r.dice(n), known: make(chan struct{}),
				kind: kind((i + k*int(1+r.rng.Int32N(int32(kinds)-1))) % int(kinds)), ackDelay: 50 * time.Millisecond,
			}
			// The first users have one that reads slowly, by TCP or WebSocket.
			if d.slow = i < r.cfg.Slow && k == 0; d.slow {
				d.kind = []kind{kindTCP, kindWS, kindJSON}[i%3]
			}
			switch r.rng.IntN(6) {
			case 0:
				d.ackDelay = 3 * time.Second
			case 1:
				d.forget = 0.1
			}
			if raw := d.kind != kindSDK && d.kind != kindSDKWS; raw && !d.slow && len(spoilers) > 0 {
				d.falsify, spoilers = spoilers[0], spoilers[1:]
			}
			for _, room := range r.rooms {
				if slices.Contains(room.users, u.name) {
					d.rooms = append(d.rooms, room.name)
				}
			}
			r.devices = append(r.devices, d)
		}
	}
	return nil
}
