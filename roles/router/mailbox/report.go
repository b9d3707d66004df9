package mailbox

import (
	"math"
	"slices"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/store"
)

// A message whose push asked for a report changes by records of the log only, and each change
// adds events. Applying the same records in the same order gives the same events, whoever
// applies them. So the clock, the bound on the mailbox and the expiry of devices change only
// other messages. For these messages the owner puts a step into the log: see Due and NextDue.

// TrackedOf returns what a push at a time, in Unix milliseconds, asks to be tracked, or nil for nothing.
func TrackedOf(r *envelope.Report, pushedMS int64) *store.MailboxTracked {
	if r == nil {
		return nil
	}
	return &store.MailboxTracked{PushedMS: pushedMS, Ref: r.Ref, Level: r.Level, DeadlineMS: r.DeadlineMs, DeadlineAny: r.DeadlineAny}
}

// Events collects the events that records derive. They have no id and no time yet. A nil *Events
// collects none.
type Events []events.Event

func (out *Events) add(event events.Event) {
	if out != nil {
		*out = append(*out, event)
	}
}

// addEvent adds an event of an entry, if its push asked for one of this level.
func (m *Mailbox) addEvent(e *Entry, level events.Level, event events.Event, out *Events) {
	if !e.Reports() || events.Level(e.Tracked.Level) < level {
		return
	}
	event.User, event.Message, event.Ref = m.user, e.ID, e.Tracked.Ref
	out.add(event)
}

// receipt notes that a device has acknowledged an entry.
func (m *Mailbox) receipt(e *Entry, by *Acknowledgement, out *Events) {
	if e.Tracked == nil {
		return
	}
	e.Tracked.Receipts = append(e.Tracked.Receipts, store.MailboxReceipt{Device: by.Device, TimeMS: by.TimeMS})
	m.addEvent(e, events.LevelEach, events.Event{
		Type: events.Delivered, Device: by.Device, AfterMS: max(0, by.TimeMS-e.Tracked.PushedMS), Auto: by.Auto,
	}, out)
}

// without notes devices that never get an entry. Of more than MaxDevices it keeps the newest.
func (e *Entry) without(devices ...string) {
	if t := e.Tracked; t != nil {
		all := append(t.Without, devices...)
		t.Without = all[max(0, len(all)-MaxDevices):]
	}
}

// settled tells that no device waits for an entry any more.
func (m *Mailbox) settled(e *Entry, out *Events) {
	if e.Tracked != nil {
		m.addEvent(e, events.LevelSettled, events.Event{Type: events.Settled, Without: slices.Clone(e.Tracked.Without)}, out)
	}
}

// removed tells that an entry was taken from the mailbox before every device had it.
func (m *Mailbox) removed(e *Entry, event events.Event, out *Events) {
	if e.Tracked != nil {
		event.Devices = m.Devices().Names(e.Waiting)
		m.addEvent(e, events.LevelNone, event, out)
	}
}

// StepRetryMS is how long a step that was put into the log may take to be applied before it is
// put there again.
const StepRetryMS = 10_000

// never is a time that no clock reaches.
const never = math.MaxInt64

// step returns the next step of an entry and when it is due, Unix milliseconds.
func (e *Entry) step() (step envelope.Due_Step, atMS int64) {
	switch {
	case !e.Reports():
		return envelope.Due_NONE, never
	case e.lost:
		return envelope.Due_LOST, 0
	case e.deadlineOpen():
		return envelope.Due_UNDELIVERED, e.Tracked.DeadlineMS
	}
	return envelope.Due_EXPIRED, e.ExpiresMS
}

// deadlineOpen reports whether the deadline of an entry, if it passed now, would be missed.
func (e *Entry) deadlineOpen() bool {
	t := e.Tracked
	return t.DeadlineMS > 0 && !t.Decided && (t.DeadlineAny || len(t.Receipts) == 0)
}

// NextDue returns the earliest time at which a message has a step to take, or the bound has to be
// kept, Unix milliseconds; math.MaxInt64: no message has one.
func (ms *Messages) NextDue(bound Bound) (atMS int64) {
	atMS = never
	for i, e := range ms.entries {
		_, at := e.step()
		if at != never && bound.exceeds(ms, i) {
			at = 0
		}
		if at != never && e.proposedMS > 0 {
			at = max(at, e.proposedMS+StepRetryMS)
		}
		atMS = min(atMS, at)
	}
	return atMS
}

// Propose returns the steps that are due at the time nowMS, at most limit. It remembers that it has
// returned them: NextDue is later for them.
func (m *Mailbox) Propose(nowMS int64, bound Bound, limit int) (dues []*envelope.Due) {
	for i, e := range m.Messages.entries {
		step, at := e.step()
		if at != never && step != envelope.Due_LOST && bound.exceeds(&m.Messages, i) {
			step, at = envelope.Due_DROPPED, 0
		}
		if at > nowMS || e.proposedMS > 0 && nowMS < e.proposedMS+StepRetryMS || len(dues) >= limit {
			continue
		}
		e.proposedMS = nowMS
		dues = append(dues, &envelope.Due{User: m.user, Id: e.ID, Step: step})
	}
	return dues
}

// Due takes a step of a message, by a record. A step of a message that has gone, or that has taken
// it before, is void. Due reports whether the message has gone.
func (m *Mailbox) Due(due *envelope.Due, out *Events) (gone bool) {
	e := m.Messages.Find(due.Id)
	if e == nil || !e.Reports() {
		return false
	}
	e.proposedMS = 0
	event := events.Event{Type: events.Dropped}
	switch due.Step {
	case envelope.Due_UNDELIVERED:
		if e.deadlineOpen() {
			e.Tracked.Decided = true
			m.Messages.change(e)
			m.removed(e, events.Event{Type: events.Undelivered}, out)
		}
		return false
	case envelope.Due_EXPIRED:
		event.Type = events.Expired
	case envelope.Due_DROPPED:
		event.Reason = events.ReasonFull
	case envelope.Due_LOST:
		event.Reason = events.ReasonLost
	default: // of a newer version
		return false
	}
	m.removed(e, event, out)
	m.Messages.remove(e)
	if event.Type == events.Dropped {
		m.Messages.CountDropped(1)
	}
	return true
}

// TrackedRecord returns what is tracked of a message as records and replies have it.
func TrackedRecord(t *store.MailboxTracked) *envelope.Tracked {
	if t == nil {
		return nil
	}
	out := &envelope.Tracked{
		Report:  &envelope.Report{Level: t.Level, Ref: t.Ref, DeadlineMs: t.DeadlineMS, DeadlineAny: t.DeadlineAny},
		Decided: t.Decided, Without: slices.Clone(t.Without), PushedMs: t.PushedMS,
	}
	for _, r := range t.Receipts {
		out.Receipts = append(out.Receipts, &envelope.Receipt{Device: r.Device, TimeMs: r.TimeMS})
	}
	return out
}

// trackedOfRecord is the inverse of TrackedRecord.
func trackedOfRecord(t *envelope.Tracked) *store.MailboxTracked {
	if t == nil {
		return nil
	}
	out := TrackedOf(t.Report, t.PushedMs)
	if out == nil {
		return nil
	}
	out.Decided, out.Without = t.Decided, slices.Clone(t.Without)
	for _, r := range t.Receipts {
		out.Receipts = append(out.Receipts, store.MailboxReceipt{Device: r.Device, TimeMS: r.TimeMs})
	}
	return out
}
