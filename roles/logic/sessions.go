package logic

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"imgo/envelope"
	"imgo/roles/logic/auth"
)

// Connect admits a session: it checks who the client is, has the owner
// register the session and read what is pending, throws the kicks of sessions
// that this one replaces on the live log and answers with the first window of
// what is pending. A refusal is an
// *envelope.Error: ErrUnauthorized, ErrExpired and ErrRevoked for the token,
// ErrTooMany for a limit of the user's, ErrInvalid for another field,
// ErrUnavailable for "try again".
//
// Connect completes r.Session in place: the user, the device that the token is
// bound to and, where the client chose none, the key.
func (l *Logic) Connect(ctx context.Context, r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
	ctx, end, err := l.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	reply, err := l.connect(ctx, r)
	if err == nil {
		l.metrics.connected.Inc()
	} else {
		l.metrics.connects.WithLabelValues(outcome(err)).Inc()
	}
	return reply, err
}

func (l *Logic) connect(ctx context.Context, r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
	if err := checkConnect(r); err != nil {
		return nil, err
	}
	id, err := l.authenticate(ctx, r.GetToken(), r.GetMid())
	if err != nil {
		return nil, err
	}
	session := r.GetSession()
	session.User = id.User
	if session.Device, err = bindDevice(session.Device, id.Device); err != nil {
		return nil, err
	}
	if session.Key == "" {
		session.Key = session.Address.AsKey().Name()
	}
	partition := l.partition(id.User)
	var attached *envelope.AttachReply
	err = l.askOwner(ctx, partition, "attach the session", func(owner Router) (err error) {
		attached, err = owner.Attach(ctx, &envelope.AttachRequest{Session: session})
		return err
	})
	if err != nil {
		return nil, err
	}
	// A revocation that came between the first check and the registration found
	// no session to close: this check finds the revocation.
	if err := answered(l.auth.Recheck(ctx, id)); err != nil {
		l.undoAttach(ctx, partition, session)
		return nil, err
	}
	reply := &envelope.ConnectReply{
		User: id.User, Device: session.Device, ExpiresMs: id.ExpiresMS, Partition: uint32(partition),
		Floor: attached.GetFloor(), Pending: attached.GetPending(),
		Backlog: attached.GetBacklog(),
	}
	l.throwKicks(ctx, attached.GetKicks())
	return reply, nil
}

// bindDevice is the device of a session: the one that the client said, which
// must be the one that its token is bound to, if it is.
func bindDevice(said, bound string) (string, error) {
	switch {
	case bound == "" || said == bound:
		return said, nil
	case said == "":
		return bound, nil
	}
	return "", envelope.Errorf(envelope.CodeUnauthorized, "the token is for another device")
}

// checkConnect says what is wrong with a connect beside its token.
func checkConnect(r *envelope.ConnectRequest) error {
	s := r.GetSession()
	if s.GetAddress().GetComet() == "" || s.GetAddress().GetSession() == 0 {
		return envelope.Invalid("session", "must name a comet and a session")
	}
	optional := []struct{ field, name string }{
		{"device", s.GetDevice()}, {"key", s.GetKey()}, {"platform", s.GetPlatform()},
	}
	for _, o := range optional {
		if o.name == "" {
			continue
		}
		if err := envelope.CheckName(o.field, o.name); err != nil {
			return err
		}
	}
	for i, room := range s.GetRooms() {
		if err := envelope.CheckName(fmt.Sprintf("rooms[%d]", i), room); err != nil {
			return err
		}
	}
	return nil
}

// undoAttach takes a registration back. Should it fail, the owner forgets the
// session when the comet's counts do not have it.
func (l *Logic) undoAttach(ctx context.Context, partition int32, s *envelope.SessionInfo) {
	// Also for a client that left meanwhile, but not for long.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.cfg.LookupTimeout)
	defer cancel()
	err := l.askOwner(ctx, partition, "detach the session", func(owner Router) error {
		return owner.Detach(ctx, &envelope.DetachRequest{Sessions: []*envelope.Detached{
			{Session: s.GetAddress(), User: s.GetUser(), Device: s.GetDevice(), Reason: "auth"},
		}})
	})
	if err != nil {
		l.trouble(err, "cannot take back the registration of a refused session")
	}
}

// throwKicks sends the kicks that Attach answered. A failure does not undo the
// connect: the sessions that were to go live on.
func (l *Logic) throwKicks(ctx context.Context, kicks []*envelope.Kick) {
	if len(kicks) == 0 {
		return
	}
	var all []thrown
	for _, kick := range kicks {
		all = append(all, addressed(kick.GetTo(), func(to []*envelope.Address) *envelope.Envelope {
			return &envelope.Envelope{Kick: &envelope.Kick{To: to, Code: kick.GetCode(), Reason: kick.GetReason()}}
		})...)
		l.metrics.kicks.Add(float64(len(kick.GetTo())))
	}
	if err := l.throw(ctx, "throw the kicks of replaced sessions", all...); err != nil {
		l.trouble(err, "replaced sessions live on")
	}
}

// CatchUp has the owner read what is pending for a session and throws it on
// the live log: the answer reaches the comet as a delivery.
func (l *Logic) CatchUp(ctx context.Context, r *envelope.CatchUpRequest) error {
	ctx, end, err := l.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	err = l.catchUp(ctx, r)
	l.metrics.catchUps.WithLabelValues(outcome(err)).Inc()
	return err
}

func (l *Logic) catchUp(ctx context.Context, r *envelope.CatchUpRequest) error {
	if r.GetUser() == "" || r.GetTo().GetComet() == "" {
		return envelope.Invalid("to", "must name a session and its user")
	}
	var backlog *envelope.Backlog
	err := l.askOwner(ctx, l.partition(r.GetUser()), "read the backlog", func(owner Router) (err error) {
		backlog, err = owner.CatchUp(ctx, r)
		return err
	})
	if err != nil {
		return err
	}
	if backlog == nil {
		return envelope.Errorf(envelope.CodeInternal, "read the backlog: the owner answered nothing")
	}
	if backlog.To == nil {
		backlog.To = r.GetTo()
	}
	return l.throw(ctx, "throw the backlog", thrown{by: r.GetTo().GetComet(), envelope: &envelope.Envelope{Backlog: backlog}})
}

// Detach tells the owners that sessions are gone, one call an owner. With an
// error some of them may not know; repeating it all is harmless, and not
// repeating it, too: they learn it from the comet's counts.
func (l *Logic) Detach(ctx context.Context, r *envelope.DetachRequest) error {
	ctx, end, err := l.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	groups := make(map[Router][]*envelope.Detached)
	owners := make(map[int32]Router)
	var errs []error
	for _, d := range r.GetSessions() {
		p := l.partition(d.GetUser())
		owner, known := owners[p]
		if !known {
			var err error
			if owner, err = l.routers.Owner(p); err != nil {
				errs = append(errs, err)
			}
			owners[p] = owner
		}
		if owner != nil {
			groups[owner] = append(groups[owner], d)
		}
	}
	errs = append(errs, callRouters("tell the owners", slices.Collect(maps.Keys(groups)), func(owner Router) error {
		return owner.Detach(ctx, &envelope.DetachRequest{Sessions: groups[owner]})
	}))
	return attempted("detach sessions", errors.Join(errs...))
}

// Announce passes a comet's sign of life to every router, and to each the
// counts of the partitions that it owns. The reply has the epochs of the owners
// that answered: what is missing the comet finds out the next time. It is an
// error only when no router answered.
//
// A request with sessions goes to their owners alone, and is an error when one
// of them did not take its part: the comet must know that it has to repeat it.
func (l *Logic) Announce(ctx context.Context, r *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
	ctx, end, err := l.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	if r.GetComet() == "" {
		return nil, envelope.Invalid("comet", "must not be empty")
	}
	merged := &mergedAnnounce{reply: &envelope.AnnounceReply{
		Epochs: make(map[uint32]uint64), Rooms: make(map[string]uint32), Partitions: uint32(l.kept.Partitions()),
	}}
	parts, err := l.splitAnnounce(r)
	const what = "announce the comet"
	if len(r.GetSessions()) > 0 {
		if err != nil {
			return nil, attempted(what, err)
		}
		owners := slices.DeleteFunc(slices.Collect(maps.Keys(parts)), func(o Router) bool { return len(parts[o].GetSessions()) == 0 })
		err = callRouters(what, owners, func(owner Router) error { return l.announceTo(ctx, owner, parts[owner], merged) })
		if err != nil {
			return nil, err
		}
		return merged.reply, nil
	}
	err = l.everyRouter(what, func(router Router) error {
		part := parts[router]
		if part == nil {
			part = partOf(r)
		}
		return l.announceTo(ctx, router, part, merged)
	})
	if merged.answers == 0 {
		return nil, err
	}
	if err != nil {
		l.trouble(err, "some routers did not hear a comet's announcement")
	}
	return merged.reply, nil
}

// mergedAnnounce gathers the routers' answers. Safe for concurrent use.
type mergedAnnounce struct {
	mu      sync.Mutex
	answers int
	reply   *envelope.AnnounceReply
}

// announceTime bounds one router's answer to an announcement, in which a comet
// repeats itself anyway: a router that hangs must not make the others believe
// that the comet is gone.
const announceTime = time.Second

func (l *Logic) announceTo(ctx context.Context, router Router, part *envelope.AnnounceRequest, into *mergedAnnounce) error {
	ctx, cancel := context.WithTimeout(ctx, announceTime)
	defer cancel()
	reply, err := router.Announce(ctx, part)
	if err != nil {
		return err
	}
	into.mu.Lock()
	defer into.mu.Unlock()
	into.answers++
	for p, epoch := range reply.GetEpochs() {
		// Another router may believe that it owns the partition, too: only the
		// owner's epoch counts, whose memory the sessions went to.
		if int64(p) >= int64(l.kept.Partitions()) {
			continue
		}
		if owner, err := l.routers.Owner(int32(p)); err == nil && owner == router {
			into.reply.Epochs[p] = epoch
		}
	}
	for room, n := range reply.GetRooms() {
		// Every router was told every comet's counts; one that started a
		// moment ago has heard of fewer.
		into.reply.Rooms[room] = max(into.reply.Rooms[room], n)
	}
	return nil
}

// partOf is an announcement without partitions and sessions. A router in this
// process holds on to what it is given: each gets maps of its own.
func partOf(r *envelope.AnnounceRequest) *envelope.AnnounceRequest {
	return &envelope.AnnounceRequest{
		Comet: r.GetComet(), Incarnation: r.GetIncarnation(), Rooms: maps.Clone(r.GetRooms()),
		Partitions: make(map[uint32]uint32),
	}
}

// splitAnnounce makes the announcement for each router that owns something of
// it. The error says which partition has no owner; the rest is there.
func (l *Logic) splitAnnounce(r *envelope.AnnounceRequest) (map[Router]*envelope.AnnounceRequest, error) {
	parts := make(map[Router]*envelope.AnnounceRequest)
	var ownerless error
	part := func(partition int32) *envelope.AnnounceRequest {
		owner, err := l.routers.Owner(partition)
		if err != nil {
			ownerless = fmt.Errorf("find the owner of partition %d: %w", partition, err)
			return nil
		}
		if parts[owner] == nil {
			parts[owner] = partOf(r)
		}
		return parts[owner]
	}
	for p, n := range r.GetPartitions() {
		if int64(p) >= int64(l.kept.Partitions()) {
			continue
		}
		if a := part(int32(p)); a != nil {
			a.Partitions[p] = n
		}
	}
	for _, s := range r.GetSessions() {
		if a := part(l.partition(s.GetUser())); a != nil {
			a.Sessions = append(a.Sessions, s)
		}
	}
	return parts, ownerless
}

// authenticate is the authenticator's Authenticate, measured.
func (l *Logic) authenticate(ctx context.Context, token, mid string) (auth.Identity, error) {
	start := time.Now()
	id, err := l.auth.Authenticate(ctx, token, mid)
	l.metrics.authSeconds.Observe(time.Since(start).Seconds())
	return id, answered(err)
}
