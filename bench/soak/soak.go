// Package soak kills a real server again and again while callers push and clients
// receive. Package history then checks the result against the guarantees I1 to I4 in
// docs/ARCHITECTURE.md.
//
// The complete run is `make soak`. A short run is a test of this package, and so a
// part of `go test ./...`.
//
// The callers use POST /v1/push. They send kept pushes to one user or several, pushes
// that are not kept, and pushes to rooms and to everyone. A part of the kept pushes
// has an Idempotency-Key and is repeated until the server accepts it. Each user has
// two devices. They connect by TCP, by WebSocket with binary or text messages, or with
// the Go client. Some acknowledge late, incompletely or never, and some read slowly.
// All of them go offline now and then.
//
// The package ends only processes that it has started. It does not simulate a loss of
// power: everything that the operating system has accepted counts as stored. The tests
// of package store cover power loss.
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

// account is a user with its token.
type account struct {
	name, token string
}

// room is a room. Its members are all devices of its users.
type room struct {
	name  string
	users []string
}

// counts are the counts of a run that are not in its history.
type counts struct {
	pushes                                               atomic.Uint64 // also the number of the last push
	accepted, refused, unanswered, repeated, again       atomic.Int64
	received, sentAway, kills, terms, starting, stopping atomic.Int64
}

// run is the state of one run.
type run struct {
	cfg     Config
	rng     *rand.Rand // only for the goroutine that calls Run
	h       *history.History
	server  *server
	api     *pushapi.Client
	users   []*account
	rooms   []room
	devices []*device
	began   time.Time

	// calm is closed after the last fault. Callers and devices then behave normally.
	calm  chan struct{}
	count counts

	mu       sync.Mutex
	problems []string
	nProblem int
	// killed is the time of the last kill. It is zero again once a push that began later
	// was accepted.
	killed                 time.Time
	reconnects, unfinished int

	toAccept, toReconnect, toStop time.Duration
}

// Run runs one soak. It returns an error if the server violated a guarantee, or if the
// run could not be completed. The report is never nil; after an error it covers the
// run up to that point.
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
	err = r.runAll(ctx)
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

// problem records a failure that is not visible in the history.
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

// runAll performs the run, from the first start of the server to its last end.
func (r *run) runAll(ctx context.Context) error {
	if err := r.server.start(); err != nil {
		return err
	}
	if err := r.server.wait(ctx); err != nil {
		return err
	}
	if err := r.populate(ctx); err != nil {
		return err
	}

	// At the end, first the devices end and then the progress reports.
	var progress, devices, callers sync.WaitGroup
	side, cancel := context.WithCancel(ctx)
	defer progress.Wait()
	defer devices.Wait()
	defer cancel()
	progress.Go(func() { r.reportProgress(side) })
	for _, d := range r.devices {
		devices.Go(func() { d.run(side) })
	}
	// The server must know every device before the first push, so that every push concerns
	// all devices.
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
	callers.Wait() // a push with a key is repeated until it is accepted
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

// populate creates the users with their tokens, rooms and devices.
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
			// The first users have a device that reads slowly, by TCP or WebSocket.
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
