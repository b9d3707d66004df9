package router

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/router/mailbox"
	"imgo/store"
)

// Attach registers a session, makes its device known and reads the first backlog of what
// is pending for it. The order matters: a message between two of the steps is in the
// backlog or delivered, or both, and never neither.
func (r *Router) Attach(ctx context.Context, req *envelope.AttachRequest) (*envelope.AttachReply, error) {
	info := req.GetSession()
	if info.GetAddress() == nil {
		return nil, envelope.Invalid("session.address", "is missing")
	}
	if err := envelope.CheckName("session.user", info.User); err != nil {
		return nil, err
	}
	p, err := r.parts.of(ctx, info.User)
	if err != nil {
		return nil, err
	}
	reply := &envelope.AttachReply{}
	var replaced []*session
	if reply.Kicks, replaced, err = p.attach(ctx, info); err != nil {
		return nil, err
	}
	if info.IsAnonymous() {
		reply.Backlog = p.emptyBacklog(info.Address)
		return reply, nil
	}
	if err := p.devices().ensure(ctx, info.User, info.Device); err != nil {
		p.undoAttach(info, replaced)
		return nil, err
	}
	err = p.readBacklog(ctx, &envelope.CatchUpRequest{
		To: info.Address, User: info.User, Device: info.Device, MaxMessages: req.MaxMessages, MaxBytes: req.MaxBytes,
	}, reply)
	if err != nil {
		p.undoAttach(info, replaced)
		return nil, err
	}
	return reply, nil
}

// errReplaced is the error of an attach of a session that newer sessions of its user have replaced.
var errReplaced = envelope.Errorf(envelope.CodeTooMany, "a newer session of the user has replaced this one")

// attach puts a session into the table, within the limit of its user. It
// returns the sessions that this one replaces, and their kicks.
func (p *partition) attach(ctx context.Context, info *envelope.SessionInfo) (kicks []*envelope.Kick, replaced []*session, err error) {
	a, err := p.accounts.openAndLock(ctx, info.User)
	if err != nil {
		return nil, nil, err
	}
	defer p.mu.Unlock()
	address, now := info.Address.AsKey(), p.now()
	if a.isReplaced(address) {
		// The call is made again: it must not replace a session that came since.
		return nil, nil, errReplaced
	}
	// A call that is made again does not count against itself.
	p.removeSessionLocked(a, address, now)
	replace := func(s *session, code protocol.CloseCode, reason string) {
		kicks = append(kicks, &envelope.Kick{To: []*envelope.Address{s.address().Address()}, Code: int32(code), Reason: reason})
		replaced = append(replaced, s)
	}
	var others []*session // those that stay if the limit allows it
	for _, s := range a.sessions {
		switch {
		case info.Key == "" || s.extra == nil || s.extra.key != info.Key:
			others = append(others, s)
		case s.isNewer(info): // logic could not decide about this one for long, and its client came back meanwhile
			return nil, nil, &envelope.Error{
				Code: envelope.CodeTooMany, Field: "key", Message: "is that of a newer session, which has replaced this one",
			}
		default:
			replace(s, protocol.CloseReplacedByKey, "replaced by a newer session with the same key")
		}
	}
	// A session that is refused replaces none.
	if limit := p.cfg.SessionsPerUser; limit > 0 && len(others) >= limit {
		if p.cfg.SessionsPolicy == RefuseSession {
			return nil, nil, envelope.Errorf(envelope.CodeTooMany, "user has %d sessions, %d are allowed", len(others), limit)
		}
		// Clients that came later stay. This one was tried for long, and would be the oldest.
		oldest := slices.DeleteFunc(slices.Clone(others), func(s *session) bool { return s.isNewer(info) })
		excess := len(others) - limit + 1
		if len(oldest) < excess {
			return nil, nil, errReplaced
		}
		if info.Generation != envelope.ClientProtocolV2 && !a.mayReplace(now) {
			return nil, nil, envelope.Errorf(envelope.CodeTooMany, "user has %d sessions, %d are allowed, and one was closed for another lately",
				len(others), limit)
		}
		for _, s := range oldest[:excess] {
			replace(s, protocol.CloseTooManySessions,
				fmt.Sprintf("the user's %d sessions are all that are allowed and this was the oldest", limit))
		}
	}
	for _, s := range replaced {
		p.removeSessionLocked(a, s.address(), now)
		a.noteReplaced(s.address())
	}
	p.addSessionLocked(a, info, len(a.sessions), now)
	return kicks, replaced, nil
}

// undoAttach takes back what attach did. Nobody kicks the replaced sessions then, so
// they are in the table again.
func (p *partition) undoAttach(info *envelope.SessionInfo, replaced []*session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.accounts.byUser[info.User]
	if a == nil || p.gone {
		return
	}
	for _, s := range replaced {
		a.unnoteReplaced(s.address())
		if a.session(s.address()) == nil { // its comet may have announced it meanwhile
			back := s.describe(info.User)
			p.addSessionLocked(a, back, a.placeOf(back), p.now())
		}
	}
	p.removeSessionLocked(a, info.Address.AsKey(), p.now())
}

// detach takes a session out of the table, by its own address, so that a late
// call never takes out a newer session. Its device is noted as seen. detach
// returns an error if the partition is gone.
func (p *partition) detach(d *envelope.Detached) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return notOwned(p.index)
	}
	if a := p.accounts.byUser[d.User]; a != nil {
		p.endSessionLocked(a, d.Session.AsKey(), d.Device, p.now())
	}
	return nil
}

// endSessionLocked takes a session out of the table that has ended at a time by the node's clock. Its device is noted as
// seen until then.
func (p *partition) endSessionLocked(a *account, address envelope.AddressKey, device string, at time.Time) {
	if p.removeSessionLocked(a, address, at) && a.Devices().Seen(device, p.clock.At(at).UnixMilli()) {
		p.accounts.touchLocked(a, 64)
	}
}

// Detach takes sessions out of the table. Those of partitions that are not
// owned here are an error; the others are out all the same.
func (r *Router) Detach(ctx context.Context, req *envelope.DetachRequest) error {
	if err := r.parts.waitReady(ctx); err != nil {
		return err
	}
	var failed error
	for _, d := range req.Sessions {
		if d.GetSession() == nil || d.User == "" {
			continue
		}
		p := r.parts.peek(d.User)
		if p == nil {
			failed = notOwned(r.parts.index(d.User))
		} else if err := p.detach(d); err != nil {
			failed = err
		}
	}
	return failed
}

// CatchUp returns what is pending for a session after an id, a backlog at a
// time, and up to which id that is true. It waits until the owner has applied
// the record that made the session's device known.
func (r *Router) CatchUp(ctx context.Context, req *envelope.CatchUpRequest) (*envelope.Backlog, error) {
	if req.GetTo() == nil {
		return nil, envelope.Invalid("to", "is missing")
	}
	if err := envelope.CheckName("user", req.User); err != nil {
		return nil, err
	}
	p, err := r.parts.of(ctx, req.User)
	if err != nil {
		return nil, err
	}
	if err := p.wait(ctx, req.Floor); err != nil {
		return nil, err
	}
	if req.User == envelope.AnonymousUser(req.To.Session) {
		return p.emptyBacklog(req.To), nil
	}
	var reply envelope.AttachReply
	err = p.readBacklog(ctx, req, &reply)
	if errors.Is(err, envelope.ErrNotReady) {
		// This owner does not know the device though it has applied all that
		// it should: the record is gone (retention) or was never written.
		if err := p.devices().ensure(ctx, req.User, req.Device); err != nil {
			return nil, err
		}
		err = p.readBacklog(ctx, req, &reply)
	}
	if err != nil {
		return nil, err
	}
	return reply.Backlog, nil
}

// emptyBacklog is the answer to the catch-up of an anonymous session, for which
// nothing is kept.
func (p *partition) emptyBacklog(to *envelope.Address) *envelope.Backlog {
	p.mu.Lock()
	defer p.mu.Unlock()
	return &envelope.Backlog{To: to, UpTo: p.position.appliedID()}
}

// readBacklog reads one backlog of what is pending for a session's device into a reply, and what is known of the
// device.
func (p *partition) readBacklog(ctx context.Context, req *envelope.CatchUpRequest, reply *envelope.AttachReply) error {
	now := p.clock.Now()
	a, err := p.accounts.openAndLock(ctx, req.User)
	if err != nil {
		return err
	}
	d := a.Devices().Find(req.Device)
	if d == nil {
		p.mu.Unlock()
		return envelope.Errorf(envelope.CodeNotReady, "device %q of user %q is not known yet", req.Device, req.User)
	}
	mask := uint64(1) << d.Bit
	entries, more := a.Messages.Backlog(p.scratch[:0], mask, req.After, now.UnixMilli(),
		cmp.Or(int(req.MaxMessages), p.cfg.BacklogMessages), cmp.Or(int(req.MaxBytes), p.cfg.BacklogBytes))
	b := &envelope.Backlog{To: req.To, UpTo: p.position.appliedID(), More: more, After: req.After}
	reply.Backlog, reply.Pending, reply.Floor, reply.Published = b, uint32(a.Messages.Pending(mask)), d.Since, d.Published
	reply.Memberships = a.Rooms().Memberships()
	mailbox.Compact(entries)
	b.Messages = make([]*envelope.Kept, len(entries)) // nil: not in memory
	var absent []store.MailboxEntry                   // copies: entries change once the lock is released
	for i, e := range entries {
		b.Messages[i] = e.Message
		if e.Message == nil {
			absent = append(absent, e.MailboxEntry)
		}
	}
	clear(entries)
	p.scratch = entries
	p.cache.use(a)
	p.mu.Unlock()

	if len(absent) > 0 {
		if err := p.completeBacklog(b, req.User, absent); err != nil {
			return err
		}
	}
	p.metrics.backlog.Add(float64(len(b.Messages)))
	return nil
}

// readBodies reads those of a user's messages that are nil, because they are not in
// memory. absent has copies of their entries. Messages whose bodies are gone stay nil:
// they were acknowledged or have expired meanwhile, or are lost.
func (p *partition) readBodies(user string, messages []*envelope.Kept, absent []store.MailboxEntry) (read []*envelope.Kept, err error) {
	if len(absent) == 0 {
		return nil, nil
	}
	read, err = p.store.Bodies(p.index, user, absent)
	if err != nil {
		return nil, err
	}
	n := 0
	for i, k := range messages {
		if k == nil {
			messages[i] = read[n]
			n++
		}
	}
	return read, nil
}

// completeBacklog reads those messages of a backlog that are not in memory. Those
// whose bodies are gone leave it.
func (p *partition) completeBacklog(b *envelope.Backlog, user string, absent []store.MailboxEntry) error {
	read, err := p.readBodies(user, b.Messages, absent)
	if err != nil {
		return err
	}
	p.metrics.readBodies.Add(float64(len(absent)))
	b.Messages = slices.DeleteFunc(b.Messages, func(k *envelope.Kept) bool { return k == nil })

	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.accounts.byUser[user]
	if a == nil {
		return nil
	}
	for i, k := range read {
		if k == nil {
			p.dropLostLocked(a, absent[i].ID)
		} else if e := a.Messages.Find(k.Id); e != nil && e.NeedsBody() {
			p.cache.add(a, e, k)
		}
	}
	p.cache.use(a)
	p.cache.trim()
	return nil
}

// dropLostLocked drops a message whose body the store did not have, if it still
// waits: it must not keep the session behind for ever. It was acknowledged since
// its entry was read, or its body is lost.
func (p *partition) dropLostLocked(a *account, id uint64) {
	if !a.Messages.DropLost(id, p.clock.Now().UnixMilli()) {
		return
	}
	p.accounts.touchLocked(a, 0)
	p.metrics.dropped.Inc()
	p.log.Error().Str("user", a.User()).Uint64("id", id).Msg("the store has lost a message's body: the message is dropped")
	p.notice("message_lost", a.User(), 0, fmt.Sprintf("body of message %d is not in the store", id))
}

// Lookup returns which sessions users and session keys have.
func (r *Router) Lookup(ctx context.Context, req *envelope.LookupRequest) (*envelope.LookupReply, error) {
	if err := r.parts.waitReady(ctx); err != nil {
		return nil, err
	}
	reply := &envelope.LookupReply{Users: make([]*envelope.UserSessions, 0, len(req.Users))}
	for _, user := range req.Users {
		p, err := r.parts.of(ctx, user)
		if err != nil {
			return nil, err
		}
		us, err := p.lookup(ctx, user, req)
		if err != nil {
			return nil, err
		}
		reply.Users = append(reply.Users, us)
	}
	for _, key := range req.Keys {
		for _, p := range r.parts.local() {
			p.mu.Lock()
			reply.Keyed = p.sessions.withKeyLocked(reply.Keyed, key)
			p.mu.Unlock()
		}
	}
	return reply, nil
}

// lookupAndLock locks mu and returns a user's account. It reads the account from the store
// only for a kept push, whose cost to the mailbox memory cannot tell. Otherwise the account
// is nil if it is not in memory. If lookupAndLock returns an error, mu is not locked.
func (p *partition) lookupAndLock(ctx context.Context, user string, kept bool) (*account, error) {
	if kept {
		return p.accounts.openAndLock(ctx, user)
	}
	p.mu.Lock()
	if err := p.hereLocked(); err != nil {
		p.mu.Unlock()
		return nil, err
	}
	return p.accounts.byUser[user], nil
}

func (p *partition) lookup(ctx context.Context, user string, req *envelope.LookupRequest) (*envelope.UserSessions, error) {
	us := &envelope.UserSessions{User: user}
	a, err := p.lookupAndLock(ctx, user, req.Kept)
	if err != nil {
		return nil, err
	}
	if req.Kept {
		overflow, refused := p.accounts.overflowLocked(a)
		us.Overflow, us.Refused = uint32(overflow), refused
	}
	if a != nil {
		for _, s := range a.sessions {
			if req.Full {
				us.Full = append(us.Full, s.describe(user))
			} else {
				us.Sessions = append(us.Sessions, s.address().Address())
			}
		}
	}
	known := req.IdempotencyKey == ""
	erased := uint64(0)
	if !known && a != nil {
		erased = a.Keys().Erased()
		us.AppliedId, known = a.Keys().Used(req.IdempotencyKey)
	}
	p.mu.Unlock()
	if known {
		return us, nil
	}
	// A flush takes a key out of memory after the store has it.
	us.AppliedId, _, err = p.store.Used(p.index, user, req.IdempotencyKey)
	if us.AppliedId < erased {
		us.AppliedId = 0
	}
	return us, err
}

// Announce takes a comet's sign of life: see envelope.AnnounceRequest.
func (r *Router) Announce(ctx context.Context, req *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
	if err := r.parts.waitReady(ctx); err != nil {
		return nil, err
	}
	if err := envelope.CheckName("comet", req.Comet); err != nil {
		return nil, err
	}
	return r.presence.announce(ctx, req), nil
}

// Forget drops what is remembered of a comet's sessions, as the 2016 API's
// /1/server/del asks. A comet that is alive announces them again.
func (r *Router) Forget(_ context.Context, req *envelope.ForgetRequest) (*envelope.ForgetReply, error) {
	r.presence.comets.forget(req.Comet)
	return &envelope.ForgetReply{Sessions: uint32(r.presence.drop(req.Comet, r.now(), nil))}, nil
}

// User returns what is known of a user: as much as was applied, and what the
// log has in memory.
func (r *Router) User(ctx context.Context, req *envelope.UserRequest) (*envelope.UserReply, error) {
	p, err := r.parts.of(ctx, req.User)
	if err != nil {
		return nil, err
	}
	p.applyFromMemory()
	a, err := p.accounts.openAndLock(ctx, req.User)
	if err != nil {
		return nil, err
	}
	defer p.mu.Unlock()
	p.accounts.expireLocked(a)
	reply := &envelope.UserReply{Pending: uint32(len(a.Messages.All())), Dropped: a.Meta().Dropped}
	for _, s := range a.sessions {
		reply.Sessions = append(reply.Sessions, s.describe(a.User()))
	}
	p.describePresenceLocked(a, reply)
	if n := len(a.Messages.All()); n > 0 {
		reply.OldestId, reply.NewestId = a.Messages.All()[0].ID, a.Messages.All()[n-1].ID
	}
	return reply, nil
}

// Claim reports whether a claim record was the first of its key. Records are
// told apart by their own ids where the request names one: the same record may
// be in the log twice.
func (r *Router) Claim(ctx context.Context, req *envelope.ClaimRequest) (*envelope.ClaimReply, error) {
	p, err := r.indexed(ctx, req.Partition)
	if err != nil {
		return nil, err
	}
	if err := p.wait(ctx, req.Id); err != nil {
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
	if n := r.kept.Partitions(); int64(partition) >= int64(n) {
		return nil, envelope.Invalid("partition", fmt.Sprintf("is %d, there are %d", partition, n))
	}
	return r.parts.at(ctx, int32(partition))
}

// Resolve returns which sessions are to get each record of a batch, as of its place in
// the log. These are the sessions whose device still waits for it. For each one it
// returns the id of the message that is pending before it. It answers once it has applied
// the last of the records.
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
	if err := p.hereLocked(); err != nil {
		return nil, err
	}
	return p.resolveLocked(req), nil
}

// ResolveNow is Resolve from memory, for a caller that must never wait. It applies
// the records itself if they change only mailboxes that are in memory. ok is false
// if the answer would need the store, another goroutine, or a lock that is held.
func (r *Router) ResolveNow(req *envelope.ResolveRequest) (reply *envelope.ResolveReply, ok bool) {
	if r.cfg.Faults.NoApplied || int64(req.Partition) >= int64(r.kept.Partitions()) || !isClosed(r.parts.ready) {
		return nil, false
	}
	p := (*r.parts.table.Load())[req.Partition]
	if p == nil || !p.isUp() || !p.mu.TryLock() {
		return nil, false
	}
	defer p.mu.Unlock()
	if p.hereLocked() != nil {
		return nil, false
	}
	if n := len(req.Items); n > 0 && !p.applier.tryFromMemoryLocked(req.Items[n-1].Id) {
		return nil, false
	}
	return p.resolveLocked(req), true
}

// resolveLocked answers from what was applied.
func (p *partition) resolveLocked(req *envelope.ResolveRequest) *envelope.ResolveReply {
	reply := &envelope.ResolveReply{Items: make([]*envelope.Resolved, len(req.Items))}
	nowMS := p.clock.Now().UnixMilli()
	for i, item := range req.Items {
		reply.Items[i] = &envelope.Resolved{To: p.targetsLocked(item, nowMS)}
	}
	return reply
}

func (p *partition) targetsLocked(item *envelope.ResolveItem, nowMS int64) (to []*envelope.ResolvedTarget) {
	for _, user := range item.Users {
		// A user that is not in memory has no session.
		a := p.accounts.byUser[user]
		if a == nil || len(a.sessions) == 0 {
			continue
		}
		e := a.Messages.Find(item.Id)
		if e == nil || e.ExpiresMS <= nowMS {
			if p.cfg.Faults.NoApplied && e == nil && item.Id > p.position.appliedID() {
				to = append(to, a.guessTargets(item.Id)...)
			}
			continue // void, expired, or every device has it
		}
		for _, s := range a.sessions {
			if mask := a.Devices().Mask(s.device); e.Waiting&mask != 0 {
				to = append(to, s.target(a.Messages.Prev(mask, item.Id)))
			}
		}
	}
	return to
}

// Take reads what waits on a user's default cursor and acknowledges it, as
// the 2016 store's /1/msg/get does. Every push that was accepted before the call
// is seen. It answers once the acknowledgement is in the log.
func (r *Router) Take(ctx context.Context, req *envelope.TakeRequest) (*envelope.TakeReply, error) {
	p, err := r.atEnd(ctx, req.User)
	if err != nil {
		return nil, err
	}
	reply := &envelope.TakeReply{}
	if reply.Messages, err = p.unread(ctx, req); err != nil || len(reply.Messages) == 0 {
		return reply, err
	}
	ack := &envelope.Ack{User: req.User}
	for _, k := range reply.Messages {
		ack.Ids = append(ack.Ids, k.Id)
	}
	err = r.appendAndApply(ctx, p, &envelope.Record{Acks: &envelope.Acks{Acks: []*envelope.Ack{ack}}},
		fmt.Sprintf("acknowledgement of user %q", req.User))
	if err != nil {
		return nil, err
	}
	return reply, nil
}

// maxTakeBytes bounds an answer to Take: half of what a call between nodes may carry.
const maxTakeBytes = 32 << 20

// unread returns the messages on a user's default cursor after a time: at most
// maxTakeBytes of them, but one message always. Take acknowledges what it
// returns, so the answer must never be too large to be sent.
func (p *partition) unread(ctx context.Context, req *envelope.TakeRequest) ([]*envelope.Kept, error) {
	limit := cmp.Or(int(req.MaxMessages), p.cfg.MailboxLength)
	nowMS := p.clock.Now().UnixMilli()
	a, err := p.accounts.openAndLock(ctx, req.User)
	if err != nil {
		return nil, err
	}
	if p.position.fenced() {
		p.mu.Unlock()
		return nil, errFenced(p.index) // an acknowledgement would be void
	}
	mask := a.Devices().Mask("")
	var messages []*envelope.Kept
	var absent []store.MailboxEntry // copies: entries change once the lock is released
	size := 0
	for _, e := range a.Messages.All() {
		if !e.Unclaimed && e.Waiting&mask == 0 || e.TimeMS <= req.AfterMs || e.ExpiresMS <= nowMS {
			continue
		}
		if size += e.Cost(); len(messages) > 0 && (len(messages) >= limit || size > maxTakeBytes) {
			break
		}
		messages = append(messages, e.Message)
		if e.Message == nil {
			absent = append(absent, e.MailboxEntry)
		}
	}
	p.mu.Unlock()
	if _, err := p.readBodies(req.User, messages, absent); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(messages, func(k *envelope.Kept) bool { return k == nil }), nil
}
