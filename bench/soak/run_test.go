package soak

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"imgo/internal/freeport"
	"imgo/internal/process"
	"imgo/internal/wait"
	"imgo/verify"
)

// Config describes one run. Short and Full return complete ones.
type Config struct {
	// Binary is the path of the imgo executable. Dir is an empty folder for its data and log.
	Binary, Dir string
	// Goroutines makes the server use one goroutine for each connection instead of epoll.
	Goroutines bool

	Kills int // kills with SIGKILL, a few of them during a start or a stop
	Terms int // restarts by SIGTERM
	// MinGap and MaxGap bound the time from a ready server to its next end.
	MinGap, MaxGap time.Duration
	// Limit bounds the time of all kills together.
	Limit time.Duration

	// Verify is the configuration of the clients and callers. Run sets its addresses. Its Seed, which
	// must be set, also determines the kills. Their timing depends on the machine.
	Verify verify.Config
}

// Short returns the run for the test suite, of about 15 seconds.
func Short() Config {
	c := Config{
		Kills: 6, Terms: 1, MinGap: 400 * time.Millisecond, MaxGap: 1500 * time.Millisecond, Limit: 90 * time.Second,
		Verify: traffic(),
	}
	v := &c.Verify
	v.Users, v.Rate, v.Callers, v.Rooms, v.Slow = 40, 500, 16, 4, 2
	v.Churn, v.Away, v.ArrivalTimeout = 15, 2*time.Second, 30*time.Second
	return c
}

// Full returns the complete run, of about two minutes.
func Full() Config {
	c := Config{
		Kills: 20, Terms: 4, MinGap: 500 * time.Millisecond, MaxGap: 6 * time.Second, Limit: 3 * time.Minute,
		Verify: traffic(),
	}
	v := &c.Verify
	v.Users, v.Rate, v.Callers, v.Rooms, v.Slow = 200, 1200, 64, 20, 4
	v.Churn, v.Away, v.ArrivalTimeout = 4, 6*time.Second, 45*time.Second
	return c
}

// traffic returns what every run has in common: all kinds of devices and of pushes.
func traffic() verify.Config {
	v := verify.DefaultConfig()
	v.Kinds = verify.DeviceKinds()
	v.Lazy, v.NotKept, v.Broadcast, v.Keyless, v.Large = 0.3, 0.1, 0.01, 0.6, 0.02
	v.Duration, v.CallTimeout = 0, 15*time.Second
	// This is as long as the owner's watch needs to find unacknowledged messages.
	v.Linger = 300 * time.Millisecond
	v.ProgressEvery = 5 * time.Second
	return v
}

// eventShare is the share of the kept pushes that ask for events.
const eventShare = 0.3

// Report is the result of a run.
type Report struct {
	// Kills is the number of kills with SIGKILL. Starting of them hit a starting server, and Stopping a
	// stopping one. Terms is the number of restarts with SIGTERM.
	Kills, Starting, Stopping, Terms int
	// Verify is the result of the clients and callers. It is nil if they could not begin.
	Verify *verify.Report
	// ToReconnect is the longest time from an end of the server until every device is online again that
	// is not away by its own will. Unfinished counts the ends before which that did not happen.
	ToReconnect time.Duration
	Unfinished  int
	// ToStop is the longest time from a SIGTERM to the end of the process.
	ToStop time.Duration
}

// String returns the report as text.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "kill -9      %d (%d while starting, %d while stopping); SIGTERM: %d, at most %s to the end\n",
		r.Kills, r.Starting, r.Stopping, r.Terms, r.ToStop.Round(time.Millisecond))
	fmt.Fprintf(&b, "connected    all again within %s of an end; %d times the next end came first\n",
		r.ToReconnect.Round(time.Millisecond), r.Unfinished)
	if r.Verify != nil {
		b.WriteString(r.Verify.String())
	}
	return b.String()
}

// run is the state of one run. After the start of chaos, only its goroutine uses the server until
// chaos returns.
type run struct {
	Report
	cfg     Config
	rng     *rand.Rand
	server  *process.Process
	starts  int
	v       *verify.Verifier
	chaos   sync.WaitGroup
	failure error // of the chaos
	ended   time.Time
}

// Run runs one soak. It returns an error if the server violated a guarantee, or if the run could not
// be completed. The report is never nil; after an error it covers the run up to that point.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	r := &run{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Verify.Seed, 0))}
	return &r.Report, r.run(ctx)
}

func (r *run) run(ctx context.Context) error {
	addresses, err := freeport.Find("127.0.0.1", 4)
	if err != nil {
		return err
	}
	tcp, ws, http, hook := addresses[0], addresses[1], addresses[2], addresses[3]
	settings := filepath.Join(r.cfg.Dir, "imgo.toml")
	if err := os.WriteFile(settings, []byte(verify.HookSettings(hook, verify.KnownSecret)+verify.EventSettings), 0o600); err != nil {
		return fmt.Errorf("write the settings of the server: %w", err)
	}
	r.server = &process.Process{
		Binary: r.cfg.Binary, Name: "the server", HTTP: http, Log: filepath.Join(r.cfg.Dir, "server.log"),
		Args: []string{
			"--config", settings, "--data-dir", filepath.Join(r.cfg.Dir, "data"), "--node-id", "soak",
			"--tcp", tcp, "--ws", ws, "--http", http, "--log-format", "json",
			// No limit may drop a message, because it would then count as lost.
			"--kept-mailbox-length", "1000000",
			// With a low limit, a slow client falls behind sooner.
			"--limits-pending-bytes", "64KiB",
			fmt.Sprintf("--comet-epoll=%t", !r.cfg.Goroutines),
		},
		Env: []string{"IMGO_PROTOCOL_HEARTBEAT=5s"},
	}
	defer func() { _ = r.server.Kill() }() // the server still runs only after an error
	if err := r.start(ctx); err != nil {
		return err
	}
	pushing, stop := context.WithCancel(ctx)
	defer stop()
	vc := r.cfg.Verify
	vc.API, vc.Clients = []string{http}, []string{tcp, "ws://" + ws}
	vc.Events = &verify.Events{Share: eventShare, Hook: hook, HookSecret: verify.KnownSecret, Upstream: true, Presence: true}
	vc.OnPhase = func(ctx context.Context, phase string) error { return r.onPhase(ctx, stop, phase) }
	if r.v, err = verify.New(vc); err != nil {
		return err
	}
	r.Verify, err = r.v.Run(pushing)
	r.chaos.Wait()
	switch {
	case err != nil:
	case !r.Verify.OK:
		err = errors.New("verify found violations or problems")
	case r.Verify.Pushes.Abandoned > 0:
		err = fmt.Errorf("%d pushes were never accepted", r.Verify.Pushes.Abandoned)
	}
	if err = errors.Join(r.failure, err, ctx.Err()); err != nil {
		return err
	}
	if err := r.server.Stop(); err != nil {
		return err
	}
	found, err := complaints(r.server.Log)
	for _, line := range found {
		err = errors.Join(err, fmt.Errorf("the server's log has: %s", line))
	}
	return err
}

// onPhase kills the server in the phases of verify. stop ends the pushing.
//
// The server is killed twice while nobody pushes. After the first kill, the clients receive and
// acknowledge what is left until all mailboxes are empty. After the second, verify accepts no message
// any more, because an acknowledged message never comes again.
func (r *run) onPhase(ctx context.Context, stop func(), phase string) error {
	switch phase {
	case verify.PhasePushing:
		r.chaos.Go(func() {
			defer stop()
			limited, cancel := context.WithTimeoutCause(ctx, r.cfg.Limit, fmt.Errorf("it was not done within %s", r.cfg.Limit))
			defer cancel()
			if r.failure = r.endAll(limited); r.failure != nil && limited.Err() != nil {
				r.failure = fmt.Errorf("%w (%w)", r.failure, context.Cause(limited))
			}
		})
	case verify.PhaseEmptying, verify.PhaseLingering:
		if r.chaos.Wait(); r.failure == nil {
			return r.quietKill(ctx)
		}
	}
	return nil
}

// launch starts the server and does not wait until it is ready. Every second process runs without
// io_uring.
func (r *run) launch() error {
	r.starts++
	return r.server.Start(fmt.Sprintf("--comet-io-uring=%t", r.starts%2 == 1))
}

// start starts the server and waits until it is ready.
func (r *run) start(ctx context.Context) error {
	if err := r.launch(); err != nil {
		return err
	}
	return r.server.Ready(ctx)
}

// end is one way in which the server ends.
type end int

const (
	endKill     end = iota
	endStarting     // killed, started and killed again during the start
	endStopping     // SIGTERM, and killed during the orderly stop
	endTerm         // SIGTERM and an orderly stop
)

// plan returns the order of the ends. It contains cfg.Kills kills. About one in four hits a server
// that starts, and one in ten a server that stops.
func (r *run) plan() []end {
	var plan []end
	for left := r.cfg.Kills; left > 0; left-- {
		switch n := r.cfg.Kills - left; {
		case n%4 == 1 && left > 1:
			plan = append(plan, endStarting)
			left-- // it consists of two kills
		case n%10 == 4:
			plan = append(plan, endStopping)
		default:
			plan = append(plan, endKill)
		}
	}
	for range r.cfg.Terms {
		plan = append(plan, endTerm)
	}
	r.rng.Shuffle(len(plan), func(i, j int) { plan[i], plan[j] = plan[j], plan[i] })
	return plan
}

// endAll ends and starts the server until the plan is done.
func (r *run) endAll(ctx context.Context) error {
	for _, how := range r.plan() {
		if err := r.calm(ctx, r.cfg.MinGap+time.Duration(r.rng.Int64N(int64(r.cfg.MaxGap-r.cfg.MinGap)))); err != nil {
			return err
		}
		if p := r.v.Progress(); p.Violations > 0 || p.Problems > 0 {
			return fmt.Errorf("broken after %d kills", r.Kills)
		}
		r.ended = time.Now()
		if err := r.end(ctx, how); err != nil {
			return err
		}
		if err := r.start(ctx); err != nil {
			return err
		}
	}
	return r.calm(ctx, r.cfg.MaxGap)
}

// moment waits for a random time in which a start or a stop is at work.
func (r *run) moment(ctx context.Context) error {
	return wait.Sleep(ctx, time.Duration(r.rng.Int64N(int64(200*time.Millisecond))))
}

// end ends the server in the given way.
func (r *run) end(ctx context.Context, how end) error {
	switch how {
	case endTerm:
		r.Terms++
		err := r.server.Stop()
		r.ToStop = max(r.ToStop, time.Since(r.ended))
		return err
	case endStopping:
		r.Stopping++
		if err := r.server.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		if err := r.moment(ctx); err != nil {
			return err
		}
		err := r.kill()
		if ended := (*process.EndedError)(nil); errors.As(err, &ended) && ended.State.Success() {
			return nil // it stopped before the kill
		}
		return err
	case endStarting:
		r.Starting++
		if err := errors.Join(r.kill(), r.launch()); err != nil {
			return err
		}
		if err := r.moment(ctx); err != nil {
			return err
		}
	}
	return r.kill()
}

func (r *run) kill() error {
	r.Kills++
	return r.server.Kill()
}

// calm lets the server run for gap. It measures the time from the last end of the server until all
// devices are online again, except those that are away by their own will.
func (r *run) calm(ctx context.Context, gap time.Duration) error {
	over, back := time.Now().Add(gap), r.ended.IsZero()
	for time.Now().Before(over) {
		if err := wait.Sleep(ctx, min(10*time.Millisecond, time.Until(over))); err != nil {
			return err
		}
		if p := r.v.Progress(); !back && p.Connected+p.Away >= p.Devices {
			back = true
			r.ToReconnect = max(r.ToReconnect, time.Since(r.ended))
		}
	}
	if !back {
		r.Unfinished++
	}
	return nil
}

// quietKill kills the server and starts it again while nobody pushes. It waits until all devices have
// noticed, and until all are online again.
func (r *run) quietKill(ctx context.Context) error {
	if err := r.server.Kill(); err != nil {
		return err
	}
	if err := r.until(ctx, "every device has lost its connection", func(p verify.Progress) bool { return p.Connected == 0 }); err != nil {
		return err
	}
	if err := r.start(ctx); err != nil {
		return err
	}
	return r.until(ctx, "every device is online again", func(p verify.Progress) bool { return p.Connected == p.Devices })
}

// until polls so until it returns true. It gives up after Verify.ArrivalTimeout.
func (r *run) until(ctx context.Context, what string, so func(verify.Progress) bool) error {
	limit := time.Now().Add(r.cfg.Verify.ArrivalTimeout)
	for !so(r.v.Progress()) {
		if time.Now().After(limit) {
			return fmt.Errorf("%s: not so after %s: %s", what, r.cfg.Verify.ArrivalTimeout, r.v.Progress())
		}
		if err := wait.Sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// complaints returns the lines of the log that a kill does not explain.
func complaints(log string) ([]string, error) {
	data, err := os.ReadFile(log)
	if err != nil {
		return nil, fmt.Errorf("read the log of the server: %w", err)
	}
	var found []string
	for line := range bytes.Lines(data) {
		for _, bad := range []string{"panic", "fatal error", "DATA RACE", "is not read by imgo", `"level":"error"`, `"level":"fatal"`} {
			if bytes.Contains(line, []byte(bad)) {
				found = append(found, strings.TrimSpace(string(line)))
				break
			}
		}
	}
	return found, nil
}
