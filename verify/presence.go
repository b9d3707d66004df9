package verify

import (
	"context"
	"time"

	"imgo/internal/wait"
	"imgo/verify/history"
)

const (
	// presenceLimit is the time within which it is told who is here and who is not, beyond the grace period.
	presenceLimit = 15 * time.Second
	// presenceGrace is presence.grace of the server, at most.
	presenceGrace = 10 * time.Second
	// One user in absentOf goes away at the end.
	absentOf = 3
)

// online reports whether a device of a user is connected.
func (v *Verifier) online() func(user string) bool {
	here := make(map[string]bool, len(v.users))
	for _, d := range v.devices {
		d.mu.Lock()
		here[v.users[d.user].name] = here[v.users[d.user].name] || d.hangUp != nil
		d.mu.Unlock()
	}
	return func(user string) bool { return here[user] }
}

// judgesPresence reports whether the run judges which users are told to be online.
func (v *Verifier) judgesPresence() bool { return v.cfg.Events != nil && v.cfg.Events.Presence }

// absent returns the number of users about whom GET /v1/events said something else at last than what is. A user that has
// just come or gone is among them.
func (v *Verifier) absent() (n int64) {
	if !v.judgesPresence() || !v.created.Load() {
		return 0
	}
	return int64(v.events.judge.AbsentOf(streamFollower, v.online()))
}

// settlePresence waits until every user is told to be online, as all devices are connected. It then has some users go
// away for good, and waits until that is told too. It returns what was told wrongly.
func (v *Verifier) settlePresence(ctx context.Context) (wrong history.Violations) {
	if !v.judgesPresence() || !v.emptied.Load() {
		return nil
	}
	if wrong = v.awaitPresence(ctx, presenceLimit); len(wrong) > 0 {
		return wrong
	}
	for _, d := range v.devices {
		if d.user%absentOf == 0 {
			d.gone.Store(true)
			d.leave(1, false)
		}
	}
	return v.awaitPresence(ctx, presenceGrace+presenceLimit)
}

// awaitPresence waits until the last word about every user is right, at most for limit. It returns what is not.
func (v *Verifier) awaitPresence(ctx context.Context, limit time.Duration) history.Violations {
	for until := v.now() + limit; ; {
		wrong := v.events.judge.Absent(v.online())
		if len(wrong) == 0 || v.now() > until || wait.Sleep(ctx, 50*time.Millisecond) != nil {
			return wrong
		}
	}
}
