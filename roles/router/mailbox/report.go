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

// TrackedOf returns what a push at a time, in Unix milliseconds, asks to be tracked; nil: nothing.
func TrackedOf(r *envelope.Report, pushedMS int64) *store.MailboxTracked {
	if r == nil {
		return nil
	}
	return &store.MailboxTracked{PushedMS: pushedMS, Ref: r.Ref, Level: r.Level, DeadlineMS: r.DeadlineMs, DeadlineAny: r.DeadlineAny}
}

// TakeEvents returns the events of what happened since the last call. They have no id and no
// time yet.
func (m *Mailbox) TakeEvents() []events.Event {
	list := m.events
	m.events = nil
	return list
}

// tell adds an event of an entry, if its push asked for one of this level.
func (m *Mailbox) tell(e *Entry, level events.Level, event events.Event) {
	if !e.Reports() || events.Level(e.Tracked.Level) < level {
		return
	}
	event.User, event.Message, event.Ref = m.user, e.ID, e.Tracked.Ref
	m.events = append(m.events, event)
}

// receipt notes that a device has acknowledged an entry.
func (m *Mailbox) receipt(e *Entry, by *Acknowledgement) {
	if e.Tracked == nil {
		return
	}
	e.Tracked.Receipts = append(e.Tracked.Receipts, store.MailboxReceipt{Device: by.Device, TimeMS: by.TimeMS})
	m.tell(e, events.LevelEach, events.Event{
		Type: events.Delivered, Device: by.Device, AfterMS: max(0, by.TimeMS-e.Tracked.PushedMS), Auto: by.Auto,
	})
}

// settled tells that no device waits for an entry any more.
func (m *Mailbox) settled(e *Entry) {
	if e.Tracked != nil {
		m.tell(e, events.LevelSettled, events.Event{Type: events.Settled, Without: slices.Clone(e.Tracked.Without)})
	}
}

// removed tells that an entry was taken from the mailbox before every device had it.
func (m *Mailbox) removed(e *Entry, event events.Event) {
	if e.Tracked != nil {
		event.Devices = m.Waiting(e)
		m.tell(e, events.LevelNone, event)
	}
}

// Waiting returns the names of the devices that an entry waits for, sorted: the order in which a
// mailbox has them is not the log's alone.
func (m *Mailbox) Waiting(e *Entry) (devices []string) {
	for _, d := range Covered(e.Waiting, m.meta.Devices) {
		devices = append(devices, d.Name)
	}
	slices.Sort(devices)
	return devices
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
func (m *Mailbox) NextDue(bound Bound) (atMS int64) {
	atMS = never
	for i, e := range m.entries {
		_, at := e.step()
		if at != never && bound.exceeds(m, i) {
			at = 0
		}
		if at != never && e.proposedMS > 0 {
			at = max(at, e.proposedMS+StepRetryMS)
		}
		atMS = min(atMS, at)
	}
	if len(m.stale) > 0 {
		return 0
	}
	return atMS
}

// Propose returns the steps that are due at the time nowMS, at most limit, and the devices that are
// to be forgotten. It remembers that it has returned the steps: NextDue is later for them.
func (m *Mailbox) Propose(nowMS int64, bound Bound, limit int) (dues []*envelope.Due, devices []string) {
	for i, e := range m.entries {
		step, at := e.step()
		if at != never && step != envelope.Due_LOST && bound.exceeds(m, i) {
			step, at = envelope.Due_DROPPED, 0
		}
		if at > nowMS || e.proposedMS > 0 && nowMS < e.proposedMS+StepRetryMS || len(dues) >= limit {
			continue
		}
		e.proposedMS = nowMS
		dues = append(dues, &envelope.Due{User: m.user, Id: e.ID, Step: step})
	}
	devices, m.stale = m.stale, nil
	return dues, devices
}

// Due takes a step of a message, by a record. A step of a message that has gone, or that has taken
// it before, is void. Due reports whether the message has gone.
func (m *Mailbox) Due(due *envelope.Due) (gone bool) {
	e := m.Find(due.Id)
	if e == nil || !e.Reports() {
		return false
	}
	e.proposedMS = 0
	event := events.Event{Type: events.Dropped}
	switch due.Step {
	case envelope.Due_UNDELIVERED:
		if e.deadlineOpen() {
			e.Tracked.Decided, e.changed, m.dirty = true, true, true
			m.removed(e, events.Event{Type: events.Undelivered})
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
	m.removed(e, event)
	m.forget(e)
	m.entries = slices.DeleteFunc(m.entries, func(o *Entry) bool { return o == e })
	if event.Type == events.Dropped {
		m.meta.Dropped++
		m.metaChanged = true
	}
	return true
}

// Stale reports whether a device has expired that a message that reports waits for.
func (m *Mailbox) Stale() bool { return len(m.stale) > 0 }

// waitsReporting reports whether a message that reports waits for a device.
func (m *Mailbox) waitsReporting(mask uint64) bool {
	return slices.ContainsFunc(m.entries, func(e *Entry) bool { return e.Waiting&mask != 0 && e.Reports() })
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
