package outcome

import (
	"fmt"
	"slices"
	"time"

	"imgo/internal/events"
	"imgo/verify/history"
)

// KnowsAcks reports whether the caller knows the acknowledgements of all devices of these users.
func (j *Judge) KnowsAcks(users ...string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, name := range users {
		u := j.users[name]
		if u == nil || slices.ContainsFunc(u.devices, func(d device) bool { return d.acks != AcksKnown }) {
			return false
		}
	}
	return true
}

// Tried records a push that asks for events, before its first byte is sent at the time now.
func (j *Judge) Tried(number uint64, ask Ask, now time.Duration, users ...string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	p := &push{number: number, ask: ask, tried: now, left: len(users)}
	for _, name := range users {
		p.messages = append(p.messages, &message{push: p, user: j.users[name], told: make([]told, len(j.streams))})
	}
	j.pushes[number] = p
	j.asked += int64(len(users))
}

// Refused records that the server did not take a push, for certain.
func (j *Judge) Refused(number uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	p := j.pushes[number]
	if p == nil {
		return
	}
	delete(j.pushes, number)
	for _, m := range p.messages {
		j.asked--
		if m.id != 0 && !m.done {
			j.open--
			delete(m.user.byID, m.id)
		}
	}
}

// Accepted records that the server took a push for a user under an id.
func (j *Judge) Accepted(number uint64, userName string, id uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.messageLocked(number, userName, id)
}

// Received records that a device received a message, before it acknowledges it.
func (j *Judge) Received(number uint64, userName, deviceName string, id uint64, now time.Duration) {
	j.mu.Lock()
	defer j.mu.Unlock()
	m := j.messageLocked(number, userName, id)
	if m == nil {
		return
	}
	if i := m.user.device(deviceName); i >= 0 && m.user.devices[i].acks != AcksKnown {
		j.ackLocked(m, i, now)
	}
}

// Acknowledging records that a device is about to send acknowledgements.
func (j *Judge) Acknowledging(userName, deviceName string, ids []uint64, now time.Duration) {
	j.mu.Lock()
	defer j.mu.Unlock()
	u := j.users[userName]
	if u == nil {
		return
	}
	i := u.device(deviceName)
	for _, id := range ids {
		if m := u.byID[id]; m != nil && i >= 0 {
			j.ackLocked(m, i, now)
		}
	}
}

func (j *Judge) ackLocked(m *message, device int, now time.Duration) {
	if m.acked&(1<<device) == 0 {
		m.acked |= 1 << device
		m.ackedAt = now
		j.finishLocked(m)
	}
}

// Held reports whether a message must not be acknowledged yet, because its deadline is to pass first.
func (j *Judge) Held(userName string, id uint64) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	u := j.users[userName]
	if u == nil {
		return false
	}
	m := u.byID[id]
	return m != nil && m.push.ask.Held && !slices.ContainsFunc(m.told, func(t told) bool { return t.undelivered })
}

// messageLocked returns the message of a push to a user, and notes its id. It returns nil if the push did not ask, or
// if all its events have come.
func (j *Judge) messageLocked(number uint64, userName string, id uint64) *message {
	p, u := j.pushes[number], j.users[userName]
	if p == nil || u == nil {
		return nil
	}
	i := slices.IndexFunc(p.messages, func(m *message) bool { return m.user == u })
	if i < 0 || p.messages[i].done {
		return nil
	}
	m := p.messages[i]
	if m.id != 0 {
		return m
	}
	m.id = id
	u.byID[id] = m
	j.open++
	orphans := u.orphans
	u.orphans = nil
	for _, o := range orphans {
		if o.event.Data.ID == id {
			j.judgeLocked(o.stream, u, m, o.event)
		} else {
			u.orphans = append(u.orphans, o)
		}
	}
	return m
}

// finishLocked forgets a message whose end has come in all streams, and whose receipts are known.
func (j *Judge) finishLocked(m *message) {
	first := m.told[0]
	proved := first.delivered
	if first.ended == events.Settled {
		proved = m.user.all()
	}
	if slices.ContainsFunc(m.told, func(t told) bool { return t.ended == "" }) || proved&^m.acked != 0 {
		return
	}
	for i, t := range m.told {
		if t != first {
			j.broken++
			j.report(history.Violation{Kind: KindMissing, User: m.user.name, Push: m.push.number, ID: m.id,
				Detail: fmt.Sprintf("%s and %s told different events", j.streams[0].Name, j.streams[i].Name)})
		}
	}
	m.done = true
	delete(m.user.byID, m.id)
	j.open--
	if m.push.left--; m.push.left == 0 {
		delete(j.pushes, m.push.number)
	}
}
