package job

import (
	"sync"
	"sync/atomic"

	"imgo/envelope"
)

// This file remembers which comets have answered that a room has no member there, so
// that they get no messages of that room (docs/adr/0005-rooms.md).
//
// A room's messages and the records that open the room on a comet are in one partition,
// in order. Each partition's reader has denials of its own, from its first read until
// it ends or skips records. An answer counts only if the reader has read nothing newer
// about the comet since it queued the delivery.

// denials are those of one reader. Only the reader's goroutine uses them; answers go to
// the cometDenials.
type denials struct {
	budget *roomBudget
	comets map[string]*cometDenials
}

// cometDenials are the rooms that one comet has denied. It is safe for concurrent use.
type cometDenials struct {
	comet  Comet // another value is another process
	budget *roomBudget

	mu sync.Mutex
	// ended is set when the comet was replaced or the reader has ended. After that rooms
	// stays empty, because no reader would return its rooms to the budget.
	ended bool
	rooms map[string]struct{}
	// opened is the highest RoomOpened.seq that was read, of each incarnation of the
	// comet. There is nearly always one.
	opened map[uint64]uint64
}

// roomBudget bounds the rooms that all denials of a job remember.
type roomBudget struct {
	max  int64
	used atomic.Int64
}

// of returns the denials of a comet, empty ones if it is new.
func (d *denials) of(name string, comet Comet) *cometDenials {
	c := d.comets[name]
	if c != nil && c.comet == comet {
		return c
	}
	if c != nil {
		c.end()
	}
	c = &cometDenials{comet: comet, budget: d.budget, rooms: make(map[string]struct{}), opened: make(map[uint64]uint64)}
	d.comets[name] = c
	return c
}

// roomOpened applies an envelope of the log: a comet has a member in a room or, if the
// room is empty, all its denials are void.
func (d *denials) roomOpened(o *envelope.RoomOpened) {
	c := d.comets[o.GetComet()]
	switch {
	case c == nil:
	case o.GetRoom() == "":
		c.end()
		delete(d.comets, o.GetComet())
	default:
		c.mu.Lock()
		defer c.mu.Unlock()
		if _, denied := c.rooms[o.GetRoom()]; denied {
			delete(c.rooms, o.GetRoom())
			c.budget.used.Add(-1)
		}
		c.opened[o.GetIncarnation()] = max(c.opened[o.GetIncarnation()], o.GetSeq())
	}
}

// clear forgets everything: the reader has ended, or has skipped records that may have
// opened a room.
func (d *denials) clear() {
	for name, c := range d.comets {
		c.end()
		delete(d.comets, name)
	}
}

// prune forgets the comets that are gone once they outnumber the others.
func (d *denials) prune(comets Comets, alive int) {
	if len(d.comets) <= 2*alive+8 {
		return
	}
	for name, c := range d.comets {
		if comets.Comet(name) == nil {
			c.end()
			delete(d.comets, name)
		}
	}
}

// has reports whether the comet has denied the room.
func (c *cometDenials) has(room string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, denied := c.rooms[room]
	return denied
}

// learn notes that a comet has denied a room of this partition.
func (c *cometDenials) learn(from Comet, reply *envelope.PushReply, room string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || from != c.comet || reply.GetSeq() < c.opened[reply.GetIncarnation()] {
		return // a member may have joined since
	}
	if _, known := c.rooms[room]; known {
		return
	}
	if c.budget.used.Add(1) > c.budget.max {
		// Without its denials the comet gets messages that it denies again.
		c.budget.used.Add(-1)
		c.forgetLocked()
		return
	}
	c.rooms[room] = struct{}{}
}

// forgetLocked forgets the rooms and returns them to the budget.
func (c *cometDenials) forgetLocked() {
	c.budget.used.Add(-int64(len(c.rooms)))
	clear(c.rooms)
}

// end forgets the rooms for good.
func (c *cometDenials) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.forgetLocked()
}
