package router

import (
	"context"
	"fmt"

	"imgo/envelope"
	"imgo/store"
)

// Take reads what waits on a user's default cursor and acknowledges it, as
// the 2016 store's /1/msg/get does. Every push that was accepted before the call
// is seen. It answers once the acknowledgement is in the log.
func (r *Router) Take(ctx context.Context, req *envelope.TakeRequest) (*envelope.TakeReply, error) {
	if err := envelope.CheckName("user", req.User); err != nil {
		return nil, err
	}
	p, err := r.of(ctx, req.User)
	if err != nil {
		return nil, err
	}
	// A push is accepted once it is in the log, which may be before it is applied.
	_, end, err := r.kept.Bounds(ctx, p.index)
	if err != nil {
		return nil, fmt.Errorf("find the end of partition %d: %w", p.index, err)
	}
	if end > 0 {
		if err := p.wait(ctx, envelope.ID(r.kept.Generation(), end-1)); err != nil {
			return nil, err
		}
	}
	limit := orDefault(req.MaxMessages, r.cfg.MailboxLength)
	now := r.now()
	p.mu.Lock()
	m, err := p.mailbox(req.User, now)
	if err == nil && p.fenced() {
		err = errFenced(p.index) // an acknowledgement would be void
	}
	if err != nil {
		p.mu.Unlock()
		return nil, err
	}
	var mask uint64
	if d := m.device(""); d != nil {
		mask = 1 << d.Bit
	}
	var copies []store.MailboxEntry
	var messages []*envelope.Kept
	for _, e := range m.entries {
		if len(copies) < limit && (e.Unclaimed || e.Waiting&mask != 0) && e.TimeMS > req.AfterMs && e.ExpiresMS > now.UnixMilli() {
			copies, messages = append(copies, e.MailboxEntry), append(messages, e.message)
		}
	}
	p.mu.Unlock()
	stored, err := r.store.Bodies(p.index, req.User, copies)
	if err != nil {
		return nil, err
	}
	reply := &envelope.TakeReply{}
	ack := &envelope.Ack{User: req.User}
	for i, k := range messages {
		if k == nil {
			k = stored[i]
		}
		if k != nil {
			reply.Messages = append(reply.Messages, k)
			ack.Ids = append(ack.Ids, k.Id)
		}
	}
	if len(ack.Ids) == 0 {
		return reply, nil
	}
	rec := envelope.Record{Id: envelope.NewRecordID(), TimeMs: now.UnixMilli(), Acks: &envelope.Acks{Acks: []*envelope.Ack{ack}}}
	value, err := rec.MarshalVT()
	if err != nil {
		return nil, fmt.Errorf("encode acknowledgement of user %q: %w", req.User, err)
	}
	offset, err := r.kept.AppendEssential(ctx, p.index, value)
	if err != nil {
		return nil, fmt.Errorf("append acknowledgement of user %q: %w", req.User, err)
	}
	if err := p.wait(ctx, envelope.ID(r.kept.Generation(), offset)); err != nil {
		return nil, err
	}
	if p.isBehindFence(offset) {
		return nil, errFenced(p.index)
	}
	return reply, nil
}
