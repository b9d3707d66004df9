package verify

import "sync/atomic"

// Falsify is a way to falsify what a device received.
type Falsify string

// The ways to falsify. Each happens once.
const (
	FalsifyLose   Falsify = "lose"   // a message is not recorded, however often it arrives
	FalsifyRepeat Falsify = "repeat" // a message is recorded twice
	FalsifySwap   Falsify = "swap"   // two messages are recorded in the wrong order
)

var falsifies = []Falsify{FalsifyLose, FalsifyRepeat, FalsifySwap}

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
