//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"imgo/internal/wait"
	"imgo/verify"
)

const (
	// warmUp is the time before the first fault.
	warmUp = 5 * time.Second
	// recoverLimit bounds the time from the end of a fault to a normal state.
	recoverLimit = 2 * time.Minute
	// steady is how long the state must be normal before the next fault. It is longer than
	// the owner's watch needs to find unacknowledged messages.
	steady = 5 * time.Second
	// arrivalLimit bounds the time in which all accepted messages must arrive at the end.
	arrivalLimit = 3 * time.Minute
)

// hookAddress returns the address at which verify receives the events of the nodes.
func hookAddress(s *settings) string { return s.net + ".99:7180" }

// chaos runs verify while it injects faults.
func (st *stage) chaos(ctx context.Context, stdout io.Writer) error {
	s := st.s
	seed := s.seed
	if seed == 0 {
		seed = rand.Uint64N(1 << 53)
	}
	cfg := verify.DefaultConfig()
	cfg.API, cfg.Clients = st.c.at("logic", httpPort), st.c.at("comet", tcpPort)
	for _, address := range st.c.at("comet", wsPort) {
		cfg.Clients = append(cfg.Clients, "ws://"+address+"/sub")
	}
	cfg.Users, cfg.Devices, cfg.Rate, cfg.Seed = s.users, 2, s.rate, seed
	cfg.Duration, cfg.ArrivalTimeout = 0, arrivalLimit
	cfg.Events = verify.DefaultEvents()
	cfg.Events.Upstream, cfg.Events.Presence = true, true
	cfg.Events.Hook, cfg.Events.HookSecret = hookAddress(s), verify.KnownSecret
	cfg.ProgressEvery = 10 * time.Second
	cfg.Progress = func(p verify.Progress) { st.say("%s", p) }
	v, err := verify.New(cfg)
	if err != nil {
		return err
	}
	r := &report{
		subject: newSubject(ctx, s), Users: s.users, Rate: s.rate, Scale: s.scale, Random: s.random.Seconds(), Seed: seed,
	}
	pushing, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() {
		var err error
		r.Verify, err = v.Run(pushing)
		done <- err
	}()
	st.rng = rand.New(rand.NewPCG(seed, 0))
	failed := st.injectAll(ctx, v, r, func() bool { return len(done) > 0 })
	stop()
	st.say("no more pushes: waiting for what is under way")
	if err := <-done; err != nil {
		return errors.Join(failed, err)
	}
	if failed != nil {
		r.Failed = failed.Error()
	}
	for _, n := range st.c.nodes {
		if err := n.Ended(); failed == nil && err != nil {
			r.Failed = err.Error()
		}
	}
	return errors.Join(r.write(s.out, stdout), r.verdict(), failed)
}

// injectAll injects each fault once, and then random faults.
func (st *stage) injectAll(ctx context.Context, v *verify.Verifier, r *report, over func() bool) error {
	for v.Progress().Phase == verify.PhaseConnecting {
		if over() {
			return errors.New("verify ended before it began to push")
		}
		if err := st.pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	if err := st.pause(ctx, warmUp); err != nil {
		return err
	}
	var able []fault
	for _, f := range faults {
		if st.s.faults != nil && !slices.Contains(st.s.faults, f.name) {
			continue
		}
		if f.brokers > st.kafka.Count() {
			r.LeftOut = append(r.LeftOut, fmt.Sprintf("%s: needs %d brokers", f.name, f.brokers))
			st.say("left out: %s", r.LeftOut[len(r.LeftOut)-1])
			continue
		}
		able = append(able, f)
	}
	for _, f := range able {
		if err := st.injectAndRecover(ctx, v, f, f.name); err != nil {
			return err
		}
	}
	if st.s.random <= 0 || len(able) == 0 {
		return nil
	}
	st.say("at random, for %s", st.s.random)
	for until := time.Now().Add(st.s.random); time.Now().Before(until); {
		f := able[st.rng.IntN(len(able))]
		if err := st.inject(ctx, v, f, f.name+atRandom); err != nil {
			return err
		}
		if err := st.pause(ctx, time.Duration(st.rng.Int64N(int64(8*time.Second)))); err != nil {
			return err
		}
	}
	return nil
}

// atRandom is the suffix for random faults, which do not wait for the recovery from
// the previous fault.
const atRandom = ", at random"

// injectAndRecover injects a fault and waits until the state is normal again.
func (st *stage) injectAndRecover(ctx context.Context, v *verify.Verifier, f fault, name string) error {
	if err := st.inject(ctx, v, f, name); err != nil {
		return err
	}
	repaired := time.Now()
	since := repaired // the start of the current normal state
	for {
		p := v.Progress()
		// Some messages always wait for a device that is offline on purpose.
		few := max(5, p.Devices/100)
		if p.Refusal > time.Second || p.Waiting > few && p.Oldest > time.Second || p.Connected < p.Devices*9/10 {
			since = time.Now()
		}
		if time.Since(since) > max(steady/5, time.Duration(float64(steady)*st.s.scale)) {
			st.say("%s: as before %s after its end", name, since.Sub(repaired).Round(100*time.Millisecond))
			return nil
		}
		if time.Since(repaired) > recoverLimit {
			return fmt.Errorf("%s: %s after its end it is not as before: %s", name, recoverLimit, p)
		}
		if err := wait.Sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// inject injects a fault and records its time span.
func (st *stage) inject(ctx context.Context, v *verify.Verifier, f fault, name string) error {
	st.say("%s", name)
	end := v.Mark(name)
	defer end()
	if err := f.do(ctx, st); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, n := range st.c.nodes {
		if err := n.Ended(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
