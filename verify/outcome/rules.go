package outcome

import (
	"fmt"
	"slices"
	"strings"

	"imgo/internal/events"
	"imgo/verify/history"
)

// judgeLocked judges an event about a message.
func (j *Judge) judgeLocked(stream int, u *user, m *message, e Event) {
	t, ask := &m.told[stream], m.push.ask
	fail := func(kind history.Kind, format string, args ...any) {
		j.failLocked(kind, u, m, stream, e, fmt.Sprintf(format, args...))
	}
	if e.Data.Ref != ask.Ref {
		fail(KindInvented, "its ref is %q, the push has %q", e.Data.Ref, ask.Ref)
	}
	switch {
	case t.ended != "" && t.ended == e.Type:
		fail(KindTwice, "the message has ended before")
		return
	case t.ended != "":
		fail(KindOrder, "the message has ended by %s", t.ended)
		return
	}
	switch e.Type {
	case events.Delivered:
		j.deliveredLocked(u, m, t, e, fail)
		return
	case events.Undelivered:
		undelivered(u, m, t, e, fail)
		return
	case events.Settled:
		if all := u.all(); ask.Level == events.LevelEach && t.delivered != all {
			fail(KindOrder, "not told of %s before", u.names(all&^t.delivered))
		} else if missing := all &^ m.acked & u.known(); missing != 0 {
			fail(KindInvented, "%s has not acknowledged", u.names(missing))
		}
		if len(e.Data.Without) > 0 {
			fail(KindInvented, "without %s, which was never forgotten", e.Data.Without)
		}
		if ask.Held && !t.undelivered {
			fail(KindDeadline, "it passed, and that was not told")
		}
		if j.settled != nil && m.ackedAt > 0 {
			j.settled(stream, max(0, e.Received-m.ackedAt))
		}
	default:
		waiting(u, m, t, e, fail)
		if e.Data.Reason == events.ReasonLost || e.Data.Reason == events.ReasonRemoved {
			fail(KindInvented, "%s by the reason %q", e.Type, e.Data.Reason)
		}
	}
	t.ended = e.Type
	j.finishLocked(m)
}

// failure reports a violation of the event at hand.
type failure func(kind history.Kind, format string, args ...any)

func (j *Judge) deliveredLocked(u *user, m *message, t *told, e Event, fail failure) {
	i := u.device(e.Data.Device)
	switch {
	case m.push.ask.Level != events.LevelEach:
		fail(KindInvented, "the push asked for its end only")
		return
	case i < 0:
		fail(KindInvented, "there is no device %q", e.Data.Device)
		return
	case t.delivered&(1<<i) != 0:
		fail(KindTwice, "%s has it already", e.Data.Device)
		return
	case u.devices[i].acks == AcksKnown && m.acked&(1<<i) == 0:
		fail(KindInvented, "%s has not acknowledged", e.Data.Device)
	case e.Data.Auto && u.devices[i].acks != AcksAuto:
		fail(KindInvented, "%s acknowledges for itself", e.Data.Device)
	case e.Data.AfterMS < 0:
		fail(KindInvented, "after %d ms", e.Data.AfterMS)
	case m.push.ask.Held && !t.undelivered:
		fail(KindDeadline, "it passed before, and that was not told")
	}
	t.delivered |= 1 << i
}

func undelivered(u *user, m *message, t *told, e Event, fail failure) {
	ask := m.push.ask
	switch {
	case ask.Deadline == 0:
		fail(KindInvented, "the push has no deadline")
		return
	case t.undelivered:
		fail(KindDeadline, "it was decided before")
		return
	case !ask.DeadlineAny && t.delivered != 0:
		fail(KindDeadline, "%s had acknowledged", u.names(t.delivered))
	case e.Received < m.push.tried+ask.Deadline-earlySlack:
		fail(KindDeadline, "decided %s after the push, its deadline is %s", e.Received-m.push.tried, ask.Deadline)
	}
	waiting(u, m, t, e, fail)
	t.undelivered = true
}

// waiting checks the devices that waited, as an event says.
func waiting(u *user, m *message, t *told, e Event, fail failure) {
	var named uint64
	for _, name := range e.Data.Devices {
		i := u.device(name)
		if i < 0 {
			fail(KindInvented, "there is no device %q", name)
			return
		}
		named |= 1 << i
	}
	switch want := u.all() &^ t.delivered; {
	case m.push.ask.Level == events.LevelEach && named != want:
		fail(KindInvented, "it waits for %s, by the events before for %s", u.names(named), u.names(want))
	case named == 0:
		fail(KindInvented, "it waits for no device")
	}
}

// Missing returns what is missing at the end, when every mailbox is empty, in the order of the pushes: events that did
// not come, and receipts of what was told. It also returns the events about messages that nobody pushed.
func (j *Judge) Missing() (all history.Violations) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, p := range j.pushes {
		for _, m := range p.messages {
			if m.id == 0 || m.done {
				continue
			}
			for i := range m.told {
				all = append(all, j.missingOf(m, i)...)
			}
		}
	}
	for _, u := range j.users {
		all = append(all, j.unpublished(u)...)
		for _, o := range u.orphans {
			all = append(all, j.violation(KindInvented, u, nil, o.stream, o.event, "nobody pushed it with a report"))
		}
	}
	slices.SortStableFunc(all, func(a, b history.Violation) int {
		if a.Push != b.Push {
			return int(int64(a.Push) - int64(b.Push))
		}
		return strings.Compare(a.User, b.User)
	})
	return all
}

// missingOf returns what a stream has not told of a message, or has told without a receipt.
func (j *Judge) missingOf(m *message, stream int) (all history.Violations) {
	t, u := m.told[stream], m.user
	add := func(kind history.Kind, format string, args ...any) {
		all = append(all, history.Violation{Kind: kind, User: u.name, Push: m.push.number, ID: m.id,
			Detail: fmt.Sprintf(format, args...) + " (" + j.streams[stream].Name + ")"})
	}
	if none := t.delivered &^ m.acked; none != 0 {
		add(KindInvented, "message.delivered of %s, which did not receive it", u.names(none))
	}
	switch {
	case t.ended == events.Settled && u.all()&^m.acked != 0:
		add(KindInvented, "message.settled, and %s did not receive it", u.names(u.all()&^m.acked))
	case t.ended == "" && m.push.ask.Level == events.LevelEach && t.delivered != u.all():
		add(KindMissing, "message.delivered of %s, and message.settled", u.names(u.all()&^t.delivered))
	case t.ended == "":
		add(KindMissing, "message.settled")
	}
	if m.push.ask.Held && !t.undelivered {
		add(KindMissing, "message.undelivered")
	}
	return all
}
