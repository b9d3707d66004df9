// Package outcome judges what a push server tells about messages. The caller says which pushes asked for events, which
// messages its devices received and acknowledged, and which events each stream brought. A stream is one way of
// getting events, such as GET /v1/events or a hook. The package reports each violation of these rules, for each
// stream by itself:
//
//   - no event without its cause: a device acknowledged, or a deadline passed;
//   - no cause without its event, once every mailbox is empty;
//   - no event twice, apart from repetitions under the same id where the stream may repeat;
//   - the events of a user come in the order of their ids, and those of a message end with its end;
//   - a deadline is decided at most once, not early, and not after an acknowledgement that prevents it.
//
// Every violation is reported at once, except missing events: Missing returns those at the end. Events of users and of
// types that the caller has not named are ignored.
//
// The package does not talk to a server. It remembers the messages whose events have not all come, and for each user
// and stream the last few hundred ids of events.
package outcome

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"imgo/internal/events"
	"imgo/verify/history"
)

// The kinds of violations.
const (
	KindMissing  history.Kind = "events: missing"
	KindInvented history.Kind = "events: invented"
	KindTwice    history.Kind = "events: twice"
	KindOrder    history.Kind = "events: order"
	KindDeadline history.Kind = "events: deadline"
)

// Acks says when a device acknowledges, and what the caller knows of it.
type Acks int

// The ways of devices.
const (
	// AcksKnown: the caller says of each acknowledgement before it is sent (Acknowledging).
	AcksKnown Acks = iota
	// AcksAll: the device acknowledges what it receives. The caller learns of a receipt at about the same time.
	AcksAll
	// AcksAuto: the server acknowledges for the device. It may do so before the device has read the message.
	AcksAuto
)

// Ask is what a push asks for.
type Ask struct {
	// Level is events.LevelSettled or events.LevelEach.
	Level events.Level
	Ref   string
	// Deadline is 0 without one. DeadlineAny: a device that lacks the message is enough.
	Deadline    time.Duration
	DeadlineAny bool
	// Held means that no device acknowledges the message before a stream has brought its undelivered event.
	Held bool
}

// Event is one event of a message, as a stream brought it.
type Event struct {
	ID       string // CloudEvents id
	Type     events.Type
	User     string
	Message  uint64
	Ref      string
	Device   string
	Auto     bool
	Devices  []string
	Without  []string
	Reason   string
	AfterMS  int64
	Received time.Duration // time of the caller's clock
}

// Stream describes a way of getting events.
type Stream struct {
	Name string
	// Repeats means that an event may come several times under its id.
	Repeats bool
}

// earlySlack is how much too early a deadline may be decided: the clocks of nodes differ.
const earlySlack = time.Second

// remembered is the number of ids that are remembered of each user and stream, to tell a repetition from a wrong order.
const remembered = 512

// maxOrphans bounds the events of a user about messages that are not known yet.
const maxOrphans = 1000

// Judge judges the events of a run. It is safe for concurrent use.
type Judge struct {
	streams []Stream
	watch   func(history.Violation)
	settled func(stream int, took time.Duration)

	mu       sync.Mutex
	users    map[string]*user
	pushes   map[uint64]*push
	asked    int64 // messages of pushes that asked: one a user
	open     int   // messages that are known and whose events have not all come
	received []int64
	repeated []int64
	broken   int64
}

// user is what is known of a user.
type user struct {
	name    string
	devices []device
	byID    map[uint64]*message
	orphans []orphan
	streams []userStream
}

type device struct {
	name string
	acks Acks
}

// userStream is what a stream brought of a user.
type userStream struct {
	last  events.ID
	seen  map[events.ID]struct{}
	order []events.ID // the keys of seen, oldest first
}

// orphan is an event about a message that is not known yet: its device has not received it, and its push has no answer.
type orphan struct {
	stream int
	event  Event
}

// push is a push that asked for events.
type push struct {
	number   uint64
	ask      Ask
	tried    time.Duration
	messages []*message // one a user
	left     int        // messages whose events have not all come
}

// message is a push to one user.
type message struct {
	push *push
	user *user
	id   uint64 // 0: not known
	// acked has a bit for each device that has acknowledged, or whose acknowledgement the caller does not know and
	// that has received the message. ackedAt is the time of the last one.
	acked   uint64
	ackedAt time.Duration
	told    []told
	done    bool
}

// told is what a stream told of a message.
type told struct {
	delivered   uint64 // a bit for each device
	undelivered bool
	ended       events.Type // empty: not ended
}

// New returns a Judge of some streams.
func New(streams ...Stream) *Judge {
	return &Judge{
		streams: streams, users: make(map[string]*user), pushes: make(map[uint64]*push),
		received: make([]int64, len(streams)), repeated: make([]int64, len(streams)),
	}
}

// Watch sets functions that are called while locks are held, so they must not call the Judge: found for each violation
// but a missing event, and settled when a stream brought the end of a message, with the time since its last
// acknowledgement. Call Watch before any other method.
func (j *Judge) Watch(found func(history.Violation), settled func(stream int, took time.Duration)) {
	j.watch, j.settled = found, settled
}

// Device adds a device of a user, before the first push.
func (j *Judge) Device(userName, deviceName string, acks Acks) {
	j.mu.Lock()
	defer j.mu.Unlock()
	u := j.users[userName]
	if u == nil {
		u = &user{name: userName, byID: make(map[uint64]*message), streams: make([]userStream, len(j.streams))}
		j.users[userName] = u
	}
	u.devices = append(u.devices, device{deviceName, acks})
}

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
		if o.event.Message == id {
			j.judgeLocked(o.stream, u, m, o.event)
		} else {
			u.orphans = append(u.orphans, o)
		}
	}
	return m
}

// Take takes an event of a stream, in the order of the stream.
func (j *Judge) Take(stream int, e Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	u := j.users[e.User]
	if u == nil || !judged(e.Type) {
		return
	}
	j.received[stream]++
	id, err := events.ParseID(e.ID)
	if err != nil {
		j.failLocked(KindInvented, u, nil, stream, e, err.Error())
		return
	}
	if !j.orderLocked(stream, u, id, e) {
		return
	}
	m := u.byID[e.Message]
	if m == nil {
		m = j.byRefLocked(u, e)
	}
	switch {
	case m != nil:
		j.judgeLocked(stream, u, m, e)
	case len(u.orphans) < maxOrphans:
		u.orphans = append(u.orphans, orphan{stream, e})
	default:
		j.failLocked(KindInvented, u, nil, stream, e, "about a message that is not known")
	}
}

// judged reports whether events of a type are about what becomes of a message.
func judged(t events.Type) bool {
	return t == events.Delivered || t == events.Settled || t == events.Undelivered || t == events.Expired || t == events.Dropped
}

// byRefLocked returns the message that the ref of an event names, or nil.
func (j *Judge) byRefLocked(u *user, e Event) *message {
	number, ok := NumberOf(e.Ref)
	if !ok || j.pushes[number] == nil || j.pushes[number].ask.Ref != e.Ref || e.Message == 0 {
		return nil
	}
	if m := j.messageLocked(number, u.name, e.Message); m != nil && m.id == e.Message {
		return m
	}
	return nil
}

// Ref returns the ref of a push with a number, and NumberOf its inverse.
func Ref(number uint64) string { return fmt.Sprint("push-", number) }

// NumberOf returns the number of the push that a ref names.
func NumberOf(ref string) (number uint64, ok bool) {
	n, err := fmt.Sscanf(ref, "push-%d", &number)
	return number, n == 1 && err == nil && ref == Ref(number)
}

// orderLocked checks the id of an event. It reports whether the event has not come before.
func (j *Judge) orderLocked(stream int, u *user, id events.ID, e Event) (fresh bool) {
	s := &u.streams[stream]
	_, again := s.seen[id]
	// What is older than everything that is remembered is taken for a repetition.
	again = again || len(s.order) == remembered && s.order[0].After(id)
	switch {
	case again && j.streams[stream].Repeats:
		j.repeated[stream]++
		return false
	case again:
		j.failLocked(KindTwice, u, u.byID[e.Message], stream, e, "it has come under this id")
		return false
	case !id.After(s.last):
		j.failLocked(KindOrder, u, u.byID[e.Message], stream, e, fmt.Sprintf("it came after %s", s.last))
	}
	if s.last = id; s.seen == nil {
		s.seen = make(map[events.ID]struct{})
	}
	if len(s.order) == remembered {
		delete(s.seen, s.order[0])
		s.order = slices.Clone(s.order[1:])
	}
	s.seen[id] = struct{}{}
	s.order = append(s.order, id)
	return true
}

// judgeLocked judges an event about a message.
func (j *Judge) judgeLocked(stream int, u *user, m *message, e Event) {
	t, ask := &m.told[stream], m.push.ask
	fail := func(kind history.Kind, format string, args ...any) {
		j.failLocked(kind, u, m, stream, e, fmt.Sprintf(format, args...))
	}
	if e.Ref != ask.Ref {
		fail(KindInvented, "its ref is %q, the push has %q", e.Ref, ask.Ref)
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
		if len(e.Without) > 0 {
			fail(KindInvented, "without %s, which was never forgotten", e.Without)
		}
		if ask.Held && !t.undelivered {
			fail(KindDeadline, "it passed, and that was not told")
		}
		if j.settled != nil && m.ackedAt > 0 {
			j.settled(stream, max(0, e.Received-m.ackedAt))
		}
	default:
		waiting(u, m, t, e, fail)
		if e.Reason == events.ReasonLost || e.Reason == events.ReasonRemoved {
			fail(KindInvented, "%s by the reason %q", e.Type, e.Reason)
		}
	}
	t.ended = e.Type
	j.finishLocked(m)
}

// failure reports a violation of the event at hand.
type failure func(kind history.Kind, format string, args ...any)

func (j *Judge) deliveredLocked(u *user, m *message, t *told, e Event, fail failure) {
	i := u.device(e.Device)
	switch {
	case m.push.ask.Level != events.LevelEach:
		fail(KindInvented, "the push asked for its end only")
		return
	case i < 0:
		fail(KindInvented, "there is no device %q", e.Device)
		return
	case t.delivered&(1<<i) != 0:
		fail(KindTwice, "%s has it already", e.Device)
		return
	case u.devices[i].acks == AcksKnown && m.acked&(1<<i) == 0:
		fail(KindInvented, "%s has not acknowledged", e.Device)
	case e.Auto && u.devices[i].acks != AcksAuto:
		fail(KindInvented, "%s acknowledges for itself", e.Device)
	case e.AfterMS < 0:
		fail(KindInvented, "after %d ms", e.AfterMS)
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
	for _, name := range e.Devices {
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

// Open returns the number of messages whose events have not all come, though the server has the message.
func (j *Judge) Open() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.open
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

// Stats are the counters of a Judge. The slices have an element for each stream.
type Stats struct {
	// Asked counts the messages of pushes that asked: a push to three users counts three. Open counts those
	// whose events have not all come, though the server has the message.
	Asked int64
	Open  int
	// Received counts the judged events. Repeated counts those of them that had come before under their id.
	Received, Repeated []int64
	// Violations does not count missing events.
	Violations int64
}

// Stats returns the counters so far.
func (j *Judge) Stats() Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	return Stats{
		Asked: j.asked, Open: j.open, Received: slices.Clone(j.received), Repeated: slices.Clone(j.repeated), Violations: j.broken,
	}
}

func (j *Judge) failLocked(kind history.Kind, u *user, m *message, stream int, e Event, detail string) {
	j.broken++
	j.report(j.violation(kind, u, m, stream, e, detail))
}

func (j *Judge) report(v history.Violation) {
	if j.watch != nil {
		j.watch(v)
	}
}

func (j *Judge) violation(kind history.Kind, u *user, m *message, stream int, e Event, detail string) history.Violation {
	v := history.Violation{Kind: kind, User: u.name, Device: e.Device, ID: e.Message,
		Detail: fmt.Sprintf("%s %s by %s: %s", e.Type, e.ID, j.streams[stream].Name, detail)}
	if m != nil {
		v.Push = m.push.number
	}
	return v
}

// device returns the index of a device, or -1.
func (u *user) device(name string) int {
	return slices.IndexFunc(u.devices, func(d device) bool { return d.name == name })
}

// all returns a bit for each device.
func (u *user) all() uint64 { return ^uint64(0) >> (64 - len(u.devices)) }

// known returns a bit for each device whose acknowledgements the caller knows.
func (u *user) known() (mask uint64) {
	for i, d := range u.devices {
		if d.acks == AcksKnown {
			mask |= 1 << i
		}
	}
	return mask
}

// names returns the names of devices.
func (u *user) names(mask uint64) string {
	var all []string
	for i, d := range u.devices {
		if mask&(1<<i) != 0 {
			all = append(all, d.name)
		}
	}
	if len(all) == 0 {
		return "no device"
	}
	return strings.Join(all, ", ")
}
