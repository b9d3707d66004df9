package job

import (
	"sync"
	"sync/atomic"

	"imgo/envelope"
)

// This file keeps which comets have said that nobody there is in a room, so
// that they are left out (docs/adr/0005-rooms.md). What makes it exact: a
// room's messages and what says that the room is open on a comet lie in one
// partition, in order; each partition's reader keeps its own denials, from
// when it begins to read to when it ends or skips something; and an answer
// counts only if nothing newer about the same comet was read since the
// question was queued.

// denials are one reader's. Only the reader's goroutine uses it; what comes
// of answers goes to the denial.
type denials struct {
	budget *budget
	comets map[string]*denial
}

// denial is which rooms one comet has denied. Safe for concurrent use.
type denial struct {
	comet  Comet // who is asked; another value is another comet
	budget *budget

	mu    sync.Mutex
	dead  bool // was replaced, or its reader has ended: nobody would ask it or give its budget back
	rooms map[string]struct{}
	// opened is the highest RoomOpened.seq that was read, of each incarnation
	// (nearly always one) of the comet.
	opened map[uint64]uint64
}

// budget bounds the rooms that all denials of a job remember.
type budget struct {
	max  int64
	used atomic.Int64
}

// of is a comet's denial, a new one if the comet was not asked before.
func (d *denials) of(name string, comet Comet) *denial {
	e := d.comets[name]
	if e != nil && e.comet == comet {
		return e
	}
	if e != nil {
		e.end()
	}
	e = &denial{comet: comet, budget: d.budget, rooms: make(map[string]struct{}), opened: make(map[uint64]uint64)}
	d.comets[name] = e
	return e
}

// open notes what the log says: a comet has a member in a room or, where that
// is empty, is to be asked about every room.
func (d *denials) open(o *envelope.RoomOpened) {
	e := d.comets[o.GetComet()]
	switch {
	case e == nil: // every question is yet to come
	case o.GetRoom() == "":
		e.end()
		delete(d.comets, o.GetComet())
	default:
		e.mu.Lock()
		defer e.mu.Unlock()
		if _, denied := e.rooms[o.GetRoom()]; denied {
			delete(e.rooms, o.GetRoom())
			e.budget.used.Add(-1)
		}
		e.opened[o.GetIncarnation()] = max(e.opened[o.GetIncarnation()], o.GetSeq())
	}
}

// forget drops everything: the reader has ended, or has skipped records, which
// may have said that a room is open.
func (d *denials) forget() {
	for name, e := range d.comets {
		e.end()
		delete(d.comets, name)
	}
}

// prune drops the comets that are gone once they are more than those that are
// not.
func (d *denials) prune(comets Comets, alive int) {
	if len(d.comets) <= 2*alive+8 {
		return
	}
	for name, e := range d.comets {
		if comets.Comet(name) == nil {
			e.end()
			delete(d.comets, name)
		}
	}
}

// has says whether the comet has denied the room.
func (e *denial) has(room string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, denied := e.rooms[room]
	return denied
}

// learn takes what a comet answered about a room of this partition.
func (e *denial) learn(from Comet, reply *envelope.PushReply, room string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dead || from != e.comet || reply.GetSeq() < e.opened[reply.GetIncarnation()] {
		return // somebody may have joined since
	}
	if _, known := e.rooms[room]; known {
		return
	}
	if e.budget.used.Add(1) > e.budget.max {
		// It costs that the comet is asked again.
		e.budget.used.Add(-1)
		e.drop()
		return
	}
	e.rooms[room] = struct{}{}
}

// drop forgets the rooms. Holds mu.
func (e *denial) drop() {
	e.budget.used.Add(-int64(len(e.rooms)))
	clear(e.rooms)
}

// end forgets the rooms for good.
func (e *denial) end() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dead = true
	e.drop()
}
