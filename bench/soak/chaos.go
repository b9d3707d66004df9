package soak

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// end is one way in which the server ends.
type end int

const (
	endKill     end = iota
	endStarting     // killed, started and killed again during the start
	endStopping     // SIGTERM, and killed during the orderly stop
	endTerm         // SIGTERM and an orderly stop
)

// plan returns the order of the ends. It contains cfg.Kills kills. About one in four
// hits a server that starts, and one in ten a server that stops.
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

// chaos ends and starts the server until the plan is done.
func (r *run) chaos(ctx context.Context) error {
	for _, how := range r.plan() {
		gap := r.cfg.MinGap + time.Duration(r.rng.Int64N(int64(r.cfg.MaxGap-r.cfg.MinGap)))
		if err := r.calmFor(ctx, gap); err != nil {
			return err
		}
		if r.h.Stats().Violations > 0 {
			return fmt.Errorf("broken after %d kills: %w", r.count.kills.Load(), r.h.Violations())
		}
		if err := r.end(ctx, how); err != nil {
			return err
		}
		if err := r.server.start(); err != nil {
			return err
		}
		if how == endStarting {
			if err := r.sleep(ctx, time.Duration(r.rng.Int64N(int64(200*time.Millisecond)))); err != nil {
				return err
			}
			r.count.starting.Add(1)
			if err := r.kill(); err != nil {
				return err
			}
			if err := r.server.start(); err != nil {
				return err
			}
		}
		if err := r.server.wait(ctx); err != nil {
			return err
		}
	}
	return r.calmFor(ctx, r.cfg.MaxGap)
}

func (r *run) sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// end ends the server in the given way.
func (r *run) end(ctx context.Context, how end) error {
	switch how {
	case endTerm:
		r.count.terms.Add(1)
		began := time.Now()
		err := r.server.stop()
		r.mu.Lock()
		r.toStop = max(r.toStop, time.Since(began))
		r.mu.Unlock()
		return err
	case endStopping:
		r.count.stopping.Add(1)
		if err := r.server.term(); err != nil {
			return err
		}
		if err := r.sleep(ctx, time.Duration(r.rng.Int64N(int64(200*time.Millisecond)))); err != nil {
			return err
		}
		err := r.kill()
		if ended := (*endedError)(nil); errors.As(err, &ended) && ended.state.Success() {
			return nil // it stopped before the kill
		}
		return err
	}
	return r.kill()
}

// kill kills the server. The time until the first accepted push counts from here.
func (r *run) kill() error {
	r.count.kills.Add(1)
	r.mu.Lock()
	r.killed = time.Now()
	r.mu.Unlock()
	return r.server.kill()
}

// acceptedAt records that a push that began at began was accepted.
func (r *run) acceptedAt(began time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.killed.IsZero() && began.After(r.killed) {
		r.toAccept = max(r.toAccept, time.Since(r.killed))
		r.killed = time.Time{}
	}
}

// calmFor lets the server run for gap. It measures the time until all devices are
// online again, except those that are offline on purpose.
func (r *run) calmFor(ctx context.Context, gap time.Duration) error {
	r.mu.Lock()
	since := r.killed
	r.mu.Unlock()
	if since.IsZero() {
		since = time.Now()
	}
	over := time.Now().Add(gap)
	back := false
	for time.Now().Before(over) {
		if err := r.sleep(ctx, min(10*time.Millisecond, time.Until(over))); err != nil {
			return err
		}
		if !back && r.allOnline(false) {
			back = true
			r.mu.Lock()
			r.toReconnect = max(r.toReconnect, time.Since(since))
			r.reconnects++
			r.mu.Unlock()
		}
	}
	if !back {
		r.mu.Lock()
		r.unfinished++
		r.mu.Unlock()
	}
	return nil
}

// allOnline reports whether every device is connected to the current process of the
// server. Unless strict is set, it ignores devices that are offline on purpose.
func (r *run) allOnline(strict bool) bool {
	now := r.server.run.Load()
	for _, d := range r.devices {
		if d.online.Load() != now && (strict || !d.away.Load()) {
			return false
		}
	}
	return true
}

// until polls so until it returns true or an error. It gives up after cfg.Settle.
func (r *run) until(ctx context.Context, what string, so func() (bool, error)) error {
	limit := time.Now().Add(r.cfg.Settle)
	for {
		ok, err := so()
		if ok || err != nil {
			return err
		}
		if time.Now().After(limit) {
			return fmt.Errorf("%s: not so after %s", what, r.cfg.Settle)
		}
		if err := r.sleep(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("%s: not so when the time was over: %w", what, err)
		}
	}
}

// settle waits until every device has received everything that was accepted.
func (r *run) settle(ctx context.Context) error {
	err := r.until(ctx, "everything that was accepted has arrived", func() (bool, error) {
		return len(r.h.Lost(1)) == 0, nil
	})
	if verdict := r.h.Verdict(); verdict != nil {
		return errors.Join(err, verdict, r.evidence(ctx))
	}
	return err
}

// evidence returns the server's view of users that lack messages, as an error.
func (r *run) evidence(ctx context.Context) error {
	var all error
	seen := map[string]bool{}
	for _, v := range r.h.Lost(100) {
		if seen[v.User] || len(seen) == 5 {
			continue
		}
		seen[v.User] = true
		state, err := r.api.User(ctx, v.User)
		if err == nil {
			err = fmt.Errorf("the server says of %s: %+v", v.User, state)
		}
		all = errors.Join(all, err)
	}
	for _, d := range r.devices {
		if seen[d.user.name] {
			all = errors.Join(all,
				fmt.Errorf("%s: kind %d, slow %v, online in process %d of %d", d, d.kind, d.slow, d.online.Load(), r.server.run.Load()))
		}
	}
	return all
}

// afterwards kills the server twice while nobody pushes. After the first kill, the
// clients receive and acknowledge the remaining messages until all mailboxes are
// empty. After the second kill, no message may arrive, because an acknowledged message
// never comes again.
func (r *run) afterwards(ctx context.Context) error {
	if err := r.quietKill(ctx); err != nil {
		return err
	}
	for _, u := range r.users {
		err := r.until(ctx, "the mailbox of "+u.name+" is empty", func() (bool, error) {
			state, err := r.api.User(ctx, u.name)
			return state.Pending == 0, err
		})
		if err != nil {
			state, _ := r.api.User(ctx, u.name)
			return fmt.Errorf("%w: the server says %+v", err, state)
		}
	}
	before := r.count.received.Load()
	if err := r.quietKill(ctx); err != nil {
		return err
	}
	// This is as long as the owner's watch needs to find unacknowledged messages.
	if err := r.sleep(ctx, 300*time.Millisecond); err != nil {
		return err
	}
	if n := r.count.received.Load() - before; n != 0 {
		return fmt.Errorf("%d messages that everybody had acknowledged came again after a kill", n)
	}
	for _, d := range r.devices {
		if n := d.pending.Load(); n != 0 {
			return fmt.Errorf("%s was told that %d messages wait, and none did", d, n)
		}
	}
	return nil
}

// quietKill kills and starts the server, and waits until all devices are online again.
func (r *run) quietKill(ctx context.Context) error {
	if err := r.server.kill(); err != nil {
		return err
	}
	if err := r.server.start(); err != nil {
		return err
	}
	if err := r.server.wait(ctx); err != nil {
		return err
	}
	return r.until(ctx, "every device is online again", func() (bool, error) { return r.allOnline(true), nil })
}
