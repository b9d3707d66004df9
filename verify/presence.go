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
func (o *observer) online() func(user string) bool {
	here := make(map[string]bool, len(o.v.users))
	for _, d := range o.v.devices {
		d.mu.Lock()
		here[d.account.name] = here[d.account.name] || d.hangUp != nil
		d.mu.Unlock()
	}
	return func(user string) bool { return here[user] }
}

// judgePresence waits until every user is told to be online, as all devices are connected. It then has some users go
// away for good, and waits until that is told too. It records what was told wrongly.
func (o *observer) judgePresence(ctx context.Context) {
	if o.v.cfg.Events == nil || !o.v.cfg.Events.Presence || !o.v.emptied.Load() {
		return
	}
	if o.presenceViolations = o.awaitPresence(ctx, presenceLimit); len(o.presenceViolations) > 0 {
		return
	}
	for _, d := range o.v.devices {
		if d.user%absentOf == 0 {
			d.gone.Store(true)
			d.leave(1, false)
		}
	}
	o.presenceViolations = o.awaitPresence(ctx, presenceGrace+presenceLimit)
}

// awaitPresence waits until the last word about every user is right, at most for limit. It returns what is not.
func (o *observer) awaitPresence(ctx context.Context, limit time.Duration) history.Violations {
	for until := o.v.now() + limit; ; {
		wrong := o.judge.Absent(o.online())
		if len(wrong) == 0 || o.v.now() > until || wait.Sleep(ctx, 50*time.Millisecond) != nil {
			return wrong
		}
	}
}
