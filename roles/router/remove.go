package router

import (
	"context"
	"fmt"

	"imgo/envelope"
)

// Remove takes away what is known of a user, as a caller of the API asks: devices,
// the messages that wait, or everything. It removes the effects of every push that was
// accepted before the call, and of every device that was known then. Remove
// answers once the removal is in the log and applied. It returns
// envelope.ErrNotFound if the user has none of the named devices.
func (r *Router) Remove(ctx context.Context, req *envelope.RemoveRequest) (*envelope.RemoveReply, error) {
	removal := req.GetRemoval()
	p, err := r.atEnd(ctx, removal.GetUser())
	if err != nil {
		return nil, err
	}
	a, err := p.accounts.openAndLock(ctx, removal.User)
	if err != nil {
		return nil, err
	}
	reply, devices, err := p.removableLocked(a, removal)
	if err != nil {
		p.mu.Unlock()
		return nil, err
	}
	a.markLeaving(devices)
	p.mu.Unlock()
	defer p.devices().unmarkLeaving(a, devices)

	what := fmt.Sprintf("removal of user %q", removal.User)
	if err := r.appendAndApply(ctx, p, &envelope.Record{Removal: removal}, what); err != nil {
		return nil, err
	}
	return reply, nil
}

// removableLocked returns what a removal takes, and the devices that it forgets.
func (p *partition) removableLocked(a *account, removal *envelope.Removal) (reply *envelope.RemoveReply, devices []string, err error) {
	if p.position.fenced() {
		return nil, nil, errFenced(p.index) // a removal would be void
	}
	p.accounts.expireLocked(a)
	reply = &envelope.RemoveReply{}
	if removal.All || removal.Messages {
		reply.Messages = uint32(len(a.Messages.All()))
	}
	for _, name := range removal.Devices {
		if a.Devices().Find(name) == nil || a.isLeaving(name) {
			continue
		}
		devices = append(devices, name)
		reply.Messages += uint32(a.Messages.Pending(a.Devices().Mask(name)))
	}
	if len(removal.Devices) > 0 && len(devices) == 0 {
		return nil, nil, envelope.Errorf(envelope.CodeNotFound, "user %q has no device %q", a.User(), removal.Devices[0])
	}
	if removal.All {
		devices = a.Devices().Names(^uint64(0))
	}
	reply.Devices = uint32(len(devices))
	return reply, devices, nil
}

// atEnd returns a user's partition once everything was applied that the log has now. A
// push is accepted once it is in the log, which may be before it is applied.
func (r *Router) atEnd(ctx context.Context, user string) (*partition, error) {
	if err := envelope.CheckName("user", user); err != nil {
		return nil, err
	}
	p, err := r.parts.of(ctx, user)
	if err != nil {
		return nil, err
	}
	_, end, err := r.kept.Bounds(ctx, p.index)
	if err != nil {
		return nil, fmt.Errorf("find the end of partition %d: %w", p.index, err)
	}
	if end == 0 {
		return p, nil
	}
	return p, p.wait(ctx, envelope.ID(r.kept.Generation(), end-1))
}

// appendAndApply puts a record into the log and waits until it is applied. what names
// it in an error.
func (r *Router) appendAndApply(ctx context.Context, p *partition, rec *envelope.Record, what string) error {
	id, err := r.append(ctx, p.index, rec, what)
	if err != nil {
		return err
	}
	if err := p.wait(ctx, id); err != nil {
		return err
	}
	_, offset := envelope.SplitID(id)
	if fence, ok := p.fencedAt(); ok && offset > fence {
		return errFenced(p.index)
	}
	return nil
}
