package verify

import (
	"strings"
	"sync/atomic"

	"imgo/internal/events"
)

// Falsify is a way to falsify what a device received.
type Falsify string

// The ways to falsify. Each happens once. Those of events need Config.Events.
const (
	FalsifyLose   Falsify = "lose"   // a message is not recorded, however often it arrives
	FalsifyRepeat Falsify = "repeat" // a message is recorded twice
	FalsifySwap   Falsify = "swap"   // two messages are recorded in the wrong order

	FalsifyEventLose   Falsify = "event-lose"   // an event of GET /v1/events is not recorded
	FalsifyEventRepeat Falsify = "event-repeat" // an event is recorded twice
	FalsifyEventSwap   Falsify = "event-swap"   // two events of a user are recorded in the wrong order
	FalsifyEventInvent Falsify = "event-invent" // the end of a message that nobody pushed is recorded
)

var falsifies = []Falsify{
	FalsifyLose, FalsifyRepeat, FalsifySwap, FalsifyEventLose, FalsifyEventRepeat, FalsifyEventSwap, FalsifyEventInvent,
}

// ofEvents reports whether an event is falsified, and not a message.
func (f Falsify) ofEvents() bool { return strings.HasPrefix(string(f), "event-") }

// falsifyAfter is the number of messages that are recorded correctly before the false record.
const falsifyAfter = 10

// falsifier records the kept messages of a device, not always correctly. Except for done, only the
// goroutine that handles the messages of the device uses it.
type falsifier struct {
	how     Falsify
	n       int       // number of messages that the device received for the first time
	highest uint64    // id of the last of them
	lost    uint64    // id of the message that is not recorded
	held    *received // message that is recorded after the next one of its session
	done    atomic.Bool
}

func (f *falsifier) got(d *device, m received) {
	fresh := m.id > f.highest
	if fresh {
		f.n, f.highest = f.n+1, m.id
	}
	now := fresh && f.n >= falsifyAfter && !f.done.Load()
	switch held := f.held; {
	case held != nil && held.session == m.session:
		f.held = nil
		d.record(m)
		d.record(*held)
		f.done.Store(true)
	case held != nil: // its session has ended, so it is recorded correctly, and this one is held instead
		d.record(*held)
		f.held = &m
	case now && f.how == FalsifyLose:
		f.lost = m.id
		f.done.Store(true)
	case f.how == FalsifyLose && f.lost == m.id:
	case now && f.how == FalsifyRepeat:
		d.record(m)
		d.record(m)
		f.done.Store(true)
	case now && f.how == FalsifySwap:
		f.held = &m
	default:
		d.record(m)
	}
}

// eventFalsifier records events, not always correctly. Except for done, only the goroutine that follows the events uses it.
type eventFalsifier struct {
	how  Falsify
	run  string           // the users' names begin with it
	n    int              // number of ends of messages so far
	held *events.Document // event that is recorded after the next one of its user, or that the invented one follows
	done atomic.Bool
}

// change returns what is recorded of the events of an answer. It falsifies the end of a message.
func (f *eventFalsifier) change(list []events.Document) (recorded []events.Document) {
	for _, e := range list {
		if !strings.HasPrefix(e.Data.User, f.run) {
			continue
		}
		if held := f.held; held != nil && held.Data.User == e.Data.User {
			switch {
			case f.how == FalsifyEventSwap:
				recorded = append(recorded, e, *held)
			case recordOf(e) == recordOf(*held): // by its id, the invented event would come after this one
				recorded = append(recorded, e)
				continue
			default:
				invented := *held
				invented.ID, invented.Data.ID, invented.Data.Ref = held.ID+"9999", held.Data.ID+1<<40, ""
				recorded = append(recorded, invented, e)
			}
			f.held = nil
			f.done.Store(true)
			continue
		}
		if e.Type == events.Settled {
			f.n++
		}
		if e.Type != events.Settled || f.n < falsifyAfter || f.held != nil || f.done.Load() {
			recorded = append(recorded, e)
			continue
		}
		switch f.how {
		case FalsifyEventSwap:
			f.held = &e
			continue
		case FalsifyEventInvent:
			f.held = &e
			recorded = append(recorded, e)
			continue
		case FalsifyEventRepeat:
			recorded = append(recorded, e, e)
		}
		f.done.Store(true)
	}
	return recorded
}

// recordOf returns the part of an event's id that names its record.
func recordOf(e events.Document) string {
	record, _, _ := strings.Cut(e.ID, ".")
	return record
}
