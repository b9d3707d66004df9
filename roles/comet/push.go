package comet

import (
	"context"
	"fmt"
	"time"

	"imgo/envelope"
	"imgo/transport"
)

// Push gives deliveries to this comet's sessions, in order: what one caller
// pushes in one call after another reaches each session in that order. It
// never waits for a client. A session, or a room, that is not here is nobody's
// error: it was, when the sender looked. The reply names the rooms that nobody
// here is in; the caller may spare this comet those (rooms.go).
func (c *Comet) Push(ctx context.Context, req *envelope.PushRequest) (*envelope.PushReply, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("push to comet %s: %w", c.cfg.Name, err)
	}
	c.mu.Lock()
	stopped := c.phase == phaseStopped
	c.mu.Unlock()
	if stopped {
		return nil, envelope.Errorf(envelope.CodeUnavailable, "comet %s has stopped", c.cfg.Name)
	}
	started := time.Now()
	var t tally
	reply := &envelope.PushReply{Seq: c.opener.seq.Load(), Incarnation: c.incarnation}
	for _, d := range req.GetDeliveries() {
		if c.pushOne(d, started, &t) {
			reply.EmptyRooms = append(reply.EmptyRooms, d.GetRoom())
		}
	}
	c.metrics.add(&t)
	c.metrics.push.Observe(time.Since(started).Seconds())
	return reply, nil
}

// pushOne says whether the delivery was for a room that is denied.
func (c *Comet) pushOne(d *envelope.Delivery, now time.Time, t *tally) (denied bool) {
	switch {
	case d == nil:
	case d.GetBacklog() != nil:
		if s := c.table.find(d.GetBacklog().GetTo().GetSession()); s != nil {
			s.backlog(d.GetBacklog(), t)
		} else {
			t[kindBacklog][outGone]++
		}
	case d.GetKick() != nil:
		for _, to := range d.GetKick().GetTo() {
			if s := c.table.find(to.GetSession()); s != nil {
				s.close(envelope.CloseCode(d.GetKick().GetCode()), d.GetKick().GetReason())
			}
		}
	case d.GetNudge() != nil:
		for _, n := range d.GetNudge().GetTo() {
			if s := c.table.find(n.GetTo().GetSession()); s != nil {
				s.nudge(n.GetNewest())
			}
		}
	default:
		denied = c.pushMessage(d, t)
		if d.GetTimeMs() > 0 {
			c.metrics.delivery.Observe(max(now.Sub(time.UnixMilli(d.GetTimeMs())).Seconds(), 0))
		}
	}
	return denied
}

// pushMessage fans one message out and says whether it was for a room that is
// denied. It is encoded once for each wire form.
func (c *Comet) pushMessage(d *envelope.Delivery, t *tally) (denied bool) {
	if len(d.GetLiveId()) > 0 && !c.recent.first(d.GetLiveId()) {
		t[kindLive][outDuplicate]++
		return false
	}
	id := d.GetId()
	if d.GetAll() || d.GetRoom() != "" {
		id = 0 // only named sessions have a mailbox that knows what came before
	}
	m := transport.NewMessage(d.GetOp(), id, d.GetBody())
	switch {
	case d.GetAll():
		c.table.each(func(s *session) { s.deliver(m, 0, false, t) })
	case d.GetRoom() != "":
		give := func(s *session) { s.deliver(m, 0, true, t) }
		return c.table.members(d.GetRoom(), give) == 0 && c.opener.deny(d.GetRoom(), give)
	default:
		for _, to := range d.GetTo() {
			if s := c.table.find(to.GetSession()); s != nil {
				s.deliver(m, to.GetPrev(), false, t)
				continue
			}
			kind := kindLive
			if id != 0 {
				kind = kindKept
			}
			t[kind][outGone]++
		}
	}
	return false
}

// defaultMembers is how many members Rooms lists where the question has no bound.
const defaultMembers = 1000

// Rooms counts the sessions of every room, or lists the members of one.
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
			s.mu.Lock()
			reply.Members = append(reply.Members, s.describe())
			s.mu.Unlock()
		}
	})
	reply.Counts = map[string]uint32{req.GetRoom(): size}
	return reply, nil
}
