package comet

import (
	"context"
	"fmt"
	"slices"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/transport"
)

// This file changes which rooms a session is in. The client asks for it, or a
// caller of the API does: the latter's list of rooms comes with the session, or
// later by Members or by a delivery, from any goroutine. What changes a session's
// rooms holds the roomsMu of the session's shard, before all other locks, and
// never waits while it does.

// granted are the rooms that callers of the API have put the session's user into.
type granted struct {
	// at tells the list's age: of two lists the one with the higher at is newer.
	at    uint64
	rooms []string
}

func (g *granted) has(room string) bool { return slices.Contains(g.rooms, room) }

// join returns true once every message that is pushed to the room from then on
// reaches the session. If that is not so in time it closes the session and returns
// false. The client then comes back, perhaps to another comet. It is never a member
// that misses messages without knowing it.
func (s *session) join(room string, until time.Time) bool {
	mu := s.roomsMu()
	mu.Lock()
	s.enter(room)
	mu.Unlock()
	return s.openRoom(room, until)
}

// roomsMu returns the lock under which the session's rooms change.
func (s *session) roomsMu() *roomsMutex { return &s.comet.table.shard(s.id).roomsMu }

// enter puts the session into a room, with roomsMu held. It does nothing if the
// session is in the room, or is over.
func (s *session) enter(room string) {
	s.out.Lock()
	skip := s.retired || s.rooms.has(room)
	s.out.Unlock()
	if skip {
		return
	}
	s.comet.table.join(room, s)
	s.out.Lock()
	s.takeBroadcastsLocked()
	s.ownExtras()
	s.rooms.add(room)
	s.out.Unlock()
}

// openRoom waits until the log says that this comet gets the room's messages.
func (s *session) openRoom(room string, until time.Time) bool {
	if err := s.comet.opener.open(room, until); err != nil {
		s.comet.log.Debug().Err(err).Uint64("session", s.id).Str("room", room).Msg("room could not be opened: session closed")
		s.close(protocol.CloseOverload, "the room cannot be joined now")
		return false
	}
	return true
}

// leave takes the session out of a room. It reports whether it was in it.
func (s *session) leave(room string) bool {
	mu := s.roomsMu()
	mu.Lock()
	defer mu.Unlock()
	return s.exit(room)
}

// exit is leave with roomsMu held.
func (s *session) exit(room string) bool {
	s.out.Lock()
	in := s.rooms.has(room)
	s.out.Unlock()
	if !in {
		return false
	}
	s.comet.table.leave(room, s)
	s.out.Lock()
	s.takeBroadcastsLocked()
	s.rooms.remove(room)
	s.stayLocked(room, 0)
	s.out.Unlock()
	return true
}

// leaveUngranted takes the session out of a room, unless a caller of the API has put
// it there. It reports whether the session was in it.
func (s *session) leaveUngranted(room string) bool {
	mu := s.roomsMu()
	mu.Lock()
	defer mu.Unlock()
	s.out.Lock()
	stay := s.granted.has(room)
	s.out.Unlock()
	return !stay && s.exit(room)
}

// exitAll takes a session that is over out of all rooms, for good.
func (s *session) exitAll() {
	mu := s.roomsMu()
	mu.Lock()
	defer mu.Unlock()
	s.out.Lock()
	s.retired = true
	rooms := s.rooms
	s.out.Unlock()
	for _, room := range rooms {
		s.comet.table.leave(room, s)
	}
}

// ownRooms returns the rooms that the session has joined by itself.
func (s *session) ownRooms() []string {
	s.out.Lock()
	defer s.out.Unlock()
	return slices.DeleteFunc(slices.Clone(s.rooms), s.granted.has)
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
		s.follow(r.GetRooms(), until)
		if room := r.GetLeave(); room != "" && s.leave(room) {
			s.tellRoom(room, false, leftByBackend)
		}
		reply.Sessions++
	}
	return reply, nil
}

// What a client is told of a room that it did not ask for.
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
func (s *session) follow(list *envelope.Memberships, until time.Time) {
	joined, left := s.regrant(list)
	for _, room := range joined {
		if !s.openRoom(room, until) {
			return
		}
		s.tellRoom(room, true, joinedByBackend)
	}
	for _, room := range left {
		s.tellRoom(room, false, leftByBackend)
	}
}

// regrant puts the session into the rooms of a newer list and takes it out of those
// that are no longer there. A client that has left such a room stays out of it. The
// caller opens the rooms that were joined.
func (s *session) regrant(list *envelope.Memberships) (joined, left []string) {
	mu := s.roomsMu()
	mu.Lock()
	defer mu.Unlock()
	s.out.Lock()
	old := s.granted
	if list.GetAt() <= old.at {
		s.out.Unlock()
		return nil, nil
	}
	s.ownExtras()
	s.granted = granted{list.GetAt(), list.GetRooms()}
	early := s.user == ""
	s.out.Unlock()
	if early {
		return nil, nil
	}
	for _, room := range list.GetRooms() {
		if !old.has(room) {
			s.enter(room)
			joined = append(joined, room)
		}
	}
	for _, room := range old.rooms {
		if !slices.Contains(list.GetRooms(), room) && s.exit(room) {
			left = append(left, room)
		}
	}
	return joined, left
}

// takeGranted puts a session that has just been authenticated into the rooms that
// callers of the API have put its user into. list came with the session. A newer
// one may have come before it.
func (s *session) takeGranted(user string, list *envelope.Memberships) []string {
	mu := s.roomsMu()
	mu.Lock()
	defer mu.Unlock()
	s.out.Lock()
	s.user = user
	if list.GetAt() > s.granted.at {
		s.ownExtras()
		s.granted = granted{list.GetAt(), list.GetRooms()}
	}
	rooms := s.granted.rooms
	s.out.Unlock()
	for _, room := range rooms {
		s.enter(room)
	}
	return rooms
}

// followLater has a worker follow a list of rooms that came by a delivery, whose
// goroutine must not wait.
func (s *session) followLater(list *envelope.Memberships) {
	s.out.Lock()
	newer := list.GetAt() > s.granted.at && s.state <= stateLive
	s.out.Unlock()
	if newer {
		s.comet.workers.Run(&following{s, list})
	}
}

// following is a list of rooms that a session has yet to follow.
type following struct {
	*session
	list *envelope.Memberships
}

// Run follows the list.
func (f *following) Run() { f.follow(f.list, f.comet.joinBy()) }

// tellRoom tells a client of version 2 that the server has put it into a room, or
// has taken it out. A client that has joined or left the room again since is told
// nothing, and so is one that does not take what it is sent.
func (s *session) tellRoom(room string, joined bool, reason string) {
	s.tellRoomCode(room, joined, "", reason)
}

// tellRoomCode is tellRoom with a code of why the client is not in the room; empty: none.
func (s *session) tellRoomCode(room string, joined bool, code envelope.Code, reason string) {
	s.out.Lock()
	defer s.out.Unlock()
	if s.gen != genV2 || s.state != stateLive || s.rooms.has(room) != joined {
		return
	}
	body := append(make([]byte, 0, 128), `{"room":`...)
	body = appendQuoted(body, room)
	body = fmt.Appendf(body, `,"joined":%t`, joined)
	if code != "" {
		body = fmt.Appendf(body, `,"code":"%s"`, code)
	}
	body = append(body, `,"reason":`...)
	body = append(appendQuoted(body, reason), '}')
	s.sendReplyLocked(transport.EncodeReply(s.form, protocol.Version2, protocol.OpRoomChanged, 0, 0, body))
}

// admit asks logic whether the session, which has joined so many rooms by itself, may join a
// room. It returns until when, in Unix milliseconds; 0: for ever. A session that is in the room
// already is not asked about, unless it has to leave the room at some time.
func (s *session) admit(room string, joined int) (untilMS int64, err error) {
	s.out.Lock()
	granted, in := s.granted.has(room), s.rooms.has(room)
	ends := slices.ContainsFunc(s.stays, func(e stay) bool { return e.room == room })
	ruled := s.access.GetRuled()
	s.out.Unlock()
	if granted || in && !ends {
		return 0, nil
	}
	if limit := s.comet.cfg.RoomsPerSession; !in && joined >= limit {
		return 0, tooManyRooms(limit)
	}
	if !ruled {
		return 0, nil
	}
	return s.ask(room)
}

// ask asks logic whether the session may be in a room.
func (s *session) ask(room string) (untilMS int64, err error) {
	s.out.Lock()
	info, access := s.describeLocked(), s.access
	s.out.Unlock()
	ctx, cancel := context.WithTimeout(s.comet.calls, s.comet.cfg.CallTimeout)
	defer cancel()
	reply, err := s.comet.logic.Join(ctx, &envelope.JoinRequest{Session: info, Room: room, Access: access})
	return reply.GetUntilMs(), err
}

func tooManyRooms(limit int) *envelope.Error {
	return envelope.Errorf(envelope.CodeTooMany, "a session may be in at most %d rooms", limit)
}

// changeRoom puts the session into one room only, or into none, as goim did: the
// rooms that callers of the API have put it into do not count.
func (r reader) changeRoom(p transport.Packet) {
	room, ok := r.room(p, true)
	if !ok {
		return
	}
	var until int64
	if room != "" {
		var err error
		if until, err = r.admit(room, 0); err != nil {
			r.refuse(p, err)
			return
		}
	}
	r.dropAsks("")
	for _, have := range r.ownRooms() {
		if have != room {
			r.leave(have)
		}
	}
	if room != "" && !r.joinUntil(room, until) {
		return
	}
	r.reply(p, protocol.OpChangeRoomReply, p.Body)
}

func (r reader) joinRoom(p transport.Packet) {
	room, ok := r.room(p, false)
	if !ok {
		return
	}
	until, err := r.admit(room, len(r.ownRooms()))
	if err != nil {
		r.refuse(p, err)
		return
	}
	if r.joinUntil(room, until) {
		r.reply(p, protocol.OpJoinRoomReply, p.Body)
	}
}

func (r reader) leaveRoom(p transport.Packet) {
	if room, ok := r.room(p, false); ok {
		r.dropAsks(room)
		r.leave(room)
		r.reply(p, protocol.OpLeaveRoomReply, p.Body)
	}
}

// joinBy returns when a join that begins now must be done.
func (c *Comet) joinBy() time.Time { return time.Now().Add(c.cfg.CallTimeout) }
