package verify

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"imgo/verify/history"
)

// KindLate is an offence with Config.LateFails.
const KindLate history.Kind = "late"

// Millis is a duration that JSON shows in milliseconds.
type Millis time.Duration

// MarshalJSON is the number of milliseconds, to a thousandth.
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

// Progress is how a run goes.
type Progress struct {
	Phase   string
	Elapsed time.Duration
	// Devices are all, Connected those that are connected, Sessions all
	// connections that there were.
	Devices, Connected, Sessions int64
	// Accepted are kept pushes, Refusals answers that were none, Received
	// first deliveries of kept pushes to a device, Waiting those that are
	// still to come, the oldest of them for Oldest.
	Accepted, Refusals, Received, Waiting int64
	Oldest                                time.Duration
	// Violations do not have losses: those are known at the end.
	Violations int64
	Problems   int
	// LongestRefusal is the longest time in which no push was accepted, and
	// Refusal how long that has been going on now.
	LongestRefusal, Refusal time.Duration
}

// String is a line for a terminal.
func (p Progress) String() string {
	s := fmt.Sprintf("%s %s: %d/%d connected, %d accepted, %d refused, %d received, %d waiting",
		p.Elapsed.Round(time.Second), p.Phase, p.Connected, p.Devices, p.Accepted, p.Refusals, p.Received, p.Waiting)
	if p.Waiting > 0 && p.Oldest >= time.Second {
		s += fmt.Sprintf(" (for %s)", short(p.Oldest))
	}
	s += fmt.Sprintf(", %d violations, longest refusal %s", p.Violations+int64(p.Problems), short(p.LongestRefusal))
	if p.Refusal > time.Second {
		s += fmt.Sprintf(", NONE ACCEPTED FOR %s", short(p.Refusal))
	}
	return s
}

// Progress is how the run goes now. Safe for concurrent use.
func (v *Verifier) Progress() Progress {
	p := Progress{
		Phase: v.phase.Load().(string), Elapsed: v.now(), Devices: int64(v.cfg.Users * v.cfg.Devices), Connected: v.connected.Load(),
		Violations: v.h.Stats().Violations, Sessions: v.h.Stats().Sessions,
	}
	v.mu.Lock()
	p.Problems = v.nProblem
	v.mu.Unlock()
	l := v.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	p.Accepted, p.Refusals, p.Received, p.Waiting = l.counts.accepted, l.counts.refusals, l.counts.received, l.waits
	p.Oldest, p.Refusal = l.oldest(), l.refusal()
	p.LongestRefusal = max(l.longestRefusal, p.Refusal)
	return p
}

// Report is what came of a run. Its JSON is stable: fields are added, not
// changed.
type Report struct {
	// OK says that nothing is wrong: no violation and no problem.
	OK bool `json:"ok"`
	// Run begins the names of the users, Seed makes the same choices again.
	Run  string `json:"run"`
	Seed uint64 `json:"seed"`
	// Began is when, Pushed how long pushes were begun, Settled how long it
	// took after that until everything had arrived, or the time was over.
	Began   time.Time `json:"began"`
	Pushed  Millis    `json:"pushed_ms"`
	Settled Millis    `json:"settled_ms"`

	Users    int   `json:"users"`
	Devices  int   `json:"devices"`
	Sessions int64 `json:"sessions"`
	// Reconnects are connections that ended against the device's will,
	// SentAway those of them that the server ended with a reason.
	Reconnects int64 `json:"reconnects"`
	SentAway   int64 `json:"sent_away"`

	Pushes     Pushes     `json:"pushes"`
	Deliveries Deliveries `json:"deliveries"`

	// Violations counts what breaks I1 to I4, by kind.
	Violations map[history.Kind]int64 `json:"violations"`
	// First is the first thing that went wrong: the earliest that was seen,
	// or, where all are losses, the one that was accepted first.
	First *Offence `json:"first,omitempty"`
	// Offences are some of all, First among them.
	Offences []Offence `json:"offences,omitempty"`
	// Problems are things that went wrong and break another promise than I1
	// to I4; ProblemCount counts those that are not shown too.
	Problems     []string `json:"problems,omitempty"`
	ProblemCount int      `json:"problem_count"`

	Late  []LateDelivery `json:"late,omitempty"`
	Marks []Marked       `json:"marks,omitempty"`
}

// Pushes are the pushes of a run.
type Pushes struct {
	// Kept were tried: those Accepted, those without an answer that says so
	// (Unanswered), of which Abandoned had been repeated until it was enough.
	Kept       int64 `json:"kept"`
	Accepted   int64 `json:"accepted"`
	Unanswered int64 `json:"unanswered"`
	Abandoned  int64 `json:"abandoned"`
	// NotKept were tried, and NotKeptAccepted accepted.
	NotKept         int64 `json:"not_kept"`
	NotKeptAccepted int64 `json:"not_kept_accepted"`
	// Refusals counts calls that did not end with "accepted".
	Refusals int64 `json:"refusals"`
	// LongestRefusal is the longest time in which no kept push was accepted
	// though there was one; LongestPush is how long one took at most, from its
	// first call to the answer that it was accepted, or until it was given up.
	LongestRefusal Millis `json:"longest_refusal_ms"`
	LongestPush    Millis `json:"longest_push_ms"`
}

// Deliveries are what devices received. Times are from the call with the push
// that was accepted to the receipt, without the time that a device stayed
// away of its own will.
type Deliveries struct {
	// Received counts kept messages that a device received for the first time,
	// Repeated those that it had had before, NotKept others.
	Received int64 `json:"received"`
	Repeated int64 `json:"repeated"`
	NotKept  int64 `json:"not_kept"`

	P50 Millis `json:"p50_ms"`
	P99 Millis `json:"p99_ms"`
	Max Millis `json:"max_ms"`
	// Late counts those that took longer than LateAfter.
	Late      int64  `json:"late"`
	LateAfter Millis `json:"late_after_ms"`
}

// LateDelivery is a delivery that took long.
type LateDelivery struct {
	User       string `json:"user"`
	Device     string `json:"device"`
	Push       uint64 `json:"push"`
	Took       Millis `json:"took_ms"`
	AcceptedBy string `json:"accepted_by,omitempty"`
}

// Marked is what the run saw of a marked time (Verifier.Mark).
type Marked struct {
	Name  string    `json:"name"`
	Began time.Time `json:"began"`
	Took  Millis    `json:"took_ms"`
	// As in Pushes and Deliveries, of what had to do with this time.
	LongestRefusal  Millis `json:"longest_refusal_ms"`
	LongestPush     Millis `json:"longest_push_ms"`
	LongestDelivery Millis `json:"longest_delivery_ms"`
	Reconnects      int64  `json:"reconnects"`
}

// Offence is one thing that went wrong, with what is known of it.
type Offence struct {
	Kind   history.Kind `json:"kind"`
	User   string       `json:"user"`
	Device string       `json:"device,omitempty"`
	Push   uint64       `json:"push"`         // the push's number
	ID     string       `json:"id,omitempty"` // the message's
	Detail string       `json:"detail,omitempty"`
	// Seen is when it was found out.
	Seen time.Time `json:"seen"`
	// Began and Accepted are when the push was first sent and when it was
	// accepted, by which address, at which attempt.
	Began      *time.Time `json:"began,omitempty"`
	Accepted   *time.Time `json:"accepted,omitempty"`
	AcceptedBy string     `json:"accepted_by,omitempty"`
	Attempts   int        `json:"attempts,omitempty"`
	// Sessions are the device's last, the newest last, as of Seen.
	Sessions []SessionOf `json:"sessions,omitempty"`
}

// SessionOf is a session of an offended device.
type SessionOf struct {
	Comet   string     `json:"comet"` // where it was connected to
	Session string     `json:"session"`
	Began   time.Time  `json:"began"`
	Ended   *time.Time `json:"ended,omitempty"`
	Why     string     `json:"why,omitempty"` // it ended
}

// maxOffences is how many offences are told of; all are counted.
const maxOffences = 20

// offended notes a violation as it is found; the history's locks are held.
func (v *Verifier) offended(found history.Violation) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.kinds[found.Kind]++
	if len(v.offences) < maxOffences {
		v.offences = append(v.offences, v.offence(found))
	}
}

// offence adds what is known here to a violation.
func (v *Verifier) offence(found history.Violation) Offence {
	o := Offence{Kind: found.Kind, User: found.User, Device: found.Device, Push: found.Push, Detail: found.Detail, Seen: time.Now()}
	if found.ID != 0 {
		o.ID = strconv.FormatUint(found.ID, 10)
	}
	v.complete(&o)
	i := slices.IndexFunc(v.devices, func(d *device) bool { return d.name == found.Device && v.users[d.user].name == found.User })
	if i < 0 {
		return o
	}
	d := v.devices[i]
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range d.notes {
		s := SessionOf{Comet: n.at.String(), Session: n.id, Began: *v.at(n.began), Why: n.why}
		if n.ended != 0 {
			s.Ended = v.at(n.ended)
		}
		o.Sessions = append(o.Sessions, s)
	}
	return o
}

// complete tells of the offence's push as far as is known by now.
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

// at is a time of the run as the world has it.
func (v *Verifier) at(d time.Duration) *time.Time {
	t := v.began.Add(d)
	return &t
}

// report makes the report. All devices are still connected.
func (v *Verifier) report(pushed, settled time.Duration) *Report {
	lost := v.h.Lost(0)
	v.mu.Lock()
	defer v.mu.Unlock()
	r := &Report{
		Run: v.prefix, Seed: v.cfg.Seed, Began: v.began, Pushed: Millis(pushed), Settled: Millis(settled),
		Users: v.cfg.Users, Devices: v.cfg.Users * v.cfg.Devices, Sessions: v.h.Stats().Sessions,
		Reconnects: v.reconnects.Load(), SentAway: v.sentAway.Load(),
		Violations: maps.Clone(v.kinds), Problems: slices.Clone(v.problems), ProblemCount: v.nProblem,
		Offences: slices.Clone(v.offences),
	}
	for i := range r.Offences {
		v.complete(&r.Offences[i]) // the answer may have come after the offence
	}
	v.tally(r)
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

// firstLost are the losses that were accepted first.
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

// tally fills in what the ledger has.
func (v *Verifier) tally(r *Report) {
	l := v.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.counts
	r.Pushes = Pushes{
		Kept: c.kept, Accepted: c.accepted, Unanswered: c.unanswered, Abandoned: c.abandoned,
		NotKept: c.live, NotKeptAccepted: c.liveAccepted, Refusals: c.refusals,
		LongestRefusal: Millis(l.longestRefusal), LongestPush: Millis(l.longestPush),
	}
	r.Deliveries = Deliveries{
		Received: c.received, Repeated: c.repeated, NotKept: c.liveReceived,
		P50: Millis(l.delays.quantile(0.5)), P99: Millis(l.delays.quantile(0.99)), Max: Millis(l.longestDelivery),
		Late: l.lates, LateAfter: Millis(l.late),
	}
	for _, late := range l.lateOnes {
		one := LateDelivery{User: v.users[late.user].name, Device: fmt.Sprintf("d%d", late.device), Push: late.number, Took: Millis(late.took)}
		if known := l.pushes[late.number]; known != nil {
			one.AcceptedBy = known.by
		}
		r.Late = append(r.Late, one)
	}
	for _, m := range l.marks {
		r.Marks = append(r.Marks, Marked{
			Name: m.name, Began: *v.at(m.begin), Took: Millis(min(m.end, l.now()) - m.begin), LongestRefusal: Millis(m.refusal),
			LongestPush: Millis(m.push), LongestDelivery: Millis(m.delivery), Reconnects: m.reconnects,
		})
	}
}

// String is the report for a person.
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
		d.Received, d.Repeated, d.NotKept, r.Settled)
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

// clock is how a person is told of a time.
const clock = "15:04:05.000"

// String tells of an offence in several lines.
func (o *Offence) String() string {
	var b strings.Builder
	who := o.User
	if o.Device != "" {
		who += "/" + o.Device
	}
	fmt.Fprintf(&b, "%s: push %d to %s", o.Kind, o.Push, who)
	if o.ID != "" {
		fmt.Fprintf(&b, ", id %s", o.ID)
	}
	if o.Detail != "" {
		b.WriteString(": " + o.Detail)
	}
	fmt.Fprintf(&b, "; seen at %s\n", o.Seen.Format(clock))
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

// short shows a duration to three digits or so.
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
