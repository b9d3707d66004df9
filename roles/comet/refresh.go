package comet

import (
	"context"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/transport"
)

// refresh takes a new token of the session's user: auth that is sent again. The
// session goes on until the new token ends, and in the rooms that it allows. Any
// other token is refused and changes nothing.
func (r reader) refresh(p transport.Packet) {
	r.countPacket("refresh")
	auth, err := parseAuth(p, r.out.Conn().Text(), r.comet.cfg.RoomsPerSession)
	if err != nil {
		r.refuse(p, err)
		return
	}
	m := member(r)
	own := m.ownRooms()
	r.out.Lock()
	info := r.describeLocked()
	r.out.Unlock()
	info.Rooms = own
	ctx, cancel := context.WithTimeout(r.comet.calls, r.comet.cfg.CallTimeout)
	defer cancel()
	request := &envelope.RefreshRequest{Session: info, Token: auth.token, Mid: auth.mid}
	if r.comet.cfg.Handshake {
		request.AuthBody = p.Body
	}
	reply, err := r.comet.logic.Refresh(ctx, request)
	if err != nil {
		r.refuse(p, err)
		return
	}
	r.out.Lock()
	r.ownExtrasLocked()
	r.expires, r.rooms.access = reply.GetExpiresMs(), reply.GetAccess()
	r.out.Unlock()
	for _, room := range reply.GetLost() {
		if m.leaveUngranted(room) {
			m.notifyRoom(room, false, "", leftByToken)
		}
	}
	for _, room := range r.comet.withRooms(own, reply.GetRooms())[len(own):] {
		if !m.join(room, r.comet.joinBy()) {
			return
		}
		m.notifyRoom(room, true, "", joinedByAsking)
	}
	r.reply(p, protocol.OpAuthReply, append(r.appendAuthReply(reply.GetExpiresMs()), '}'))
	m.askLater(reply.GetToAsk(), true)
}
