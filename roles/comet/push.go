package comet

import (
	"context"
	"fmt"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/transport"
)

// Push gives deliveries to this comet's sessions, in order: what one caller pushes
// in one call after another reaches each session in that order. It never waits for
// a client. A session or a room that is not here is no error, because it was here
// when the sender looked. The reply names the rooms that have no member here. The
// caller may leave this comet out for these rooms (see roomOpener).
func (c *Comet) Push(ctx context.Context, req *envelope.PushRequest) (*envelope.PushReply, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("push to comet %s: %w", c.cfg.Name, err)
	}
	if c.phase.Load() == phaseStopped {
		return nil, envelope.Errorf(envelope.CodeUnavailable, "comet %s has stopped", c.cfg.Name)
	}
	started := time.Now()
	// A single delivery is written at once. Of several deliveries the frames for one
	// session are gathered.
	f := c.newFanout(len(req.GetDeliveries()) > 1)
	reply := &envelope.PushReply{Seq: c.opener.seq.Load(), Incarnation: c.incarnation}
	for _, d := range req.GetDeliveries() {
		if c.pushOne(d, started, f) {
			reply.EmptyRooms = append(reply.EmptyRooms, d.GetRoom())
		}
	}
	f.flush()
	c.metrics.add(&f.tally)
	c.metrics.push.Observe(time.Since(started).Seconds())
	return reply, nil
}

// pushOne reports whether the delivery was for a room that is denied.
func (c *Comet) pushOne(d *envelope.Delivery, now time.Time, f *fanoutWorker) (denied bool) {
	switch {
	case d == nil:
	case d.GetBacklog() != nil:
		if s := c.table.find(d.GetBacklog().GetTo().GetSession()); s != nil {
			s.deliverBacklog(d.GetBacklog(), &f.tally)
		} else {
			f.tally[kindBacklog][outGone] += uint32(len(d.GetBacklog().GetMessages()))
		}
	case d.GetKick() != nil:
		for _, to := range d.GetKick().GetTo() {
			if s := c.table.find(to.GetSession()); s != nil {
				s.close(protocol.CloseCode(d.GetKick().GetCode()), d.GetKick().GetReason())
			}
		}
	case d.GetSessionRooms() != nil:
		for _, to := range d.GetSessionRooms().GetTo() {
			if s := c.table.find(to.GetSession()); s != nil {
				member{s}.followLater(d.GetSessionRooms().GetRooms())
			}
		}
	case d.GetDismiss() != nil:
		c.dismiss(d.GetDismiss())
	case d.GetNudge() != nil:
		for _, n := range d.GetNudge().GetTo() {
			if s := c.table.find(n.GetTo().GetSession()); s != nil {
				s.nudge(n.GetNewest())
			}
		}
	default:
		denied = c.pushMessage(d, f)
		if d.GetTimeMs() > 0 {
			c.metrics.delivery.Observe(max(now.Sub(time.UnixMilli(d.GetTimeMs())).Seconds(), 0))
		}
	}
	return denied
}

// pushMessage gives one message to its sessions and reports whether it was for a
// room that is denied. The message is encoded once for each wire form.
func (c *Comet) pushMessage(d *envelope.Delivery, f *fanoutWorker) (denied bool) {
	if len(d.GetLiveId()) > 0 && !c.recent.add(d.GetLiveId()) {
		f.tally[kindLive][outDuplicate]++
		return false
	}
	id := d.GetId()
	if d.GetAll() || d.GetRoom() != "" {
		id = 0 // comet's rule needs the id before it, which only a message to a named session has
	}
	m := transport.NewMessage(d.GetOp(), id, d.GetBody())
	if !d.GetAll() && d.GetRoom() == "" {
		to := d.GetTo()
		f.each(len(to), func(i int, f *fanoutWorker) {
			if s := c.table.find(to[i].GetSession()); s != nil {
				s.deliver(m, to[i].GetPrev(), false, f)
				return
			}
			kind := kindLive
			if id != 0 {
				kind = kindKept
			}
			f.tally[kind][outGone]++
		})
		return false
	}
	if c.window != nil {
		return c.enqueueBroadcast(d, m)
	}
	l := c.lists.get()
	defer c.lists.put(l)
	switch {
	case d.GetAll():
		c.table.all(l)
	case c.table.members(d.GetRoom(), l.add) == 0:
		denied = c.opener.deny(d.GetRoom(), l.add)
	}
	f.deliverLive(l, m, !d.GetAll())
	return denied
}

// enqueueBroadcast is pushMessage for all or for a room, if there is a flush window.
func (c *Comet) enqueueBroadcast(d *envelope.Delivery, m *transport.Message) (denied bool) {
	room := ""
	if !d.GetAll() {
		room = d.GetRoom()
		if c.table.roomSize(room) == 0 {
			hasMember := false
			if denied = c.opener.deny(room, func(*session) { hasMember = true }); !hasMember {
				return denied
			}
		}
	}
	c.window.enqueue(room, m)
	return false
}

// defaultMembers is how many members Rooms lists if the request has no bound.
const defaultMembers = 1000

// Rooms counts the sessions of every room, or lists the members of one room.
func (c *Comet) Rooms(_ context.Context, req *envelope.RoomsRequest) (*envelope.RoomsReply, error) {
	reply := &envelope.RoomsReply{Sessions: uint32(c.Sessions())}
	if req.GetRoom() == "" {
		reply.Counts = c.table.roomSizes()
		return reply, nil
	}
	limit := int(req.GetMaxMembers())
	if limit == 0 {
		limit = defaultMembers
	}
	size := uint32(0)
	c.table.members(req.GetRoom(), func(s *session) {
		size++
		if len(reply.Members) < limit {
			s.out.Lock()
			reply.Members = append(reply.Members, s.describeLocked())
			s.out.Unlock()
		}
	})
	reply.Counts = map[string]uint32{req.GetRoom(): size}
	return reply, nil
}
