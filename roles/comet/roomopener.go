package comet

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"imgo/envelope"
)

// This file is what spares a comet the messages of rooms that nobody here is
// in (docs/adr/0005-rooms.md). A Push that brings one is answered with the
// room's name: the room is denied, and job leaves this comet out. Before
// somebody who joins a denied room is told so, the live log says that the room
// is open, by the partition that the room's messages go by: whoever reads it
// has read that before any message that was pushed after the join's answer.

// opening is a denied room whose opening is being written to the log.
type opening struct {
	done chan struct{} // closed when it is decided
	err  error         // then: why it failed; nil: the log has it
}

// opener keeps which rooms are denied (in the room shards, under the lock that
// guards their members) and opens them. Safe for concurrent use.
type opener struct {
	comet *Comet
	// seq counts openings. It grows after the members that an opening is for
	// are in their room: a Push that read it before it grew may have denied
	// the room before.
	seq  atomic.Uint64
	full chan struct{} // has a value: too many rooms are denied

	mu sync.Mutex
	// fresh is closed while the log has it that nothing is denied but what the
	// shards have. It is open at the start, when another incarnation of this
	// comet may have denied rooms, and while all that was denied is forgotten.
	fresh chan struct{}
}

func newOpener(c *Comet) *opener {
	return &opener{comet: c, full: make(chan struct{}, 1), fresh: make(chan struct{})}
}

// deny notes that nobody is in room; false: somebody is by now (give was
// called for each), or too many rooms are denied and job is to go on sending.
func (o *opener) deny(room string, give func(*session)) bool {
	rs := o.comet.table.room(room)
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if members := rs.rooms[room]; len(members) > 0 {
		for s := range members {
			give(s)
		}
		return false
	}
	if _, denied := rs.denied[room]; denied {
		return true
	}
	if o.comet.metrics.denied.Add(1) > int64(o.comet.cfg.DeniedRooms) {
		o.comet.metrics.denied.Add(-1)
		select {
		case o.full <- struct{}{}:
		default:
		}
		return false
	}
	rs.denied[room] = nil
	return true
}

// open returns nil once the log has it that job may not leave this comet out
// for room, which has a member; it waits until the time given, no longer.
func (o *opener) open(room string, until time.Time) error {
	op, lead := o.begin(room)
	if op == nil {
		select {
		case <-o.freshness(): // nearly always
			return nil
		default:
		}
	}
	ctx, cancel := context.WithDeadline(o.comet.calls, until)
	defer cancel()
	for op != nil {
		if lead {
			op.err = o.throw(ctx, room, o.seq.Add(1))
			o.end(room, op)
		}
		select {
		case <-op.done:
			if op.err == nil {
				op = nil
			} else if lead {
				return op.err
			} else {
				op, lead = o.begin(room) // its time was up, not mine
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	select {
	case <-o.freshness(): // asked after the room was seen not to be denied
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// begin is the opening of a denied room that somebody has joined, or nil where
// the room is not denied. lead says that the caller is to carry it out. Until
// it has ended the room has a member and cannot be denied again.
func (o *opener) begin(room string) (op *opening, lead bool) {
	rs := o.comet.table.room(room)
	rs.mu.Lock()
	defer rs.mu.Unlock()
	op, denied := rs.denied[room]
	if !denied {
		return nil, false
	}
	if op == nil {
		op, lead = &opening{done: make(chan struct{})}, true
		rs.denied[room] = op
	}
	return op, lead
}

func (o *opener) end(room string, op *opening) {
	rs := o.comet.table.room(room)
	rs.mu.Lock()
	if op.err == nil {
		delete(rs.denied, room)
		o.comet.metrics.denied.Add(-1)
	} else {
		rs.denied[room] = nil // the next one who joins tries again
	}
	rs.mu.Unlock()
	close(op.done)
}

// Pauses between tries to write an opening to the log.
const (
	firstOpenPause = 5 * time.Millisecond
	lastOpenPause  = 200 * time.Millisecond
)

// throw has logic write an opening to the log, and tries again until ctx is
// done: a call may go to a logic that hangs, and the next to another.
func (o *opener) throw(ctx context.Context, room string, seq uint64) error {
	c := o.comet
	opened := &envelope.RoomOpened{Comet: c.cfg.Name, Room: room, Seq: seq, Incarnation: c.incarnation}
	for pause := firstOpenPause; ; pause = min(2*pause, lastOpenPause) {
		call, cancel := context.WithTimeout(ctx, c.cfg.CallTimeout/2)
		err := c.logic.RoomOpened(call, opened)
		cancel()
		if err == nil {
			return nil
		}
		c.metrics.callErrors.WithLabelValues("room_opened").Inc()
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}

func (o *opener) freshness() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.fresh
}

// run tells the jobs to forget what they know of this comet: once at the
// start, since nobody here knows what an earlier incarnation denied, and
// whenever too many rooms are denied. Whoever joins a room meanwhile waits.
func (o *opener) run(stop <-chan struct{}) {
	for {
		// After all that is to be forgotten, so that it is newer than any of it.
		if o.throw(o.comet.calls, "", o.seq.Add(1)) != nil {
			return // the comet is stopping
		}
		o.mu.Lock()
		close(o.fresh)
		o.mu.Unlock()
		select {
		case <-o.full:
		case <-stop:
			return
		}
		o.mu.Lock()
		o.fresh = make(chan struct{})
		o.mu.Unlock()
		// Whoever finds a room no longer denied from here on finds fresh open.
		o.comet.metrics.denied.Add(-o.comet.table.forgetDenied())
	}
}

// forgetDenied empties the denied sets, but for rooms that are being opened,
// and counts what it removed.
func (t *table) forgetDenied() (n int64) {
	for i := range t.rooms {
		rs := &t.rooms[i]
		rs.mu.Lock()
		for room, op := range rs.denied {
			if op == nil {
				delete(rs.denied, room)
				n++
			}
		}
		rs.mu.Unlock()
	}
	return n
}
