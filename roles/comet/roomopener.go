package comet

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"imgo/envelope"
	"imgo/internal/wait"
)

// Pauses between tries to write an opening to the log.
const (
	minOpenPause = 5 * time.Millisecond
	maxOpenPause = 200 * time.Millisecond
)

// opening is a room whose opening is being written to the log.
type opening struct {
	denied bool          // the room was denied before
	every  bool          // with that of every other room of its partition
	done   chan struct{} // closed when err is known
	err    error         // nil: the log has the opening
}

// roomOpener spares a comet the messages of rooms that have no member here
// (docs/adr/0005-rooms.md). A Push that brings one is answered with the room's
// name: the room is denied, and job leaves this comet out. A session that joins a
// denied room is answered only when the live log says that the room is open. That
// record is in the partition of the room's messages, so job reads it before any
// message that was pushed after the answer.
//
// The denied rooms are in the table's room shards, under the lock that guards the
// members. Safe for concurrent use.
type roomOpener struct {
	comet *Comet
	// seq counts openings. It grows after the members that an opening is for are in
	// their room. A Push that read seq before it grew may have denied the room
	// before.
	seq  atomic.Uint64
	full wait.Signal // too many rooms are denied

	// fresh is true while the jobs leave this comet out for no other rooms than the
	// denied ones of the shards. It is false at the start, because an earlier
	// incarnation of this comet may have denied rooms, and while all denied rooms
	// are being forgotten. Each room that is joined meanwhile is opened with every
	// other room of its partition, so that it does not wait for all partitions.
	fresh atomic.Bool
}

func newRoomOpener(c *Comet) *roomOpener {
	return &roomOpener{comet: c, full: wait.NewSignal()}
}

// deny notes that a room has no member, so that job need not send its messages here, and
// returns true. It returns false if job is to go on sending. The room may have members by
// now, for each of which deny calls do. Its opening may be under way. Too many rooms may
// be denied.
func (o *roomOpener) deny(room string, do func(*session)) bool {
	rs := o.comet.table.room(room)
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if members := rs.rooms[room]; len(members) > 0 {
		for s := range members {
			do(s)
		}
		return false
	}
	if op, denied := rs.denied[room]; denied {
		return op == nil // job may have read the opening already
	}
	if o.comet.metrics.denied.Add(1) > int64(o.comet.cfg.DeniedRooms) {
		o.comet.metrics.denied.Add(-1)
		o.full.Set()
		return false
	}
	rs.denied[room] = nil
	return true
}

// open returns nil once the log says that job may not leave this comet out for
// room, which has a member. It returns an error if that is not so by the deadline.
func (o *roomOpener) open(room string, deadline time.Time) error {
	if o.isOpen(room) { // nearly always
		return nil
	}
	ctx, cancel := context.WithDeadline(o.comet.calls, deadline)
	defer cancel()
	for {
		op, lead := o.begin(room)
		if op == nil {
			return nil
		}
		if lead {
			op.err = o.publish(ctx, room, op.every, o.seq.Add(1))
			o.end(room, op)
		}
		select {
		case <-op.done:
			if op.err == nil || lead {
				return op.err
			}
			// The session that wrote the opening gave up; this one has time left.
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// isOpen reports whether open has nothing to wait for.
func (o *roomOpener) isOpen(room string) bool {
	rs := o.comet.table.room(room)
	rs.mu.RLock()
	_, denied := rs.denied[room]
	rs.mu.RUnlock()
	return !denied && o.fresh.Load() // in this order, see run
}

// begin returns the opening of a room that a session has joined, or nil if the room is open.
// With lead the caller must write the opening and call end.
// Until then the room is not denied again, even if its members leave.
func (o *roomOpener) begin(room string) (op *opening, lead bool) {
	rs := o.comet.table.room(room)
	rs.mu.Lock()
	defer rs.mu.Unlock()
	op, denied := rs.denied[room]
	fresh := o.fresh.Load()
	if !denied && fresh {
		return nil, false
	}
	if op == nil {
		op, lead = &opening{denied: denied, every: !fresh, done: make(chan struct{})}, true
		rs.denied[room] = op
	}
	return op, lead
}

func (o *roomOpener) end(room string, op *opening) {
	rs := o.comet.table.room(room)
	rs.mu.Lock()
	switch {
	case !op.denied:
		delete(rs.denied, room)
	case op.err == nil:
		delete(rs.denied, room)
		o.comet.metrics.denied.Add(-1)
	default:
		rs.denied[room] = nil // the next session that joins tries again
	}
	rs.mu.Unlock()
	close(op.done)
}

// publish makes logic write an opening to the log. It tries again until ctx is
// done, because a call may go to a logic that hangs, and the next one to another.
func (o *roomOpener) publish(ctx context.Context, room string, every bool, seq uint64) error {
	c := o.comet
	opened := &envelope.RoomOpened{Comet: c.cfg.Name, Room: room, Seq: seq, Incarnation: c.incarnation, Every: every}
	pause := wait.Backoff{Min: minOpenPause, Max: maxOpenPause}
	for {
		call, cancel := context.WithTimeout(ctx, c.cfg.CallTimeout/2)
		err := c.logic.RoomOpened(call, opened)
		cancel()
		if err == nil {
			return nil
		}
		c.metrics.callErrors.WithLabelValues("room_opened").Inc()
		if done := pause.Sleep(ctx); done != nil {
			return errors.Join(done, err)
		}
	}
}

// run tells the jobs to forget which rooms this comet denied. It does so once at the
// start, because nobody here knows what an earlier incarnation denied, and whenever too
// many rooms are denied.
func (o *roomOpener) run(ctx context.Context) {
	for {
		// seq grows after all that is to be forgotten, so that it is newer.
		if o.publish(o.comet.calls, "", false, o.seq.Add(1)) != nil {
			return // the comet is stopping
		}
		o.fresh.Store(true)
		select {
		case <-o.full:
		case <-ctx.Done():
			return
		}
		// A session whose room is not denied any more sees that fresh is false.
		o.fresh.Store(false)
		o.comet.metrics.denied.Add(-o.comet.table.forgetDenied())
	}
}

// forgetDenied forgets all denied rooms but those that are being opened, and returns
// how many it forgot.
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
