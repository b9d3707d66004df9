package router

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/store"
)

// appendDevice puts a device record into the kept log and says its id.
func (p *partition) appendDevice(ctx context.Context, d *envelope.Device) (uint64, error) {
	rec := envelope.Record{Id: envelope.NewRecordID(), TimeMs: p.r.now().UnixMilli(), Device: d}
	value, err := rec.MarshalVT()
	if err != nil {
		return 0, fmt.Errorf("encode device of user %q: %w", d.User, err)
	}
	offset, err := p.r.kept.AppendEssential(ctx, p.index, value)
	if err != nil {
		return 0, fmt.Errorf("append device of user %q: %w", d.User, err)
	}
	return envelope.ID(p.r.kept.Generation(), offset), nil
}

// ensureDevice makes a device known, through the log, and waits until it is.
// A device that is known but was not seen for long is noted as seen.
func (p *partition) ensureDevice(ctx context.Context, user, device string) error {
	now := p.r.now()
	p.mu.Lock()
	m, err := p.mailbox(user, now)
	if err != nil {
		p.mu.Unlock()
		return err
	}
	d := m.device(device)
	known := d != nil
	fresh := known && d.SeenMS > now.Add(-seenEvery).UnixMilli()
	var since uint64
	if known {
		since = d.Since
	}
	fenced := p.fenced()
	p.mu.Unlock()
	switch {
	case fresh, known && fenced:
		return nil
	case fenced:
		return errFenced(p.index)
	}
	id, err := p.appendDevice(ctx, &envelope.Device{User: user, Device: device, SeenMs: now.UnixMilli(), Since: since})
	if err != nil || known {
		return err
	}
	return p.wait(ctx, id)
}

// Attach registers a session, makes its device known and reads the first
// window of what is pending for it: in this order, so that a message between
// two of the steps is in the window or delivered, or both, and never neither.
func (r *Router) Attach(ctx context.Context, req *envelope.AttachRequest) (*envelope.AttachReply, error) {
	s := req.GetSession()
	if s.GetAddress() == nil {
		return nil, envelope.Invalid("session.address", "is missing")
	}
	if err := envelope.CheckName("session.user", s.User); err != nil {
		return nil, err
	}
	p, err := r.of(ctx, s.User)
	if err != nil {
		return nil, err
	}
	reply := &envelope.AttachReply{}
	if err := p.enter(s, reply); err != nil {
		return nil, err
	}
	if err := p.ensureDevice(ctx, s.User, s.Device); err != nil {
		p.leave(s.Address.AsKey(), s.User)
		return nil, err
	}
	backlog, pending, floor, err := p.backlog(&envelope.CatchUpRequest{
		To: s.Address, User: s.User, Device: s.Device, MaxMessages: req.MaxMessages, MaxBytes: req.MaxBytes,
	})
	if err != nil {
		p.leave(s.Address.AsKey(), s.User)
		return nil, err
	}
	reply.Backlog, reply.Pending, reply.Floor = backlog, uint32(pending), floor
	return reply, nil
}

// enter puts a session into the table, within the limit of its user, and
// notes which ones it pushes out.
func (p *partition) enter(s *envelope.SessionInfo, reply *envelope.AttachReply) error {
	cfg := p.r.cfg
	p.mu.Lock()
	defer p.mu.Unlock()
	m, err := p.mailbox(s.User, p.r.now())
	if err != nil {
		return err
	}
	a := s.Address.AsKey()
	if slices.Contains(m.ousted, a) {
		// A call that is made again: it must not push out who came since.
		return envelope.Errorf(envelope.CodeTooMany, "a newer session of the user has replaced this one")
	}
	// A call that is made again does not count against itself.
	p.removeSession(m, a)
	if s.Key != "" {
		for i := 0; i < len(m.sessions); i++ {
			if o := m.sessions[i]; o.key() == s.Key {
				reply.Kicks = append(reply.Kicks, &envelope.Kick{
					To: []*envelope.Address{o.address()}, Code: int32(protocol.CloseReplacedByKey), Reason: "replaced by a newer session with the same key",
				})
				p.oust(m, o.addressKey())
				i--
			}
		}
	}
	if limit := cfg.SessionsPerUser; limit > 0 && len(m.sessions) >= limit {
		if cfg.SessionsPolicy == RefuseNewest {
			return envelope.Errorf(envelope.CodeTooMany, "user has %d sessions, %d are allowed", len(m.sessions), limit)
		}
		for len(m.sessions) >= limit {
			o := m.sessions[0]
			reply.Kicks = append(reply.Kicks, &envelope.Kick{
				To: []*envelope.Address{o.address()}, Code: int32(protocol.CloseReplacedByLimit),
				Reason: fmt.Sprintf("the user's %d sessions are all that are allowed and this was the oldest", limit),
			})
			p.oust(m, o.addressKey())
		}
	}
	p.addSession(m, s)
	return nil
}

// maxOusted is how many sessions that were pushed out a mailbox remembers.
const maxOusted = 16

// oust takes a session out for a newer one's sake. The caller holds mu.
func (p *partition) oust(m *mailbox, a envelope.AddressKey) {
	p.removeSession(m, a)
	if len(m.ousted) >= maxOusted {
		m.ousted = slices.Delete(m.ousted, 0, 1)
	}
	m.ousted = append(m.ousted, a)
}

func (p *partition) leave(a envelope.AddressKey, user string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m := p.users[user]; m != nil {
		p.removeSession(m, a)
	}
}

// Detach takes sessions out of the table: each by its own address, so that a
// late one never takes out a newer session. Those of partitions that are not
// owned here are an error; the others are out all the same.
func (r *Router) Detach(ctx context.Context, req *envelope.DetachRequest) error {
	if err := r.running(ctx); err != nil {
		return err
	}
	now := r.now()
	var failed error
	for _, d := range req.Sessions {
		if d.GetSession() == nil || d.User == "" {
			continue
		}
		index := r.index(d.User)
		p := (*r.table.Load())[index]
		if p == nil {
			failed = notOwned(index)
			continue
		}
		p.mu.Lock()
		if m := p.users[d.User]; m != nil && p.removeSession(m, d.Session.AsKey()) != nil {
			if dev := m.device(d.Device); dev != nil {
				dev.SeenMS = now.UnixMilli()
				m.metaChanged, m.dirty = true, true
				p.touch(m, 64)
			}
		}
		if p.gone {
			failed = notOwned(index)
		}
		p.mu.Unlock()
	}
	return failed
}

// CatchUp answers what is pending for a session after an id, a window at a
// time, and what position that is true for. It waits until the owner has
// applied what made the session's device known.
func (r *Router) CatchUp(ctx context.Context, req *envelope.CatchUpRequest) (*envelope.Backlog, error) {
	if req.GetTo() == nil {
		return nil, envelope.Invalid("to", "is missing")
	}
	if err := envelope.CheckName("user", req.User); err != nil {
		return nil, err
	}
	p, err := r.of(ctx, req.User)
	if err != nil {
		return nil, err
	}
	if err := p.wait(ctx, req.Floor); err != nil {
		return nil, err
	}
	b, _, _, err := p.backlog(req)
	if errors.Is(err, envelope.ErrNotReady) {
		// This owner does not know the device though it has applied all that
		// it should: the record is gone (retention) or was never written.
		if err := p.ensureDevice(ctx, req.User, req.Device); err != nil {
			return nil, err
		}
		b, _, _, err = p.backlog(req)
	}
	return b, err
}

func orDefault(v uint32, def int) int {
	if v == 0 {
		return def
	}
	return int(v)
}

// backlog reads one window for a session.
func (p *partition) backlog(req *envelope.CatchUpRequest) (b *envelope.Backlog, pending int, floor uint64, err error) {
	now := p.r.now()
	p.mu.Lock()
	m, err := p.mailbox(req.User, now)
	if err != nil {
		p.mu.Unlock()
		return nil, 0, 0, err
	}
	d := m.device(req.Device)
	if d == nil {
		p.mu.Unlock()
		return nil, 0, 0, envelope.Errorf(envelope.CodeNotReady, "device %q of user %q is not known yet", req.Device, req.User)
	}
	mask := uint64(1) << d.Bit
	floor = d.Since
	window, more := m.window(p.scratch[:0], mask, req.After, now.UnixMilli(),
		orDefault(req.MaxMessages, p.r.cfg.WindowMessages), orDefault(req.MaxBytes, p.r.cfg.WindowBytes))
	pending = m.pending(mask)
	b = &envelope.Backlog{To: req.To, UpTo: p.appliedID(), More: more, After: req.After}
	p.compact(window)
	b.Messages = make([]*envelope.Kept, len(window)) // nil: not in memory
	var absent []store.MailboxEntry                  // copies: entries change once the lock is gone
	for i, e := range window {
		b.Messages[i] = e.message
		if e.message == nil {
			absent = append(absent, e.MailboxEntry)
		}
	}
	clear(window)
	p.scratch = window
	p.cache.use(m)
	p.mu.Unlock()

	if len(absent) > 0 {
		if err := p.readBodies(b, req.User, absent); err != nil {
			return nil, 0, 0, err
		}
	}
	p.r.metrics.backlog.Add(float64(len(b.Messages)))
	return b, pending, floor, nil
}

// readBodies reads those messages of a window that are not in memory. Those
// whose bodies are gone leave it: they were acknowledged or have expired
// meanwhile, or are lost.
func (p *partition) readBodies(b *envelope.Backlog, user string, absent []store.MailboxEntry) error {
	read, err := p.r.store.Bodies(p.index, user, absent)
	if err != nil {
		return err
	}
	p.r.metrics.readBodies.Add(float64(len(absent)))
	messages, n := b.Messages[:0], 0
	for _, k := range b.Messages {
		if k == nil {
			k = read[n]
			n++
			if k == nil {
				p.lostBody(user, absent[n-1].ID)
				continue
			}
		}
		messages = append(messages, k)
	}
	b.Messages = messages
	if p.r.cfg.CacheBytes == 0 {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.users[user]
	if m == nil {
		return nil
	}
	for _, k := range read {
		if k == nil {
			continue
		}
		if e := m.find(k.Id); e != nil && e.stored && e.message == nil {
			p.hold(m, e, k)
		}
	}
	p.cache.use(m)
	p.trim()
	return nil
}

// lostBody is called for a message whose body the store did not have: either
// it was acknowledged since its entry was read, which is fine, or the body is
// lost, which must not keep the session behind for ever: the message is
// dropped, and that is said.
func (p *partition) lostBody(user string, id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.users[user]
	if m == nil {
		return
	}
	e := m.find(id)
	if e == nil || e.message != nil || e.ExpiresMS <= p.r.now().UnixMilli()+1000 {
		return
	}
	m.forget(e)
	m.entries = slices.DeleteFunc(m.entries, func(o *entry) bool { return o == e })
	m.meta.Dropped++
	m.metaChanged = true
	p.touch(m, 0)
	p.r.metrics.dropped.Inc()
	p.r.log.Error().Str("user", user).Uint64("id", id).Msg("the store has lost a message's body: the message is dropped")
	p.r.event("message_lost", user, fmt.Sprintf("body of message %d is not in the store", id))
}

// Lookup says which sessions users and session keys have.
func (r *Router) Lookup(ctx context.Context, req *envelope.LookupRequest) (*envelope.LookupReply, error) {
	if err := r.running(ctx); err != nil {
		return nil, err
	}
	reply := &envelope.LookupReply{Users: make([]*envelope.UserSessions, 0, len(req.Users))}
	for _, user := range req.Users {
		us := &envelope.UserSessions{User: user}
		p, err := r.of(ctx, user)
		if err != nil {
			return nil, err
		}
		p.mu.Lock()
		if err := p.here(); err != nil {
			p.mu.Unlock()
			return nil, err
		}
		m := p.users[user]
		if m != nil {
			for _, s := range m.sessions {
				if req.Full {
					us.Full = append(us.Full, s.describe(user))
				} else {
					us.Sessions = append(us.Sessions, s.address())
				}
			}
		}
		if req.IdempotencyKey != "" {
			if m != nil {
				us.AppliedId = m.used[req.IdempotencyKey]
			}
			if us.AppliedId == 0 {
				var err error
				if us.AppliedId, _, err = r.store.Used(p.index, user, req.IdempotencyKey); err != nil {
					p.mu.Unlock()
					return nil, err
				}
			}
		}
		p.mu.Unlock()
		reply.Users = append(reply.Users, us)
	}
	for _, key := range req.Keys {
		for _, p := range r.local() {
			p.mu.Lock()
			for _, m := range p.withKey(key) {
				for _, s := range m.sessions {
					if s.key() == key {
						reply.Keyed = append(reply.Keyed, s.describe(m.user))
					}
				}
			}
			p.mu.Unlock()
		}
	}
	return reply, nil
}

// Announce is a comet's sign of life: see envelope.AnnounceRequest.
func (r *Router) Announce(ctx context.Context, req *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
	if err := r.running(ctx); err != nil {
		return nil, err
	}
	if err := envelope.CheckName("comet", req.Comet); err != nil {
		return nil, err
	}
	return r.announce(req, r.now()), nil
}

// Forget drops what is remembered of a comet's sessions, as the 2016 API's
// /1/server/del asks; a comet that is alive announces them again.
func (r *Router) Forget(_ context.Context, req *envelope.ForgetRequest) (*envelope.ForgetReply, error) {
	r.peersMu.Lock()
	if p := r.peers[req.Comet]; p != nil {
		p.drops++
		p.rooms = nil
	}
	r.peersMu.Unlock()
	return &envelope.ForgetReply{Sessions: uint32(r.dropComet(req.Comet, nil))}, nil
}

// User says what is known of a user: as much as was applied, and what the log
// has in memory.
func (r *Router) User(ctx context.Context, req *envelope.UserRequest) (*envelope.UserReply, error) {
	p, err := r.of(ctx, req.User)
	if err != nil {
		return nil, err
	}
	now := r.now()
	p.catchUp()
	p.mu.Lock()
	defer p.mu.Unlock()
	m, err := p.mailbox(req.User, now)
	if err != nil {
		return nil, err
	}
	m.expire(now, p.deviceExpiry())
	p.touch(m, 0)
	reply := &envelope.UserReply{Pending: uint32(len(m.entries)), Dropped: m.meta.Dropped}
	for _, s := range m.sessions {
		reply.Sessions = append(reply.Sessions, s.describe(m.user))
	}
	for _, d := range m.meta.Devices {
		reply.Devices = append(reply.Devices, &envelope.DeviceInfo{Device: d.Name, SeenMs: d.SeenMS, Pending: uint32(m.pending(1 << d.Bit))})
		reply.LastSeenMs = max(reply.LastSeenMs, d.SeenMS)
	}
	if n := len(m.entries); n > 0 {
		reply.OldestId, reply.NewestId = m.entries[0].ID, m.entries[n-1].ID
	}
	return reply, nil
}
