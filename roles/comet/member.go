package comet

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"imgo/envelope"
	"imgo/internal/jsonquote"
	"imgo/protocol"
	"imgo/transport"
)

// member is a session as a member of rooms. It changes which rooms the session is in. The
// client asks for it, or a caller of the API does. The caller's list of rooms comes with
// the session, or later by Members or by a delivery, from any goroutine. A method that
// changes the session's rooms takes the roomsMu of the session's shard first, before all
// other locks, and never waits while it holds it. The suffix RoomsLocked means roomsMu.
type member struct{ *session }

// join returns true once every message that is pushed to the room from then on
// reaches the session. If that is not so in time it closes the session and returns
// false. The client then comes back, perhaps to another comet. It is never a member
// that misses messages without knowing it.
func (m member) join(room string, until time.Time) bool {
	m.enter(room)
	return m.openRoom(room, until)
}

// enter puts the session into a room that is yet to be opened.
func (m member) enter(room string) {
	m.roomsMu().Lock()
	defer m.roomsMu().Unlock()
	m.enterRoomsLocked(room)
}

// roomsMu returns the lock under which the session's rooms change.
func (m member) roomsMu() *sync.Mutex { return &m.comet.table.shard(m.id).roomsMu }

// enterRoomsLocked puts the session into a room. It does nothing if the session is in the
// room, or is over. It takes the outbox's lock itself.
func (m member) enterRoomsLocked(room string) {
	m.out.Lock()
	skip := m.retired || m.rooms.in.has(room)
	m.out.Unlock()
	if skip {
		return
	}
	m.comet.table.join(room, m.session)
	m.out.Lock()
	m.enqueueBroadcastsLocked()
	m.ownExtrasLocked()
	m.rooms.in.add(room)
	m.out.Unlock()
}

// openRoom waits until the log says that this comet gets the room's messages.
func (m member) openRoom(room string, until time.Time) bool {
	if err := m.comet.opener.open(room, until); err != nil {
		m.comet.log.Debug().Err(err).Uint64("session", m.id).Str("room", room).Msg("room could not be opened: session closed")
		m.close(protocol.CloseOverload, "the room cannot be joined now")
		return false
	}
	return true
}

// leave takes the session out of a room. It reports whether it was in it.
func (m member) leave(room string) bool {
	m.roomsMu().Lock()
	defer m.roomsMu().Unlock()
	return m.exitRoomsLocked(room)
}

// exitRoomsLocked takes the session out of a room. It reports whether it was in it.
func (m member) exitRoomsLocked(room string) bool {
	m.out.Lock()
	in := m.rooms.in.has(room)
	m.out.Unlock()
	if !in {
		return false
	}
	m.comet.table.leave(room, m.session)
	m.out.Lock()
	m.enqueueBroadcastsLocked()
	m.rooms.remove(room)
	m.out.Unlock()
	return true
}

// leaveUngranted takes the session out of a room, unless a caller of the API has put
// it there. It reports whether the session was in it.
func (m member) leaveUngranted(room string) bool {
	m.roomsMu().Lock()
	defer m.roomsMu().Unlock()
	return m.leaveUngrantedRoomsLocked(room)
}

// leaveUngrantedRoomsLocked is leaveUngranted for a caller that has locked roomsMu already.
func (m member) leaveUngrantedRoomsLocked(room string) bool {
	m.out.Lock()
	stay := m.rooms.granted.has(room)
	m.out.Unlock()
	return !stay && m.exitRoomsLocked(room)
}

// exitAll takes a session that is over out of all rooms, for good.
func (m member) exitAll() {
	m.roomsMu().Lock()
	defer m.roomsMu().Unlock()
	m.out.Lock()
	m.retired = true
	rooms := m.rooms.in
	m.out.Unlock()
	for _, room := range rooms {
		m.comet.table.leave(room, m.session)
	}
}

// ownRooms returns the rooms that the session has joined by itself.
func (m member) ownRooms() []string {
	m.out.Lock()
	defer m.out.Unlock()
	return m.rooms.own()
}

// Members tells sessions of one user the rooms that callers of the API have put it
// into. It returns once they are in these rooms, and have left the others. A
// session that is not here has ended.
func (c *Comet) Members(ctx context.Context, r *envelope.MembersRequest) (*envelope.MembersReply, error) {
	until := c.joinBy()
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(until) {
		until = deadline
	}
	reply := &envelope.MembersReply{}
	for _, id := range r.GetSessions() {
		s := c.table.find(id)
		if s == nil {
			continue
		}
		m := member{s}
		m.follow(r.GetRooms(), until)
		if room := r.GetLeave(); room != "" && m.leave(room) {
			m.notifyRoom(room, false, "", leftByBackend)
		}
		reply.Sessions++
	}
	return reply, nil
}

// Reasons that a client is told when its rooms change without its asking.
const (
	joinedByBackend = "the backend has put the user into the room"
	leftByBackend   = "the backend has taken the user out of the room"
	leftByToken     = "the new token does not have the room"
	leftInTime      = "the time that the backend gave is over"
	joinedByAsking  = "the backend lets the client in"
)

// follow has the session follow a list of rooms, unless it follows a newer one. It
// waits until the log says that this comet gets the messages of the new ones. A
// session that is not authenticated yet follows it once it is.
func (m member) follow(list *envelope.Memberships, until time.Time) {
	joined, left := m.regrant(list)
	for _, room := range joined {
		if !m.openRoom(room, until) {
			return
		}
		m.notifyRoom(room, true, "", joinedByBackend)
	}
	for _, room := range left {
		m.notifyRoom(room, false, "", leftByBackend)
	}
}

// regrant puts the session into the rooms of a newer list and takes it out of those
// that are no longer there. A client that has left such a room stays out of it. The
// caller opens the rooms that were joined.
func (m member) regrant(list *envelope.Memberships) (joined, left []string) {
	m.roomsMu().Lock()
	defer m.roomsMu().Unlock()
	m.out.Lock()
	old := m.rooms.granted
	if list.GetAt() <= old.at {
		m.out.Unlock()
		return nil, nil
	}
	m.ownExtrasLocked()
	m.rooms.granted = granted{list.GetAt(), list.GetRooms()}
	early := m.user == ""
	m.out.Unlock()
	if early {
		return nil, nil
	}
	for _, room := range list.GetRooms() {
		if !old.has(room) {
			m.enterRoomsLocked(room)
			joined = append(joined, room)
		}
	}
	for _, room := range old.rooms {
		if !slices.Contains(list.GetRooms(), room) && m.exitRoomsLocked(room) {
			left = append(left, room)
		}
	}
	return joined, left
}

// enterGranted puts a session that has just been authenticated into the rooms that
// callers of the API have put its user into. list came with the session. A newer
// one may have come before it.
func (m member) enterGranted(user string, list *envelope.Memberships) []string {
	m.roomsMu().Lock()
	defer m.roomsMu().Unlock()
	m.out.Lock()
	m.user = user
	if list.GetAt() > m.rooms.granted.at {
		m.ownExtrasLocked()
		m.rooms.granted = granted{list.GetAt(), list.GetRooms()}
	}
	rooms := m.rooms.granted.rooms
	m.out.Unlock()
	for _, room := range rooms {
		m.enterRoomsLocked(room)
	}
	return rooms
}

// followLater has a worker follow a list of rooms that came by a delivery, whose
// goroutine must not wait. A session has one such worker at most. It follows the newest list.
func (m member) followLater(list *envelope.Memberships) {
	m.out.Lock()
	defer m.out.Unlock()
	next := m.rooms.next
	if m.state > stateLive || list.GetAt() <= max(m.rooms.granted.at, next.GetAt()) {
		return
	}
	m.ownExtrasLocked()
	m.rooms.next = list
	if next == nil {
		m.comet.workers.Run(following{m})
	}
}

// following is the worker's task.
type following struct{ member }

// Run follows lists until there is no newer one.
func (f following) Run() {
	for list := f.nextList(); list != nil; list = f.nextList() {
		f.follow(list, f.comet.joinBy())
	}
}

// nextList returns the list that the worker is to follow. It returns nil if the worker is done.
func (f following) nextList() *envelope.Memberships {
	f.out.Lock()
	defer f.out.Unlock()
	if f.rooms.next.GetAt() <= f.rooms.granted.at {
		f.rooms.next = nil
	}
	return f.rooms.next
}

// notifyRoom tells a client of version 2 that the server has put it into a room, or
// has taken it out. A client that has joined or left the room again since is told
// nothing, and so is one that does not take what it is sent. code says why the client
// is not in the room. An empty code is left out.
func (m member) notifyRoom(room string, joined bool, code envelope.Code, reason string) {
	m.out.Lock()
	defer m.out.Unlock()
	if m.speaks != protocolV2 || m.state != stateLive || m.rooms.in.has(room) != joined {
		return
	}
	body := append(make([]byte, 0, 128), `{"room":`...)
	body = jsonquote.Append(body, room)
	body = fmt.Appendf(body, `,"joined":%t`, joined)
	if code != "" {
		body = fmt.Appendf(body, `,"code":"%s"`, code)
	}
	body = append(body, `,"reason":`...)
	body = append(jsonquote.Append(body, reason), '}')
	m.sendReplyLocked(transport.EncodeReply(m.form, protocol.Version2, protocol.OpRoomChanged, 0, 0, body))
}

// mayJoin asks logic whether the session, which has joined so many rooms by itself, may join a
// room. It returns until when, in Unix milliseconds. 0 means for ever. It does not ask about a session that
// is in the room already and need not leave it at some time, and returns sameEnd.
func (m member) mayJoin(room string, joined int) (untilMS int64, err error) {
	m.out.Lock()
	granted, in := m.rooms.granted.has(room), m.rooms.in.has(room)
	ends := m.rooms.ends(room)
	ruled := m.rooms.access.GetRuled()
	m.out.Unlock()
	if granted || in && !ends {
		return sameEnd, nil
	}
	if limit := m.comet.cfg.RoomsPerSession; !in && joined >= limit {
		return 0, tooManyRooms(limit)
	}
	if !ruled {
		return 0, nil
	}
	return m.ask(room)
}

// ask asks logic whether the session may be in a room.
func (m member) ask(room string) (untilMS int64, err error) {
	m.out.Lock()
	info, access := m.describeLocked(), m.rooms.access
	m.out.Unlock()
	ctx, cancel := context.WithTimeout(m.comet.calls, m.comet.cfg.CallTimeout)
	defer cancel()
	reply, err := m.comet.logic.Join(ctx, &envelope.JoinRequest{Session: info, Room: room, Access: access})
	return reply.GetUntilMs(), err
}

func tooManyRooms(limit int) *envelope.Error {
	return envelope.Errorf(envelope.CodeTooMany, "a session may be in at most %d rooms", limit)
}

// joinBy returns when a join that begins now must be done.
func (c *Comet) joinBy() time.Time { return time.Now().Add(c.cfg.CallTimeout) }
