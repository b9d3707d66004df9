package logic

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"imgo/envelope"
	"imgo/internal/webhook"
)

// sessionHandler takes what comets ask for their sessions.
type sessionHandler struct {
	*shared
	auth    timedAuthenticator
	backend *webhook.Caller // decides about rooms. It is nil if no rule asks it
}

// Connect admits a session. It checks who the client is. The owner registers the session
// and reads what is pending. Connect publishes the kicks of sessions that this one
// replaces, and answers with the first backlog. A refusal is an *envelope.Error:
// ErrUnauthorized, ErrExpired and ErrRevoked for the token, ErrTooMany for a limit of the
// user's, ErrInvalid for another field, ErrUnavailable for "try again".
//
// Connect does not change r: the caller may give it to another logic.
func (h *sessionHandler) Connect(ctx context.Context, r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
	ctx, end, err := h.life.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	reply, err := h.connect(ctx, r)
	if err == nil {
		h.metrics.connected.Inc()
	} else {
		h.metrics.connects.WithLabelValues(outcome(err)).Inc()
	}
	return reply, err
}

func (h *sessionHandler) connect(ctx context.Context, r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
	if err := checkConnect(r); err != nil {
		return nil, err
	}
	id, err := h.auth.Decide(ctx, r)
	if err != nil {
		return nil, err
	}
	session := copySession(r.GetSession())
	if id.Anonymous {
		id.User = envelope.AnonymousUser(session.GetAddress().GetSession())
	}
	session.User = id.User
	if session.Device, err = bindDevice(session.Device, id.Device); err != nil {
		return nil, err
	}
	session.GlobalKey = session.Key != "" && (id.AnyKey || id.Key == session.Key)
	access := h.cfg.RoomRules.access(&id)
	var toAsk []string
	var refused []*envelope.RoomRefusal
	if access != nil {
		session.Rooms, toAsk, refused = h.cfg.RoomRules.classify(session.Rooms, access)
		toAsk = slices.DeleteFunc(toAsk, func(room string) bool { return slices.Contains(id.Join, room) })
	}
	// The webhook answers for its rooms: no rule is asked.
	refused = slices.DeleteFunc(refused, func(r *envelope.RoomRefusal) bool { return slices.Contains(id.Join, r.GetRoom()) })
	for _, room := range id.Join {
		if !slices.Contains(session.Rooms, room) {
			session.Rooms = append(session.Rooms, room)
		}
	}
	attached, err := ask(ctx, h.owners, id.User, "attach the session", Router.Attach, &envelope.AttachRequest{Session: session})
	if err != nil {
		return nil, err
	}
	// The replaced sessions have left the owner's table, so they are kicked whatever
	// becomes of this one. A kick that cannot be published does not undo the connect:
	// those sessions go on, and their comets announce them again.
	if err := h.kicker.publish(ctx, attached.GetKicks()...); err != nil {
		h.warn.log(err, "replaced sessions live on")
	}
	// A revocation that came between Decide and Attach found no session to close.
	// Recheck finds the revocation.
	if err := h.auth.Recheck(ctx, id); err != nil {
		h.undoAttach(ctx, session)
		return nil, asUnavailable(err)
	}
	return &envelope.ConnectReply{
		User: id.User, Device: session.Device, ExpiresMs: id.ExpiresMS, Partition: uint32(h.owners.partition(id.User)),
		Floor: attached.GetFloor(), Pending: attached.GetPending(), Backlog: attached.GetBacklog(),
		GlobalKey: session.GlobalKey, Rooms: id.Join,
		Access: access, Joined: session.Rooms, ToAsk: toAsk, Refused: refused, Memberships: attached.GetMemberships(),
		Published: attached.GetPublished(),
	}, nil
}

// copySession returns a copy of a session. A change of one of its fields, or an append to its rooms, does not change s.
func copySession(s *envelope.SessionInfo) *envelope.SessionInfo {
	return &envelope.SessionInfo{
		Address: s.Address, User: s.User, Device: s.Device, Key: s.Key, Platform: s.Platform, Remote: s.Remote,
		Generation: s.Generation, Transport: s.Transport, SinceMs: s.SinceMs, Accepts: s.Accepts, Rooms: slices.Clip(s.Rooms),
		Incarnation: s.Incarnation, GlobalKey: s.GlobalKey, RoomsAt: s.RoomsAt, Arrival: s.Arrival,
	}
}

// Join returns an error if a session may not join a room: envelope.ErrForbidden
// if a rule or the backend says so, envelope.ErrAuthUnavailable if the backend does
// not answer.
func (h *sessionHandler) Join(ctx context.Context, r *envelope.JoinRequest) (*envelope.JoinReply, error) {
	ctx, end, err := h.life.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	if err := envelope.CheckRoom("room", r.GetRoom()); err != nil {
		return nil, err
	}
	if h.cfg.RoomRules.join(r.GetRoom()) == JoinWebhook {
		until, err := h.askBackend(ctx, r)
		if err != nil {
			return nil, err
		}
		return &envelope.JoinReply{UntilMs: until}, nil
	}
	if err := h.cfg.RoomRules.check(r.GetRoom(), r.GetAccess()); err != nil {
		return nil, err
	}
	return &envelope.JoinReply{}, nil
}

// Refresh checks the new token of a session, or asks the webhook that decides about
// clients. The session goes on with what the new token allows. A token that is not valid, or that is another user's or
// device's, is an error and changes nothing.
func (h *sessionHandler) Refresh(ctx context.Context, r *envelope.RefreshRequest) (*envelope.RefreshReply, error) {
	ctx, end, err := h.life.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	id, err := h.auth.DecideAgain(ctx, r)
	if err != nil {
		return nil, err
	}
	session := r.GetSession()
	if id.User != session.GetUser() || id.Device != "" && id.Device != session.GetDevice() {
		return nil, envelope.Errorf(envelope.CodeForbidden, "the new token is another user's or device's than the session's")
	}
	reply := &envelope.RefreshReply{ExpiresMs: id.ExpiresMS, Access: h.cfg.RoomRules.access(&id), Rooms: id.Join}
	for _, room := range session.GetRooms() {
		if slices.Contains(id.Join, room) {
			continue
		}
		switch h.cfg.RoomRules.join(room) {
		case JoinToken:
			if h.cfg.RoomRules.check(room, reply.Access) != nil {
				reply.Lost = append(reply.Lost, room)
			}
		case JoinWebhook:
			reply.ToAsk = append(reply.ToAsk, room)
		}
	}
	return reply, nil
}

// undoAttach takes a registration back. If that fails, the owner forgets the
// session when the comet's counts do not have it.
func (h *sessionHandler) undoAttach(ctx context.Context, s *envelope.SessionInfo) {
	// The client may have left meanwhile, which must not end this.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.cfg.LookupTimeout)
	defer cancel()
	err := h.owners.call(ctx, h.owners.partition(s.GetUser()), "detach the session", func(owner Router) error {
		return owner.Detach(ctx, &envelope.DetachRequest{Sessions: []*envelope.Detached{
			{Session: s.GetAddress(), User: s.GetUser(), Device: s.GetDevice(), Reason: "auth"},
		}})
	})
	if err != nil {
		h.warn.log(err, "cannot take back the registration of a refused session")
	}
}

// bindDevice returns the device of a session: the one that the client named,
// which must be the one that its token is bound to, if there is such a one.
func bindDevice(named, bound string) (string, error) {
	switch {
	case bound == "" || named == bound:
		return named, nil
	case named == "":
		return bound, nil
	}
	return "", envelope.Errorf(envelope.CodeUnauthorized, "the token is for another device")
}

// checkConnect checks a request, but for its token.
func checkConnect(r *envelope.ConnectRequest) error {
	s := r.GetSession()
	if s.GetAddress().GetComet() == "" || s.GetAddress().GetSession() == 0 {
		return envelope.Invalid("session", "must name a comet and a session")
	}
	if err := cmp.Or(checkOptional("device", s.GetDevice()), checkOptional("platform", s.GetPlatform())); err != nil {
		return err
	}
	if s.GetKey() != "" {
		if err := envelope.CheckKey("key", s.GetKey()); err != nil {
			return err
		}
	}
	for i, room := range s.GetRooms() {
		if err := envelope.CheckRoom(fmt.Sprintf("rooms[%d]", i), room); err != nil {
			return err
		}
	}
	return nil
}

// CatchUp has the owner read what is pending for a session and publishes it on
// the live log: the answer reaches the comet as a delivery.
func (h *sessionHandler) CatchUp(ctx context.Context, r *envelope.CatchUpRequest) error {
	ctx, end, err := h.life.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	err = h.catchUp(ctx, r)
	h.metrics.catchUps.WithLabelValues(outcome(err)).Inc()
	return err
}

func (h *sessionHandler) catchUp(ctx context.Context, r *envelope.CatchUpRequest) error {
	if r.GetUser() == "" || r.GetTo().GetComet() == "" {
		return envelope.Invalid("to", "must name a session and its user")
	}
	backlog, err := ask(ctx, h.owners, r.GetUser(), "read the backlog", Router.CatchUp, r)
	if err != nil {
		return err
	}
	if backlog == nil {
		return envelope.Errorf(envelope.CodeInternal, "read the backlog: the owner answered nothing")
	}
	if backlog.To == nil {
		backlog.To = r.GetTo()
	}
	key := envelope.RepeatKey(r.GetTo().GetComet(), h.now.ms())
	return h.live.publish(ctx, "publish the backlog", liveRecord{key: key, envelope: &envelope.Envelope{Backlog: backlog}})
}

// Detach tells the owners that sessions are gone, with one call an owner. The
// reply names the partitions whose owners may not know. Repeating the call is
// harmless, and so is not repeating it: the owners learn of it from the comet's
// counts.
func (h *sessionHandler) Detach(ctx context.Context, r *envelope.DetachRequest) (*envelope.PartsReply, error) {
	ctx, end, err := h.life.beginParts(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	groups := make(map[Router][]*envelope.Detached)
	var failed failedParts
	for _, d := range r.GetSessions() {
		p := h.owners.partition(d.GetUser())
		owner, err := h.owners.routers.Owner(p)
		if err != nil {
			failed.add(p, err)
			continue
		}
		groups[owner] = append(groups[owner], d)
	}
	owners := slices.Collect(maps.Keys(groups))
	_ = inParallel(len(owners), parallelCalls, func(i int) error {
		sessions := groups[owners[i]]
		if err := owners[i].Detach(ctx, &envelope.DetachRequest{Sessions: sessions}); err != nil {
			for _, d := range sessions {
				failed.add(h.owners.partition(d.GetUser()), err)
			}
		}
		return nil
	})
	return failed.reply(h.shared, "detach sessions")
}
