package router

import (
	"cmp"
	"context"
	"slices"
	"time"

	"imgo/envelope"
)

// This file keeps the rooms that callers of the API have put users into. The
// mailbox has them, so that they are stored and moved with it.

// maxRoomReminders is how often sessions are told a change of the memberships,
// with a pause that doubles each time: for about a minute. A comet that takes
// none of them is dead, and its sessions are announced again or gone.
const maxRoomReminders = 6

// roomReminder says when the sessions of an account are told its memberships.
type roomReminder struct {
	at    time.Time
	pause time.Duration
	times int
}

// Memberships returns a user's memberships and sessions, once the record of the
// request was applied.
func (r *Router) Memberships(ctx context.Context, req *envelope.MembershipsRequest) (*envelope.MembershipsReply, error) {
	if err := envelope.CheckName("user", req.GetUser()); err != nil {
		return nil, err
	}
	p, err := r.parts.of(ctx, req.User)
	if err != nil {
		return nil, err
	}
	if req.Floor == 0 {
		p.applyFromMemory()
	} else if err := p.wait(ctx, req.Floor); err != nil {
		return nil, err
	}
	a, err := p.accounts.openAndLock(ctx, req.User)
	if err != nil {
		return nil, err
	}
	defer p.mu.Unlock()
	reply := &envelope.MembershipsReply{
		Memberships: cmp.Or(a.Rooms().Memberships(), &envelope.Memberships{}), Limit: uint32(p.cfg.RoomsPerUser),
	}
	for _, s := range a.sessions {
		reply.Sessions = append(reply.Sessions, s.address().Address())
	}
	return reply, nil
}

// membershipLocked applies a change of the memberships.
func (ap *applier) membershipLocked(id uint64, rec *envelope.Record) error {
	p, change := ap.p, rec.Membership
	if !ap.storableLocked(id, change.Room, "room") {
		return nil // set aside
	}
	return ap.withLocked(id, change.User, 64, func(a *account) {
		if a.Rooms().Set(id, change.Room, change.Member, rec.TimeMs, p.cfg.RoomsPerUser) && len(a.sessions) > 0 {
			p.remindRoomsLocked(a)
		}
	})
}

// userRoomsLocked applies a record that repeats the memberships.
func (ap *applier) userRoomsLocked(id uint64, rec *envelope.Record) error {
	return ap.withLocked(id, rec.UserRooms.User, 64, func(a *account) { a.Rooms().Restore(rec.UserRooms.Rooms, rec.TimeMs) })
}

// remindRoomsLocked has the sessions of an account told its memberships, soon.
// Logic has told them already, if it could.
func (p *partition) remindRoomsLocked(a *account) {
	p.accounts.reminders[a] = &roomReminder{at: p.now().Add(p.cfg.WatchInterval), pause: p.cfg.WatchInterval}
}

// roomsToNotify is what the sessions of an account on one comet are to be told. A session that knows it already ignores it.
type roomsToNotify struct {
	p       *partition
	account *account
	rooms   *envelope.SessionRooms
}

// undo has the sessions of the account told the rooms again.
func (r roomsToNotify) undo() {
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	if len(r.account.sessions) > 0 {
		r.p.remindRoomsLocked(r.account)
	}
}

// dueReminders returns what is to be told now, for each comet of a user on its own. A user with a session on a comet that is
// busy waits.
func (p *partition) dueReminders(now time.Time, busy func(comet string) bool) (list []roomsToNotify) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for a, reminder := range p.accounts.reminders {
		if now.Before(reminder.at) || slices.ContainsFunc(a.sessions, func(s *session) bool { return busy(s.kind.comet) }) {
			continue
		}
		byComet := make(map[string]*envelope.SessionRooms)
		for _, s := range a.sessions {
			rooms := byComet[s.kind.comet]
			if rooms == nil {
				rooms = &envelope.SessionRooms{Rooms: a.Rooms().Memberships()}
				byComet[s.kind.comet] = rooms
				list = append(list, roomsToNotify{p, a, rooms})
			}
			rooms.To = append(rooms.To, s.address().Address())
		}
		if reminder.times++; reminder.times == maxRoomReminders {
			delete(p.accounts.reminders, a)
			continue
		}
		reminder.pause *= 2
		reminder.at = now.Add(reminder.pause)
	}
	return list
}
