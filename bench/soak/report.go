package soak

import (
	"context"
	"fmt"
	"strings"
	"time"

	"imgo/verify/history"
)

// Report is the result of a run.
type Report struct {
	Seed    uint64
	Elapsed time.Duration
	// Kills is the number of kills with SIGKILL. Starting of them hit a starting server,
	// and Stopping a stopping one. Terms is the number of restarts with SIGTERM.
	Kills, Starting, Stopping, Terms int64
	// Pushes is the number of attempted pushes. Accepted counts positive answers, Refused
	// counts errors of the server, and Unanswered counts tries without an answer. Repeated
	// counts failed tries that were repeated with their key. Again counts pushes that were
	// repeated after they had been accepted.
	Pushes                                         uint64
	Accepted, Refused, Unanswered, Repeated, Again int64
	// History counts the kept pushes for each user, and the messages that the devices
	// received.
	History history.Stats
	Lost    int
	// ToAccept is the longest time from a kill to the next accepted push. ToReconnect is
	// the longest time from a kill until the last device is online again. Reconnects
	// counts the kills after which that happened. Unfinished counts those where the next
	// end came first.
	ToAccept, ToReconnect  time.Duration
	Reconnects, Unfinished int
	// ToStop is the longest time from a SIGTERM to the end of the process.
	ToStop time.Duration
}

func (r *run) report() *Report {
	c := &r.count
	rep := &Report{
		Seed: r.cfg.Seed, Elapsed: time.Since(r.began),
		Kills: c.kills.Load(), Starting: c.starting.Load(), Stopping: c.stopping.Load(), Terms: c.terms.Load(),
		Pushes: c.pushes.Load(), Accepted: c.accepted.Load(), Refused: c.refused.Load(),
		Unanswered: c.unanswered.Load(), Repeated: c.repeated.Load(), Again: c.again.Load(),
		History: r.h.Stats(), Lost: len(r.h.Lost(0)),
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	rep.ToAccept, rep.ToReconnect, rep.ToStop, rep.Reconnects, rep.Unfinished = r.toAccept, r.toReconnect, r.toStop, r.reconnects, r.unfinished
	return rep
}

// String returns the report as text.
func (r *Report) String() string {
	var b strings.Builder
	line := func(what, format string, args ...any) {
		fmt.Fprintf(&b, "  %-22s %s\n", what, fmt.Sprintf(format, args...))
	}
	h := r.History
	fmt.Fprintf(&b, "soak: %s, seed %d\n", r.Elapsed.Round(100*time.Millisecond), r.Seed)
	line("kill -9", "%d (%d while starting, %d while stopping); SIGTERM: %d", r.Kills, r.Starting, r.Stopping, r.Terms)
	line("pushes", "%d tried, %d accepted; answered with an error %d, not at all %d", r.Pushes, r.Accepted, r.Refused, r.Unanswered)
	line("repeated with a key", "%d without an answer, %d after one", r.Repeated, r.Again)
	line("kept, a user each", "%d tried, %d accepted", h.Tried, h.Accepted)
	line("deliveries", "%d kept in %d sessions, of which %d dropped by id; %d not kept", h.Received, h.Sessions, h.Repeated, h.Live)
	line("kill to first accepted", "%s at the most", r.ToAccept.Round(time.Millisecond))
	line("kill to all connected", "%s at the most (%d times; %d times the next end came first)", r.ToReconnect.Round(time.Millisecond),
		r.Reconnects, r.Unfinished)
	line("SIGTERM to the end", "%s at the most", r.ToStop.Round(time.Millisecond))
	line("violations", "%d, and %d lost", h.Violations, r.Lost)
	return b.String()
}

// reportProgress reports the progress every cfg.Every.
func (r *run) reportProgress(ctx context.Context) {
	ticker := time.NewTicker(r.cfg.Every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		online := 0
		for _, d := range r.devices {
			if d.online.Load() == r.server.run.Load() {
				online++
			}
		}
		h := r.h.Stats()
		r.cfg.Progress("%4.0fs  kills %d/%d  terms %d/%d  accepted %d  unanswered %d  deliveries %d (%d again)  online %d/%d  violations %d",
			time.Since(r.began).Seconds(), r.count.kills.Load(), r.cfg.Kills, r.count.terms.Load(), r.cfg.Terms,
			r.count.accepted.Load(), r.count.unanswered.Load(), h.Received, h.Repeated, online, len(r.devices), h.Violations)
	}
}
