package logic

import (
	"context"
	"slices"
	"sync"

	"imgo/envelope"
)

// pushUsers pushes to the sessions that users have at the moment.
func (h *pushHandler) pushUsers(ctx context.Context, c *PushCommand) (*PushResult, error) {
	t := h.owners.targets(c.Users)
	// All questions come before the first effect: a push that fails because an
	// owner does not answer has reached nobody and may be repeated.
	found, err := h.owners.lookup(ctx, t, want{})
	if err != nil {
		return nil, err
	}
	result := &PushResult{Users: make([]UserResult, len(t.users))}
	var to []*envelope.Address
	for i, user := range t.users {
		sessions := found[user].GetSessions()
		result.Users[i] = UserResult{User: user, Sessions: len(sessions)}
		to = append(to, sessions...)
	}
	result.Sessions = len(to)
	if err := h.publishOnce(ctx, c.IdempotencyKey, result, messagesTo(c, to)); err != nil {
		return nil, err
	}
	for i := range result.Users {
		result.Users[i].Duplicate = result.Duplicate
	}
	return result, nil
}

// pushKeys pushes to named sessions.
func (h *pushHandler) pushKeys(ctx context.Context, c *PushCommand) (*PushResult, error) {
	find := h.sessionsByKey
	if c.KeyUser != "" {
		find = h.sessionsOfUser
	}
	to, err := find(ctx, c)
	if err != nil {
		return nil, err
	}
	result := &PushResult{}
	records := messagesTo(c, to)
	for _, r := range records {
		result.Sessions += len(r.envelope.GetMessage().GetTo())
	}
	if err := h.publishOnce(ctx, c.IdempotencyKey, result, records); err != nil {
		return nil, err
	}
	return result, nil
}

// sessionsOfUser returns the sessions of c.KeyUser that c.Keys name.
func (h *pushHandler) sessionsOfUser(ctx context.Context, c *PushCommand) (to []*envelope.Address, err error) {
	found, err := h.owners.lookup(ctx, h.owners.targets([]string{c.KeyUser}), want{full: true})
	if err != nil {
		return nil, err
	}
	for _, s := range found[c.KeyUser].GetFull() {
		if slices.ContainsFunc(c.Keys, func(key string) bool { return named(s, key) }) {
			to = append(to, s.GetAddress())
		}
	}
	return to, nil
}

// named reports whether key is the session's key or the server's name for it.
func named(s *envelope.SessionInfo, key string) bool {
	return key == s.GetKey() || s.GetAddress().AsKey().HasName(key)
}

// sessionsByKey returns the sessions that c.Keys name without their user. Any
// router may have them, so all are asked, and all must answer.
func (h *pushHandler) sessionsByKey(ctx context.Context, c *PushCommand) ([]*envelope.Address, error) {
	var mu sync.Mutex
	var found []*envelope.SessionInfo
	all := unique(c.Keys)
	err := h.owners.callAll("look up session keys", func(r Router) error {
		for keys := range slices.Chunk(all, lookupChunk) {
			var reply *envelope.LookupReply
			err := repeat(ctx, func() (err error) {
				reply, err = r.Lookup(ctx, &envelope.LookupRequest{Keys: keys})
				return err
			})
			if err != nil {
				return err
			}
			mu.Lock()
			found = append(found, reply.GetKeyed()...)
			mu.Unlock()
		}
		return nil
	})
	return ofOneUser(found), err
}

// ofOneUser returns the sessions that a push to their keys reaches. A key reaches
// one user only: of several that have it, the user whose session is the oldest.
// Anonymous users count as one: a client that came back has the key of its session before.
// So a client cannot take over what is pushed to the key of another one.
func ofOneUser(found []*envelope.SessionInfo) (to []*envelope.Address) {
	oldest := make(map[string]*envelope.SessionInfo, len(found)) // by key
	for _, s := range found {
		first := oldest[s.GetKey()]
		if first == nil || s.GetSinceMs() < first.GetSinceMs() ||
			s.GetSinceMs() == first.GetSinceMs() && s.GetUser() < first.GetUser() {
			oldest[s.GetKey()] = s
		}
	}
	for _, s := range found {
		first := oldest[s.GetKey()]
		if s.GetUser() == first.GetUser() || s.IsAnonymous() && first.IsAnonymous() {
			to = append(to, s.GetAddress())
		}
	}
	return to
}

// pushOpen pushes to a room or to everyone. Only the comets know who that is,
// so no owner is asked and no session is counted.
func (h *pushHandler) pushOpen(ctx context.Context, c *PushCommand) (*PushResult, error) {
	result := &PushResult{}
	message := &envelope.Message{Id: envelope.NewRecordID(), Op: c.Op, Body: c.Body, Room: c.Room, All: c.All}
	records := []liveRecord{{key: c.Room, envelope: &envelope.Envelope{Message: message}}}
	if err := h.publishOnce(ctx, c.IdempotencyKey, result, records); err != nil {
		return nil, err
	}
	return result, nil
}

// messagesTo returns the records that carry a push to sessions.
func messagesTo(c *PushCommand, to []*envelope.Address) []liveRecord {
	return byComet(to, func(to []*envelope.Address) *envelope.Envelope {
		return &envelope.Envelope{Message: &envelope.Message{Id: envelope.NewRecordID(), Op: c.Op, Body: c.Body, To: to}}
	})
}

// publishOnce publishes records unless the idempotency key was used before. In
// that case the result becomes a duplicate's.
func (h *pushHandler) publishOnce(ctx context.Context, key string, result *PushResult, records []liveRecord) error {
	const what = "publish the push"
	if key == "" {
		return h.live.publish(ctx, what, records...)
	}
	claim, won, err := h.claims.claim(ctx, key)
	if err != nil {
		return err
	}
	if !won {
		result.Duplicate, result.Sessions = true, 0
		return nil
	}
	if err := h.live.publish(ctx, what, records...); err != nil {
		h.claims.remember(key, claim)
		return err
	}
	return nil
}
