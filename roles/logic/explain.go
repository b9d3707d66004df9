package logic

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"imgo/envelope"
	"imgo/internal/events"
)

// Explanation is what the log and the owner know of a user's message, in the order in which it happened.
type Explanation struct {
	User string `json:"user"`
	ID   string `json:"id"`
	// Waiting reports whether some device has yet to acknowledge the message, as the owner says.
	Waiting bool   `json:"waiting"`
	Steps   []Step `json:"steps"`
	// Unknown says what could not be looked at, and why.
	Unknown []string `json:"unknown,omitempty"`
}

// Step is one thing that happened to a message, or that is so now.
type Step struct {
	// TimeMS is when it happened, in Unix milliseconds. 0 means that it is so now.
	TimeMS int64 `json:"time_ms,omitempty"`
	// Kind is accepted, acknowledged, read, decided, removed, event, hook or now.
	Kind string `json:"kind"`
	Text string `json:"text"`
}

const (
	// maxExplainRecords and maxExplainTime bound what Explain reads of the log behind the push.
	maxExplainRecords = 100_000
	maxExplainTime    = 5 * time.Second
	explainBytes      = 1 << 20 // at a time
)

// Explain says what became of a message that was pushed to a user. It reads the log from the push on, within
// bounds, and asks the owner. Explanation.Unknown tells what retention or a bound has left out. The error is
// envelope.ErrNotFound if the log has no such push.
func (h *userHandler) Explain(ctx context.Context, log envelope.Log, user string, id uint64) (*Explanation, error) {
	if err := envelope.CheckName("user", user); err != nil {
		return nil, err
	}
	x := &explainer{Explanation: Explanation{User: user, ID: fmt.Sprint(id), Steps: []Step{}}, id: id}
	if err := x.readLog(ctx, log); err != nil {
		return nil, err
	}
	if err := x.askOwner(ctx, h); err != nil {
		return nil, err
	}
	return &x.Explanation, nil
}

// explainer gathers an Explanation.
type explainer struct {
	Explanation
	id     uint64
	pushMS int64 // when the push was accepted. It is 0 if it is not known
}

func (x *explainer) step(timeMS int64, kind, format string, args ...any) {
	x.Steps = append(x.Steps, Step{timeMS, kind, fmt.Sprintf(format, args...)})
}

func (x *explainer) unknown(format string, args ...any) {
	x.Unknown = append(x.Unknown, fmt.Sprintf(format, args...))
}

// readLog reads the push and what the log has of the message behind it.
func (x *explainer) readLog(ctx context.Context, log envelope.Log) error {
	ctx, cancel := context.WithTimeout(ctx, maxExplainTime)
	defer cancel()
	partition := envelope.Partition(x.User, int(log.Partitions()))
	generation, offset := envelope.SplitID(x.id)
	begin, end, err := log.Bounds(ctx, partition)
	switch {
	case err != nil:
		return fmt.Errorf("find the bounds of the log: %w", err)
	case generation == 0:
		return envelope.Errorf(envelope.CodeNotFound, "there is no message %d: ids begin at %d", x.id, envelope.ID(1, 0))
	case generation < log.Generation():
		x.unknown("the push was accepted before partitions were added; the log of that time is not read")
		offset = begin
	case generation > log.Generation() || offset >= end:
		return envelope.Errorf(envelope.CodeNotFound, "there is no message %d: the log ends before it", x.id)
	case offset < begin:
		x.unknown("the push has left the log: kept.retention is over")
		offset = begin
	}
	for read := 0; offset < end; {
		if read > maxExplainRecords || ctx.Err() != nil {
			x.unknown("the log was read for %d records; what came later is not looked at", read)
			return nil
		}
		entries, err := log.Read(ctx, partition, offset, explainBytes)
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			continue
		case err != nil:
			return fmt.Errorf("read the log: %w", err)
		}
		for i := range entries {
			offset = entries[i].Offset + 1
			if entries[i].Offset < end {
				x.record(envelope.ID(log.Generation(), entries[i].Offset), &entries[i])
			}
		}
		read += len(entries)
		if x.pushMS == 0 && len(x.Unknown) == 0 {
			return envelope.Errorf(envelope.CodeNotFound, "there is no message %d of user %q: the log has another record there", x.id, x.User)
		}
	}
	return nil
}

// record adds what a record says of the message.
func (x *explainer) record(id uint64, e *envelope.Entry) {
	var r envelope.Record
	if e.Record(&r) != nil {
		return
	}
	switch {
	case r.Push != nil && id == x.id && slices.Contains(r.Push.Users, x.User):
		x.push(&r)
	case r.Acks != nil:
		for _, a := range r.Acks.Acks {
			if a.User == x.User && slices.Contains(a.Ids, x.id) {
				x.ack(r.TimeMs, a)
			}
		}
	case r.Dues != nil:
		for _, d := range r.Dues.Dues {
			if d.User == x.User && d.Id == x.id {
				x.step(r.TimeMs, "decided", "%s", dueText(d.Step))
			}
		}
	case r.Read != nil && r.Read.User == x.User && id > x.id && (x.id <= r.Read.UpTo || slices.Contains(r.Read.Ids, x.id)):
		x.read(r.TimeMs, r.Read)
	case r.Removal != nil && r.Removal.User == x.User:
		x.removal(r.TimeMs, r.Removal)
	}
}

func (x *explainer) push(r *envelope.Record) {
	p := r.Push
	x.pushMS = r.TimeMs
	by := ""
	if p.Caller != "" {
		by = fmt.Sprintf(" from the API key %q", p.Caller)
	}
	shared := ""
	if n := len(p.Users); n > 1 {
		shared = fmt.Sprintf(", for %d users in this record", n)
	}
	x.step(r.TimeMs, "accepted", "the push was accepted%s: %d bytes, operation %d%s; it lives until %s", by, len(p.Body), p.Op, shared,
		stamp(p.ExpiresMs))
	report := p.Report
	if report == nil {
		x.step(r.TimeMs, "accepted", "it asked for no report, so there are no events of it")
		return
	}
	text := "it asked for the report " + events.Level(report.Level).String()
	if report.Ref != "" {
		text += fmt.Sprintf(", and called itself %q", report.Ref)
	}
	if report.DeadlineMs != 0 {
		text += ", with a deadline at " + stamp(report.DeadlineMs)
	}
	x.step(r.TimeMs, "accepted", "%s", text)
}

func (x *explainer) ack(timeMS int64, a *envelope.Ack) {
	after := ""
	if x.pushMS != 0 {
		after = fmt.Sprintf(", %s after the push", time.Duration(max(timeMS-x.pushMS, 0))*time.Millisecond)
	}
	how := "acknowledged it"
	if a.Auto {
		how = "has it: the server acknowledged for a client that cannot"
	}
	x.step(timeMS, "acknowledged", "%s %s%s", deviceText(a.Device), how, after)
}

func (x *explainer) read(timeMS int64, r *envelope.Read) {
	if !r.ByCaller {
		x.step(timeMS, "read", "the user has read it on %s, so no device waits for it", deviceText(r.Device))
		return
	}
	on := ""
	if r.Device != "" {
		on = " on " + deviceText(r.Device)
	}
	x.step(timeMS, "read", "a caller of the API says that the user has read it%s, so no device waits for it", on)
}

func (x *explainer) removal(timeMS int64, r *envelope.Removal) {
	switch {
	case r.All:
		x.step(timeMS, "removed", "a caller of the API erased the user")
	case r.Messages:
		x.step(timeMS, "removed", "a caller of the API dropped all messages of the user")
	}
	for _, d := range r.Devices {
		x.step(timeMS, "removed", "%s was forgotten, so no message waits for it", deviceText(d))
	}
}

// askOwner adds why the message still waits, if it does.
func (x *explainer) askOwner(ctx context.Context, h *userHandler) error {
	reply, err := h.Messages(ctx, &envelope.MessagesRequest{User: x.User, Id: x.id, MaxMessages: 1})
	if err != nil {
		return err
	}
	if len(reply.Messages) == 0 {
		x.step(0, "now", "no device waits for the message")
		return nil
	}
	x.Waiting = true
	m := reply.Messages[0]
	if m.Unclaimed {
		x.step(0, "now", "it waits for the first device of the user, who had none; it lives until %s", stamp(m.ExpiresMs))
		return nil
	}
	user, err := h.User(ctx, x.User)
	if err != nil {
		return err
	}
	for _, device := range m.Waiting {
		x.step(0, "now", "%s", whyWaiting(user, device))
	}
	return nil
}

// whyWaiting says why a device has not acknowledged a message.
func whyWaiting(user *envelope.UserReply, device string) string {
	for _, s := range user.Sessions {
		if s.Device == device {
			return fmt.Sprintf("it waits for %s, which is connected since %s and has not acknowledged it", deviceText(device), stamp(s.SinceMs))
		}
	}
	for _, d := range user.Devices {
		if d.Device == device && d.SeenMs != 0 {
			return fmt.Sprintf("it waits for %s, which is not connected and was seen last at %s", deviceText(device), stamp(d.SeenMs))
		}
	}
	return fmt.Sprintf("it waits for %s, which is not connected", deviceText(device))
}

func dueText(step envelope.Due_Step) string {
	switch step {
	case envelope.Due_UNDELIVERED:
		return "the deadline had passed"
	case envelope.Due_EXPIRED:
		return "the ttl was over"
	case envelope.Due_DROPPED:
		return "more messages waited for the user than are allowed, and it was the oldest"
	case envelope.Due_LOST:
		return "the owner's disk had lost its body"
	}
	return "step " + step.String()
}

func deviceText(device string) string {
	if device == "" {
		return "the device without a name"
	}
	return fmt.Sprintf("device %q", device)
}

// stamp returns a time for people.
func stamp(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }

// AddEvents adds the events of a message, which the events topic has, and what outcome says of each.
func (x *Explanation) AddEvents(found []events.Record, outcome func(events.Record) []string) {
	for _, r := range found {
		x.Steps = append(x.Steps, Step{r.Time().UnixMilli(), "event", fmt.Sprintf("event %s, %s", r.Type, events.TextID(r.Partition, r.ID))})
		for _, text := range outcome(r) {
			x.Steps = append(x.Steps, Step{r.Time().UnixMilli(), "hook", text})
		}
	}
	// Steps about the present state stay at the end.
	at := func(s Step) int64 { return cmp.Or(s.TimeMS, math.MaxInt64) }
	slices.SortStableFunc(x.Steps, func(a, b Step) int { return cmp.Compare(at(a), at(b)) })
}
