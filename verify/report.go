package verify

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"imgo/verify/history"
)

// KindLate is the kind of a late delivery if Config.LateFails is set.
const KindLate history.Kind = "late"

// Millis is a duration that is written to JSON in milliseconds.
type Millis time.Duration

// MarshalJSON returns the number of milliseconds with three decimals.
func (m Millis) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(time.Duration(m).Microseconds())/1000, 'f', -1, 64), nil
}

// UnmarshalJSON reads what MarshalJSON writes.
func (m *Millis) UnmarshalJSON(b []byte) error {
	ms, err := strconv.ParseFloat(string(b), 64)
	if err != nil {
		return fmt.Errorf("read milliseconds: %w", err)
	}
	*m = Millis(ms * float64(time.Millisecond))
	return nil
}

func (m Millis) String() string { return short(time.Duration(m)) }

// Progress is a snapshot of a run.
type Progress struct {
	Phase   string
	Elapsed time.Duration
	// Devices counts all devices, Connected the connected ones, and Away those that are away by their
	// own will. Sessions counts all sessions so far. All connections of an SDK are one session.
	Devices, Connected, Away, Sessions int64
	// Accepted counts accepted kept pushes. Refusals counts calls that were not accepted. Received
	// counts first deliveries of kept pushes to a device. Waiting counts accepted deliveries that
	// have not happened yet, and Oldest is the age of the oldest of them.
	Accepted, Refusals, Received, Waiting int64
	Oldest                                time.Duration
	// Events counts events of GET /v1/events. Untold counts messages that the server has and whose events have not all
	// come.
	Events, Untold int64
	// Violations does not count losses and missing events, which are known only at the end.
	Violations int64
	Problems   int
	// LongestRefusal is the longest time without an accepted push while some were in flight.
	// Refusal is the current such time.
	LongestRefusal, Refusal time.Duration
}

// String returns a line for a terminal.
func (p Progress) String() string {
	s := fmt.Sprintf("%s %s: %d/%d connected, %d accepted, %d refused, %d received, %d waiting",
		p.Elapsed.Round(time.Second), p.Phase, p.Connected, p.Devices, p.Accepted, p.Refusals, p.Received, p.Waiting)
	if p.Waiting > 0 && p.Oldest >= time.Second {
		s += fmt.Sprintf(" (for %s)", short(p.Oldest))
	}
	if p.Events > 0 {
		s += fmt.Sprintf(", %d events, %d untold", p.Events, p.Untold)
	}
	s += fmt.Sprintf(", %d violations, longest refusal %s", p.Violations+int64(p.Problems), short(p.LongestRefusal))
	if p.Refusal > time.Second {
		s += fmt.Sprintf(", NONE ACCEPTED FOR %s", short(p.Refusal))
	}
	return s
}

// Progress returns a snapshot of the run. It is safe for concurrent use.
func (v *Verifier) Progress() Progress {
	p := Progress{
		Phase: v.phase.Load().(string), Elapsed: v.now(), Devices: int64(v.cfg.Users * v.cfg.Devices), Connected: v.connected.Load(),
		Away: v.away.Load(), Violations: v.h.Stats().Violations, Sessions: v.h.Stats().Sessions,
	}
	if v.cfg.Events != nil {
		s := v.events.judge.Stats()
		p.Events, p.Untold = s.Received[streamFollower], int64(s.Open)
		p.Violations += s.Violations
	}
	v.mu.Lock()
	p.Problems = v.nProblem
	v.mu.Unlock()
	l := v.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	p.Accepted, p.Refusals, p.Received, p.Waiting = l.sent.Accepted, l.sent.Refusals, l.delivered.Received, l.waits
	p.Oldest, p.Refusal = l.oldestLocked(), l.refusalLocked()
	p.LongestRefusal = max(time.Duration(l.sent.LongestRefusal), p.Refusal)
	return p
}

// Report is the result of a run. Its JSON is stable: fields are added, but not changed.
type Report struct {
	// OK reports whether there is neither a violation nor a problem.
	OK bool `json:"ok"`
	// Run is the prefix of the names of the users. A run with the same Seed makes the same choices.
	Run  string `json:"run"`
	Seed uint64 `json:"seed"`
	// Began is the start of the run. Pushed is the time during which pushes were begun. Arrived is
	// the time from then until everything had arrived, or until Config.ArrivalTimeout was over.
	Began   time.Time `json:"began"`
	Pushed  Millis    `json:"pushed_ms"`
	Arrived Millis    `json:"settled_ms"`

	Users    int   `json:"users"`
	Devices  int   `json:"devices"`
	Sessions int64 `json:"sessions"`
	// Reconnects counts connections that ended against the will of the device. SentAway counts
	// those that the server ended with a disconnect packet.
	Reconnects int64 `json:"reconnects"`
	SentAway   int64 `json:"sent_away"`

	Pushes     Pushes     `json:"pushes"`
	Deliveries Deliveries `json:"deliveries"`
	// Events is nil without Config.Events.
	Events *EventCounts `json:"events,omitempty"`

	// Violations counts the violations of I1 to I4, and of the rules of events, by kind.
	Violations map[history.Kind]int64 `json:"violations"`
	// First is the earliest violation that was found. If all are losses, it is the loss that was
	// accepted first.
	First *Offence `json:"first,omitempty"`
	// Offences lists up to 20 violations and up to 20 losses. First is one of them.
	Offences []Offence `json:"offences,omitempty"`
	// Problems are failures other than violations of I1 to I4. ProblemCount also counts those that
	// are not listed.
	Problems     []string `json:"problems,omitempty"`
	ProblemCount int      `json:"problem_count"`

	Late  []LateDelivery `json:"late,omitempty"`
	Marks []Marked       `json:"marks,omitempty"`
}

// Pushes counts the pushes of a run.
type Pushes struct {
	// Kept counts the kept pushes that were sent. Unanswered counts those without an answer that
	// accepts them. Abandoned counts those of Unanswered that were repeated until Config.GiveUp was
	// over.
	Kept       int64 `json:"kept"`
	Accepted   int64 `json:"accepted"`
	Unanswered int64 `json:"unanswered"`
	Abandoned  int64 `json:"abandoned"`
	// NotKept counts the pushes that are not kept, NotKeptAccepted the accepted ones of them.
	NotKept         int64 `json:"not_kept"`
	NotKeptAccepted int64 `json:"not_kept_accepted"`
	// Refusals counts calls that did not end with "accepted".
	Refusals int64 `json:"refusals"`
	// LongestRefusal is the longest time without an accepted kept push while some were in flight.
	// LongestPush is the longest time of one push, from its first call until it was accepted or
	// given up.
	LongestRefusal Millis `json:"longest_refusal_ms"`
	LongestPush    Millis `json:"longest_push_ms"`
}

// Deliveries counts what devices received. A delivery time runs from the last call with the push to
// the receipt. Time that a device stayed away by its own will is not included.
type Deliveries struct {
	// Received counts kept messages that a device received for the first time. Repeated counts
	// those that it had received before. NotKept counts messages that are not kept.
	Received int64 `json:"received"`
	Repeated int64 `json:"repeated"`
	NotKept  int64 `json:"not_kept"`

	P50 Millis `json:"p50_ms"`
	P99 Millis `json:"p99_ms"`
	Max Millis `json:"max_ms"`
	// Late counts deliveries that took longer than LateAfter.
	Late      int64  `json:"late"`
	LateAfter Millis `json:"late_after_ms"`
}

// LateDelivery is a delivery that took longer than Config.Late.
type LateDelivery struct {
	User       string `json:"user"`
	Device     string `json:"device"`
	Push       uint64 `json:"push"`
	Took       Millis `json:"took_ms"`
	AcceptedBy string `json:"accepted_by,omitempty"`
}

// Marked is the result of a mark (Verifier.Mark).
type Marked struct {
	Name  string    `json:"name"`
	Began time.Time `json:"began"`
	Took  Millis    `json:"took_ms"`
	// As in Pushes and Deliveries, but only for events that overlap the mark.
	LongestRefusal  Millis `json:"longest_refusal_ms"`
	LongestPush     Millis `json:"longest_push_ms"`
	LongestDelivery Millis `json:"longest_delivery_ms"`
	Reconnects      int64  `json:"reconnects"`
}

// Offence is one violation with its circumstances.
type Offence struct {
	history.Violation
	// Seen is the time at which the violation was found.
	Seen time.Time `json:"seen"`
	// Began is the time of the first call with the push. Accepted, AcceptedBy and Attempts are the
	// time, the address and the attempt of its acceptance.
	Began      *time.Time `json:"began,omitempty"`
	Accepted   *time.Time `json:"accepted,omitempty"`
	AcceptedBy string     `json:"accepted_by,omitempty"`
	Attempts   int        `json:"attempts,omitempty"`
	// Sessions are the last sessions of the device at the time Seen, oldest first.
	Sessions []SessionOf `json:"sessions,omitempty"`
}

// SessionOf is a session of the device that a violation concerns.
type SessionOf struct {
	Comet   string     `json:"comet"` // address of the comet
	Session string     `json:"session"`
	Began   time.Time  `json:"began"`
	Ended   *time.Time `json:"ended,omitempty"`
	Why     string     `json:"why,omitempty"` // reason of the end
}

// maxOffences is the number of violations that the report lists. All are counted.
const maxOffences = 20

// onViolation records a violation when the history or the judge of events finds it. They hold their locks, so
// onViolation must not call them.
func (v *Verifier) onViolation(found history.Violation) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.kinds[found.Kind]++
	if len(v.offences) < maxOffences {
		v.offences = append(v.offences, v.offence(found))
	}
}

// offence adds the push and the sessions of the device to a violation.
func (v *Verifier) offence(found history.Violation) Offence {
	o := Offence{Violation: found, Seen: time.Now()}
	v.complete(&o)
	i := slices.IndexFunc(v.devices, func(d *device) bool { return d.name == found.Device && d.account.name == found.User })
	if i < 0 {
		return o
	}
	d := v.devices[i]
	d.mu.Lock()
	defer d.mu.Unlock()
	o.Sessions = slices.Clone(d.sessions)
	return o
}

// complete fills in what the ledger knows of the push by now.
func (v *Verifier) complete(o *Offence) {
	r := v.ledger.record(o.Push)
	if r == nil {
		return
	}
	o.Began, o.AcceptedBy, o.Attempts = v.at(r.began), r.by, r.attempts
	if r.accepted != 0 {
		o.Accepted = v.at(r.accepted)
	}
}

// at converts a time of the run to wall time.
func (v *Verifier) at(d time.Duration) *time.Time {
	t := v.began.Add(d)
	return &t
}

// maxEvidence is the number of users for whom the server is asked at the end.
const maxEvidence = 5

// evidence returns the server's view of the first users that lack messages, by user.
func (v *Verifier) evidence(ctx context.Context) map[string]string {
	says := make(map[string]string)
	for _, l := range v.h.Lost(0) {
		if _, asked := says[l.User]; asked {
			continue
		}
		if len(says) == maxEvidence {
			break
		}
		state, err := v.api.User(ctx, l.User)
		says[l.User] = fmt.Sprintf("%+v", state)
		if err != nil {
			says[l.User] = err.Error()
		}
	}
	return says
}

// report makes the report. It must run while all devices are still connected. evidence is the result
// of the method evidence.
func (v *Verifier) report(pushed, arrived time.Duration, evidence map[string]string) *Report {
	missing := v.events.missing()
	lost := v.h.Lost(0)
	for i, l := range lost {
		if says, asked := evidence[l.User]; asked {
			lost[i].Detail += "; the server says of the user: " + says
		}
	}
	for _, d := range v.devices {
		if d.falsifier != nil && !d.falsifier.done.Load() {
			v.problem("%s received too few messages for a false record", d)
		}
	}
	if f := v.events.falsifier; f != nil && !f.done.Load() {
		v.problem("too few messages ended for a false record")
	}
	counts := v.events.counts()
	v.mu.Lock()
	defer v.mu.Unlock()
	r := &Report{
		Run: v.prefix, Seed: v.cfg.Seed, Began: v.began, Pushed: Millis(pushed), Arrived: Millis(arrived),
		Users: v.cfg.Users, Devices: v.cfg.Users * v.cfg.Devices, Sessions: v.h.Stats().Sessions,
		Reconnects: v.reconnects.Load(), SentAway: v.sentAway.Load(),
		Violations: maps.Clone(v.kinds), Problems: slices.Clone(v.problems), ProblemCount: v.nProblem,
		Offences: slices.Clone(v.offences), Events: counts,
	}
	for i := range r.Offences {
		v.complete(&r.Offences[i]) // the answer may have arrived after the violation
	}
	v.tally(r)
	for i, m := range missing {
		r.Violations[m.Kind]++
		if i < maxOffences {
			r.Offences = append(r.Offences, v.offence(m))
		}
	}
	if len(lost) > 0 {
		r.Violations[history.KindLost] = int64(len(lost))
		r.Offences = append(r.Offences, v.firstLost(lost)...)
	}
	if v.cfg.LateFails && r.Deliveries.Late > 0 {
		r.Violations[KindLate] = r.Deliveries.Late
		for _, late := range r.Late {
			r.Offences = append(r.Offences, v.offence(history.Violation{
				Kind: KindLate, User: late.User, Device: late.Device, Push: late.Push, Detail: "it took " + late.Took.String()}))
		}
	}
	if len(r.Offences) > 0 {
		r.First = &r.Offences[0]
	}
	r.OK = len(r.Violations) == 0 && r.ProblemCount == 0
	return r
}

// firstLost returns the losses whose pushes were accepted first, at most maxOffences of them.
func (v *Verifier) firstLost(lost history.Violations) []Offence {
	accepted := make(map[uint64]time.Duration, len(lost))
	for _, l := range lost {
		if _, known := accepted[l.Push]; !known {
			if r := v.ledger.record(l.Push); r != nil {
				accepted[l.Push] = r.accepted
			}
		}
	}
	slices.SortStableFunc(lost, func(a, b history.Violation) int { return cmp.Compare(accepted[a.Push], accepted[b.Push]) })
	var first []Offence
	for _, l := range lost[:min(len(lost), maxOffences)] {
		first = append(first, v.offence(l))
	}
	return first
}

// tally fills in the counters and times of the ledger.
func (v *Verifier) tally(r *Report) {
	l := v.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	r.Pushes, r.Deliveries = l.sent, l.delivered
	r.Deliveries.P50, r.Deliveries.P99, r.Deliveries.Max = l.delays.quantile(0.5), l.delays.quantile(0.99), Millis(l.delays.longest)
	for _, late := range l.lates {
		one := LateDelivery{User: v.users[late.user].name, Device: fmt.Sprintf("d%d", late.device), Push: late.number, Took: late.took}
		if known := l.pushes[late.number]; known != nil {
			one.AcceptedBy = known.by
		}
		r.Late = append(r.Late, one)
	}
	for _, m := range l.marks {
		one := m.Marked
		one.Took = Millis(min(m.end, l.now()) - m.begin)
		r.Marks = append(r.Marks, one)
	}
}

// String returns the report as text for a person.
func (r *Report) String() string {
	var b strings.Builder
	p, d := r.Pushes, r.Deliveries
	fmt.Fprintf(&b, "users        %d with %d devices, %d sessions, %d reconnects; names begin with %s\n",
		r.Users, r.Devices, r.Sessions, r.Reconnects, r.Run)
	fmt.Fprintf(&b, "pushes       %d kept in %s: %d accepted, %d without an answer; %d not kept; seed %d\n",
		p.Kept, r.Pushed, p.Accepted, p.Unanswered, p.NotKept, r.Seed)
	fmt.Fprintf(&b, "refusals     %d; none was accepted for %s at most; one push took %s at most\n", p.Refusals, p.LongestRefusal,
		p.LongestPush)
	fmt.Fprintf(&b, "deliveries   %d of kept messages, and %d again; %d of others; settled in %s\n",
		d.Received, d.Repeated, d.NotKept, r.Arrived)
	r.Events.write(&b)
	fmt.Fprintf(&b, "push to receipt   p50 %s, p99 %s, longest %s; %d took more than %s\n", d.P50, d.P99, d.Max, d.Late, d.LateAfter)
	for _, l := range r.Late {
		fmt.Fprintf(&b, "  late: push %d to %s/%s took %s, accepted by %s\n", l.Push, l.User, l.Device, l.Took, l.AcceptedBy)
	}
	for _, m := range r.Marks {
		fmt.Fprintf(&b, "%s, for %s: none accepted for %s, longest push %s, longest delivery %s, %d reconnects\n",
			m.Name, m.Took, m.LongestRefusal, m.LongestPush, m.LongestDelivery, m.Reconnects)
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Violations)) {
		fmt.Fprintf(&b, "VIOLATION    %s: %d\n", kind, r.Violations[kind])
	}
	for _, text := range r.Problems {
		fmt.Fprintf(&b, "PROBLEM      %s\n", text)
	}
	if more := r.ProblemCount - len(r.Problems); more > 0 {
		fmt.Fprintf(&b, "PROBLEM      and %d more\n", more)
	}
	if r.First != nil {
		fmt.Fprintf(&b, "first        %s", r.First)
	}
	if r.OK {
		b.WriteString("OK           nothing accepted was lost, nothing came twice, all in order\n")
	}
	return b.String()
}

// clock is the format of times in the text.
const clock = "15:04:05.000"

// String describes the violation in several lines.
func (o *Offence) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s; seen at %s\n", o.Violation, o.Seen.Format(clock))
	switch {
	case o.Accepted != nil:
		fmt.Fprintf(&b, "             sent at %s, accepted at %s by %s at attempt %d\n", o.Began.Format(clock), o.Accepted.Format(clock),
			o.AcceptedBy, o.Attempts)
	case o.Began != nil:
		fmt.Fprintf(&b, "             sent at %s, not accepted after %d attempts\n", o.Began.Format(clock), o.Attempts)
	}
	for _, s := range o.Sessions {
		fmt.Fprintf(&b, "             session %s at %s from %s", s.Session, s.Comet, s.Began.Format(clock))
		if s.Ended != nil {
			fmt.Fprintf(&b, " to %s: %s", s.Ended.Format(clock), s.Why)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// short formats a duration with about three digits.
func short(d time.Duration) string {
	switch {
	case d >= 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= 10*time.Millisecond:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Microsecond).String()
}
