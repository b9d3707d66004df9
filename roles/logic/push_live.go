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
	found, err := h.owners.lookup(ctx, t, "", false)
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

// pushKeys pushes to named sessions. Any router may have them, so all are
// asked, and all must answer.
func (h *pushHandler) pushKeys(ctx context.Context, c *PushCommand) (*PushResult, error) {
	var mu sync.Mutex
	var to []*envelope.Address
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
			for _, s := range reply.GetKeyed() {
				to = append(to, s.GetAddress())
			}
			mu.Unlock()
		}
		return nil
	})
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
