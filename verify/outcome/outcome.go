// Package outcome judges what a push server tells about messages. The caller says which pushes asked for events, which
// messages its devices received and acknowledged, and which events each stream brought. A stream is one way of
// getting events, such as GET /v1/events or a hook. The package reports each violation of these rules, for each
// stream by itself:
//
//   - no event without its cause: a device acknowledged, or a deadline passed;
//   - no cause without its event, once every mailbox is empty;
//   - no event twice, apart from repetitions under the same id where the stream may repeat;
//   - the events of a user come in the order of their ids, and those of a message end with its end;
//   - a deadline is decided at most once, not early, and not after an acknowledgement that prevents it;
//   - a user comes and goes in turn, and at the end is where the caller says (Presence);
//   - what a device sends for the backend comes once for each of its ids, in their order (Publishing).
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
	KindPresence history.Kind = "events: presence"
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

// Event is one event, as a stream brought it.
type Event struct {
	events.Document
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
	// published is the highest id of a message for the backend that the device has begun to send, and answered the highest
	// one that was answered. The ids are 1, 2, 3 and so on.
	published, answered uint64
}

// userStream is what a stream brought of a user.
type userStream struct {
	last  events.ID
	seen  map[events.ID]struct{}
	order []events.ID // the keys of seen, oldest first
	// online is what was told last. upstream has the highest id that was told, for each device.
	online   bool
	upstream map[string]uint64
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

// Watch sets functions that are called while locks are held, so they must not call the Judge. found is called for each
// violation but a missing event. settled is called when a stream brought the end of a message, with the time since its
// last acknowledgement. Call Watch before any other method.
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
	u.devices = append(u.devices, device{name: deviceName, acks: acks})
}

// Add takes an event of a stream, in the order of the stream.
func (j *Judge) Add(stream int, e Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	u := j.users[e.Data.User]
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
	m := u.byID[e.Data.ID]
	if m == nil {
		m = j.byRefLocked(u, e)
	}
	switch {
	case e.Type == events.Online || e.Type == events.Offline:
		j.presenceLocked(stream, u, e)
	case e.Type == events.Upstream:
		j.upstreamLocked(stream, u, e)
	case m != nil:
		j.judgeLocked(stream, u, m, e)
	case len(u.orphans) < maxOrphans:
		u.orphans = append(u.orphans, orphan{stream, e})
	default:
		j.failLocked(KindInvented, u, nil, stream, e, "about a message that is not known")
	}
}

// judged reports whether events of a type are judged.
func judged(t events.Type) bool { return t != events.Read }

// byRefLocked returns the message that the ref of an event names, or nil.
func (j *Judge) byRefLocked(u *user, e Event) *message {
	number, ok := NumberOf(e.Data.Ref)
	if !ok || j.pushes[number] == nil || j.pushes[number].ask.Ref != e.Data.Ref || e.Data.ID == 0 {
		return nil
	}
	if m := j.messageLocked(number, u.name, e.Data.ID); m != nil && m.id == e.Data.ID {
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
	// An event that is older than all remembered ones is taken for a repetition.
	again = again || len(s.order) == remembered && s.order[0].After(id)
	switch {
	case again && j.streams[stream].Repeats:
		j.repeated[stream]++
		return false
	case again:
		j.failLocked(KindTwice, u, u.byID[e.Data.ID], stream, e, "it has come under this id")
		return false
	case !id.After(s.last):
		j.failLocked(KindOrder, u, u.byID[e.Data.ID], stream, e, fmt.Sprintf("it came after %s", s.last))
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
	v := history.Violation{Kind: kind, User: u.name, Device: e.Data.Device, ID: e.Data.ID,
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
