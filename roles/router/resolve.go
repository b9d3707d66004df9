package router

import (
	"context"
	"fmt"

	"imgo/envelope"
)

// Claim says whether a claim record was the first of its key. Records are told
// apart by their own ids where the request names it: the same record may be in
// the log twice.
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
	if err := p.here(); err != nil {
		return nil, err
	}
	c, ok, err := p.claimed(req.Key)
	if err != nil {
		return nil, err
	}
	same := c.ID == req.Id || len(req.RecordId) == len(c.Record) && [12]byte(req.RecordId) == c.Record
	return &envelope.ClaimReply{Won: ok && same}, nil
}

func (r *Router) indexed(ctx context.Context, partition uint32) (*partition, error) {
	if n := len(*r.table.Load()); partition >= uint32(n) {
		return nil, envelope.Invalid("partition", fmt.Sprintf("is %d, there are %d", partition, n))
	}
	return r.at(ctx, int32(partition))
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
	if n := len(req.Items); n > 0 && !r.cfg.Faults.NoApplied {
		if err := p.wait(ctx, req.Items[n-1].Id); err != nil {
			return nil, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.here(); err != nil {
		return nil, err
	}
	return p.resolveLocked(req), nil
}

// ResolveNow is Resolve from memory, for a caller that must never wait. It applies
// the records itself if they change only mailboxes that are in memory. ok is false
// if the answer would need the store, another goroutine, or a lock that is held.
func (r *Router) ResolveNow(req *envelope.ResolveRequest) (reply *envelope.ResolveReply, ok bool) {
	table := *r.table.Load()
	if !isClosed(r.ready) || int(req.Partition) >= len(table) || r.cfg.Faults.NoApplied {
		return nil, false
	}
	p := table[req.Partition]
	if p == nil || !p.isUp() || !p.mu.TryLock() {
		return nil, false
	}
	defer p.mu.Unlock()
	if p.here() != nil {
		return nil, false
	}
	if n := len(req.Items); n > 0 && !p.applyFromMemoryLocked(req.Items[n-1].Id) {
		return nil, false
	}
	return p.resolveLocked(req), true
}

// resolveLocked answers from what was applied.
func (p *partition) resolveLocked(req *envelope.ResolveRequest) *envelope.ResolveReply {
	r := p.r
	reply := &envelope.ResolveReply{Items: make([]*envelope.Resolved, len(req.Items))}
	now := r.now().UnixMilli()
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
				if r.cfg.Faults.NoApplied && e == nil && item.Id > p.appliedID() {
					res.To = append(res.To, blind(m, item.Id)...)
				}
				continue // void, expired, or every device has it
			}
			for _, s := range m.sessions {
				d := m.device(s.device)
				if d == nil || e.Waiting&(1<<d.Bit) == 0 {
					continue
				}
				res.To = append(res.To, s.target(m.prev(1<<d.Bit, item.Id)))
			}
		}
	}
	return reply
}

// target returns the session as one that is to get a message. It takes one
// allocation for both messages.
func (s *session) target(prev uint64) *envelope.ResolvedTarget {
	t := &struct {
		target  envelope.ResolvedTarget
		address envelope.Address
	}{}
	t.address.Comet, t.address.Session = s.kind.comet, s.id
	t.target.To, t.target.Prev = &t.address, prev
	return &t.target
}

// blind is what an owner would say that answers for a record that it has not
// applied: everyone, after the newest message that it knows of. Only a test
// asks for it (Faults.NoApplied).
func blind(m *mailbox, id uint64) (out []*envelope.ResolvedTarget) {
	for _, s := range m.sessions {
		out = append(out, s.target(m.prev(^uint64(0), id)))
	}
	return out
}
