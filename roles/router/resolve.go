package router

import (
	"context"
	"fmt"

	"imgo/envelope"
)

// Claim says whether the claim record with an id was the first of its key.
func (r *Router) Claim(ctx context.Context, req *envelope.ClaimRequest) (*envelope.ClaimReply, error) {
	p, err := r.indexed(ctx, req.Partition)
	if err != nil {
		return nil, err
	}
	if err := p.wait(ctx, req.Id); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	id, _, err := p.claimed(req.Key)
	return &envelope.ClaimReply{Won: err == nil && id == req.Id}, err
}

func (r *Router) indexed(ctx context.Context, partition uint32) (*partition, error) {
	if err := r.running(ctx); err != nil {
		return nil, err
	}
	if partition >= uint32(len(r.partitions)) {
		return nil, envelope.Invalid("partition", fmt.Sprintf("is %d, there are %d", partition, len(r.partitions)))
	}
	return r.partitions[partition], nil
}

// Resolve says who is to get each record of a batch, as of its place in the
// log: the sessions whose device still waits for it, and for each the id of
// the message that is pending before it. It answers once it has applied the
// last of them.
func (r *Router) Resolve(ctx context.Context, req *envelope.ResolveRequest) (*envelope.ResolveReply, error) {
	p, err := r.indexed(ctx, req.Partition)
	if err != nil {
		return nil, err
	}
	if n := len(req.Items); n > 0 && !r.cfg.Without.Applied {
		if err := p.wait(ctx, req.Items[n-1].Id); err != nil {
			return nil, err
		}
	}
	reply := &envelope.ResolveReply{Items: make([]*envelope.Resolved, len(req.Items))}
	now := r.now().UnixMilli()
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, item := range req.Items {
		res := &envelope.Resolved{}
		reply.Items[i] = res
		for _, user := range item.Users {
			// A user who is not in memory has no session.
			m := p.users[user]
			if m == nil || len(m.sessions) == 0 {
				continue
			}
			e := m.find(item.Id)
			if e == nil || e.ExpiresMS <= now {
				if r.cfg.Without.Applied && e == nil && item.Id > p.appliedID() {
					res.To = append(res.To, blind(m, item.Id)...)
				}
				continue // void, expired, or every device has it
			}
			for _, s := range m.sessions {
				d := m.device(s.Device)
				if d == nil || e.Waiting&(1<<d.Bit) == 0 {
					continue
				}
				res.To = append(res.To, &envelope.ResolvedTarget{
					Comet: s.Address.Comet, Session: s.Address.Session, Prev: m.prev(1<<d.Bit, item.Id),
				})
			}
		}
	}
	return reply, nil
}

// blind is what an owner would say that answers for a record that it has not
// applied: everyone, after the newest message that it knows of. Only a test
// asks for it (Without.Applied).
func blind(m *mailbox, id uint64) (out []*envelope.ResolvedTarget) {
	for _, s := range m.sessions {
		out = append(out, &envelope.ResolvedTarget{
			Comet: s.Address.Comet, Session: s.Address.Session, Prev: m.prev(^uint64(0), id),
		})
	}
	return out
}
