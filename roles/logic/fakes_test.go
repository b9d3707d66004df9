package logic_test

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/internal/wait/waittest"
	"imgo/roles/logic"
)

// fakeRouter answers from a small table, like the owner of its partitions. A
// func field that is set answers instead.
type fakeRouter struct {
	removed  []*envelope.Removal
	attach   func(context.Context, *envelope.AttachRequest) (*envelope.AttachReply, error)
	detach   func(context.Context, *envelope.DetachRequest) error
	catchUp  func(context.Context, *envelope.CatchUpRequest) (*envelope.Backlog, error)
	lookup   func(context.Context, *envelope.LookupRequest) (*envelope.LookupReply, error)
	announce func(context.Context, *envelope.AnnounceRequest) (*envelope.AnnounceReply, error)
	user     func(context.Context, *envelope.UserRequest) (*envelope.UserReply, error)
	take     func(context.Context, *envelope.TakeRequest) (*envelope.TakeReply, error)
	claim    func(context.Context, *envelope.ClaimRequest) (*envelope.ClaimReply, error)
	forget   func(context.Context, *envelope.ForgetRequest) (*envelope.ForgetReply, error)

	mu        sync.Mutex
	sessions  map[string][]*envelope.SessionInfo // by user
	applied   map[[2]string]uint64               // user, key → id
	claims    map[string]uint64                  // key → id
	members   map[string]*envelope.Memberships   // by user
	lookups   []*envelope.LookupRequest
	attached  []*envelope.AttachRequest
	detached  []*envelope.DetachRequest
	announced []*envelope.AnnounceRequest
}

func newFakeRouter() *fakeRouter {
	return &fakeRouter{
		sessions: make(map[string][]*envelope.SessionInfo), applied: make(map[[2]string]uint64), claims: make(map[string]uint64),
		members: make(map[string]*envelope.Memberships),
	}
}

func (r *fakeRouter) Attach(ctx context.Context, req *envelope.AttachRequest) (*envelope.AttachReply, error) {
	r.mu.Lock()
	r.attached = append(r.attached, req)
	r.mu.Unlock()
	if r.attach != nil {
		return r.attach(ctx, req)
	}
	return &envelope.AttachReply{Backlog: &envelope.Backlog{To: req.Session.Address}}, nil
}

func (r *fakeRouter) Detach(ctx context.Context, req *envelope.DetachRequest) error {
	r.mu.Lock()
	r.detached = append(r.detached, req)
	r.mu.Unlock()
	if r.detach != nil {
		return r.detach(ctx, req)
	}
	return nil
}

func (r *fakeRouter) CatchUp(ctx context.Context, req *envelope.CatchUpRequest) (*envelope.Backlog, error) {
	if r.catchUp != nil {
		return r.catchUp(ctx, req)
	}
	return &envelope.Backlog{To: req.To, After: req.After}, nil
}

func (r *fakeRouter) Lookup(ctx context.Context, req *envelope.LookupRequest) (*envelope.LookupReply, error) {
	r.mu.Lock()
	r.lookups = append(r.lookups, req)
	r.mu.Unlock()
	if r.lookup != nil {
		return r.lookup(ctx, req)
	}
	return r.table(req), nil
}

// table answers a Lookup from the fake's sessions and keys.
func (r *fakeRouter) table(req *envelope.LookupRequest) *envelope.LookupReply {
	r.mu.Lock()
	defer r.mu.Unlock()
	reply := &envelope.LookupReply{}
	for _, user := range req.Users {
		u := &envelope.UserSessions{User: user}
		for _, s := range r.sessions[user] {
			if req.Full {
				u.Full = append(u.Full, s)
			} else {
				u.Sessions = append(u.Sessions, s.Address)
			}
		}
		if req.IdempotencyKey != "" {
			u.AppliedId = r.applied[[2]string{user, req.IdempotencyKey}]
		}
		reply.Users = append(reply.Users, u)
	}
	for _, sessions := range r.sessions {
		for _, s := range sessions {
			if slices.Contains(req.Keys, cmp.Or(s.Key, s.Address.AsKey().Name())) {
				reply.Keyed = append(reply.Keyed, s)
			}
		}
	}
	return reply
}

func (r *fakeRouter) Remove(_ context.Context, req *envelope.RemoveRequest) (*envelope.RemoveReply, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removed = append(r.removed, req.GetRemoval())
	return &envelope.RemoveReply{Messages: 3, Devices: uint32(len(req.GetRemoval().GetDevices()))}, nil
}

func (r *fakeRouter) Announce(ctx context.Context, req *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
	r.mu.Lock()
	r.announced = append(r.announced, req)
	r.mu.Unlock()
	if r.announce != nil {
		return r.announce(ctx, req)
	}
	return &envelope.AnnounceReply{}, nil
}

func (r *fakeRouter) User(ctx context.Context, req *envelope.UserRequest) (*envelope.UserReply, error) {
	if r.user != nil {
		return r.user(ctx, req)
	}
	return &envelope.UserReply{}, nil
}

func (r *fakeRouter) Take(ctx context.Context, req *envelope.TakeRequest) (*envelope.TakeReply, error) {
	if r.take != nil {
		return r.take(ctx, req)
	}
	return &envelope.TakeReply{}, nil
}

func (r *fakeRouter) Claim(ctx context.Context, req *envelope.ClaimRequest) (*envelope.ClaimReply, error) {
	if r.claim != nil {
		return r.claim(ctx, req)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return &envelope.ClaimReply{Won: r.claims[req.Key] == req.Id}, nil
}

func (r *fakeRouter) Messages(_ context.Context, req *envelope.MessagesRequest) (*envelope.MessagesReply, error) {
	return &envelope.MessagesReply{Messages: []*envelope.WaitingMessage{{Id: req.After + 1}}}, nil
}

func (r *fakeRouter) Memberships(_ context.Context, req *envelope.MembershipsRequest) (*envelope.MembershipsReply, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	reply := &envelope.MembershipsReply{Memberships: &envelope.Memberships{}, Limit: fakeRoomLimit}
	if m := r.members[req.User]; m != nil {
		reply.Memberships = m
	}
	if reply.Memberships.At < req.Floor {
		return nil, envelope.ErrNotReady
	}
	for _, s := range r.sessions[req.User] {
		reply.Sessions = append(reply.Sessions, s.Address)
	}
	return reply, nil
}

func (r *fakeRouter) Forget(ctx context.Context, req *envelope.ForgetRequest) (*envelope.ForgetReply, error) {
	if r.forget != nil {
		return r.forget(ctx, req)
	}
	return &envelope.ForgetReply{}, nil
}

// fakeRoomLimit is how many rooms a user may be put into.
const fakeRoomLimit = 2

// apply applies a kept record as its owner does.
func (r *fakeRouter) apply(rec *envelope.Record, id uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := rec.Membership; m != nil {
		rooms := slices.DeleteFunc(slices.Clone(r.members[m.User].GetRooms()), func(room string) bool { return room == m.Room })
		if m.Member && len(rooms) < fakeRoomLimit {
			rooms = append(rooms, m.Room)
		}
		r.members[m.User] = &envelope.Memberships{At: id, Rooms: rooms}
	}
	if p := rec.Push; p != nil && p.IdempotencyKey != "" {
		for _, user := range p.Users {
			if k := [2]string{user, p.IdempotencyKey}; r.applied[k] == 0 {
				r.applied[k] = id
			}
		}
	}
	if c := rec.Claim; c != nil && r.claims[c.Key] == 0 {
		r.claims[c.Key] = id
	}
}

func (r *fakeRouter) connect(user, device, comet string, session uint64, key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sessions[user] = append(r.sessions[user], &envelope.SessionInfo{
		Address: &envelope.Address{Comet: comet, Session: session}, User: user, Device: device, Key: key,
	})
}

func (r *fakeRouter) asked() []*envelope.LookupRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.lookups)
}

// fakeRouters is some routers: partition p belongs to routers[p mod n].
type fakeRouters struct {
	partitions int32
	routers    []*fakeRouter
	owner      func(int32) (logic.Router, error)
}

func (f *fakeRouters) Owner(p int32) (logic.Router, error) {
	if f.owner != nil {
		return f.owner(p)
	}
	if len(f.routers) == 0 {
		return nil, envelope.Errorf(envelope.CodeUnavailable, "no router")
	}
	return f.routers[int(p)%len(f.routers)], nil
}

func (f *fakeRouters) All() []logic.Router {
	var all []logic.Router
	for _, r := range f.routers {
		all = append(all, r)
	}
	return all
}

func (f *fakeRouters) Partitions() int32 { return f.partitions }

// fakeLog is the kept or the live topic. It holds what was appended, in order.
type fakeLog struct {
	partitions int32
	// fail refuses an append. essential reports whether it was AppendEssential.
	fail func(essential bool) error
	// hangs reports whether an append to a partition waits until the end of its context.
	hangs func(partition int32) bool
	// applied is called with each entry once it has its offset.
	applied func(envelope.Entry)
	// after returns the error of an append that the log took all the same.
	after func() error

	mu      sync.Mutex
	next    map[int32]int64
	entries []envelope.Entry
	calls   int
}

const generation = 3

const secret = "0123456789abcdef0123456789abcdef" // of HS256

func (f *fakeLog) Partitions() int32  { return f.partitions }
func (f *fakeLog) Generation() uint16 { return generation }

func (f *fakeLog) append(entries []envelope.Entry, essential bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	if f.fail != nil {
		if err := f.fail(essential); err != nil {
			return err
		}
	}
	if f.next == nil {
		f.next = make(map[int32]int64)
	}
	for i := range entries {
		e := &entries[i]
		if e.Partition < 0 || e.Partition >= f.partitions {
			return errors.New("no such partition")
		}
		e.Offset = f.next[e.Partition]
		f.next[e.Partition]++
		f.entries = append(f.entries, *e)
		if f.applied != nil {
			f.applied(*e)
		}
	}
	if f.after != nil {
		return f.after()
	}
	return nil
}

func (f *fakeLog) AppendMany(ctx context.Context, entries []envelope.Entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return f.append(entries, false)
}

func (f *fakeLog) AppendEssential(ctx context.Context, partition int32, value []byte) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if f.hangs != nil && f.hangs(partition) {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	entries := []envelope.Entry{{Partition: partition, Value: value}}
	err := f.append(entries, true)
	return entries[0].Offset, err
}

func (f *fakeLog) all() []envelope.Entry {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.entries)
}

// fakeComets is some comets by name.
type fakeComets map[string]logic.Comet

func (f fakeComets) All() map[string]logic.Comet { return f }

type fakeComet func(context.Context, *envelope.RoomsRequest) (*envelope.RoomsReply, error)

func (f fakeComet) Members(context.Context, *envelope.MembersRequest) (*envelope.MembersReply, error) {
	return nil, envelope.ErrUnavailable
}

func (f fakeComet) Rooms(ctx context.Context, r *envelope.RoomsRequest) (*envelope.RoomsReply, error) {
	return f(ctx, r)
}

// fakeTokens is the token store in memory.
type fakeTokens struct {
	lookupErr error

	mu      sync.Mutex
	tokens  map[[32]byte]envelope.Token
	revoked map[[32]byte]string // the users of the tokens that Revoke has revoked
	lookups int
}

func (f *fakeTokens) Put(_ context.Context, hash [32]byte, token envelope.Token, single bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for h, t := range f.tokens {
		if single && t.User == token.User {
			delete(f.tokens, h)
		}
	}
	f.tokens[hash] = token
	return nil
}

func (f *fakeTokens) Lookup(_ context.Context, hash [32]byte) (envelope.Token, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lookups++
	if f.lookupErr != nil {
		return envelope.Token{}, f.lookupErr
	}
	t, ok := f.tokens[hash]
	if !ok {
		return envelope.Token{}, envelope.ErrNotFound
	}
	return t, nil
}

func (f *fakeTokens) Revoke(_ context.Context, hash [32]byte, check func(user string) error) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	token, good := f.tokens[hash]
	user, was := f.revoked[hash]
	switch {
	case good:
		user = token.User
	case !was:
		return "", envelope.ErrNotFound
	}
	if err := check(user); err != nil {
		return "", err
	}
	f.revoked[hash] = user
	delete(f.tokens, hash)
	return user, nil
}

func (f *fakeTokens) RevokeUser(_ context.Context, user string) (n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for h, t := range f.tokens {
		if t.User == user {
			delete(f.tokens, h)
			n++
		}
	}
	return n, nil
}

// world is a logic with fakes for all other roles. Kept records are applied by
// their owner as soon as they are appended.
type world struct {
	*logic.Logic
	t       testing.TB
	routers *fakeRouters
	kept    *fakeLog
	live    *fakeLog
	comets  fakeComets
	tokens  *fakeTokens
	clock   *clock

	registry *prometheus.Registry
}

// clock is a wall clock that only the test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

type option func(*logic.Config, *world)

func newWorld(t testing.TB, options ...option) *world {
	t.Helper()
	w := &world{
		t:       t,
		routers: &fakeRouters{partitions: 8, routers: []*fakeRouter{newFakeRouter(), newFakeRouter()}},
		kept:    &fakeLog{partitions: 8},
		live:    &fakeLog{partitions: 4},
		comets:  fakeComets{},
		tokens:  &fakeTokens{tokens: make(map[[32]byte]envelope.Token), revoked: make(map[[32]byte]string)},
		clock:   &clock{now: time.UnixMilli(1_800_000_000_000)},

		registry: prometheus.NewRegistry(),
	}
	w.kept.applied = w.apply
	cfg := logic.DefaultConfig()
	cfg.CallTimeout = 2 * time.Second
	cfg.LookupTimeout = 50 * time.Millisecond
	cfg.CometTimeout = 50 * time.Millisecond
	for _, o := range options {
		o(&cfg, w)
	}
	deps := w.deps()
	deps.Metrics = w.registry
	l, err := logic.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	w.Logic = l
	return w
}

func (w *world) deps() logic.Deps {
	return logic.Deps{
		Routers: w.routers, Kept: w.kept, Live: w.live, Comets: w.comets, Tokens: w.tokens,
		Log: zerolog.Nop(), Now: w.clock.Now,
	}
}

func (w *world) apply(e envelope.Entry) {
	rec := &envelope.Record{}
	if err := rec.UnmarshalVT(e.Value); err != nil {
		w.t.Error(err)
	}
	w.routers.routers[int(e.Partition)%len(w.routers.routers)].apply(rec, envelope.ID(generation, e.Offset))
}

// owner returns the router that owns a user.
func (w *world) owner(user string) *fakeRouter {
	return w.routers.routers[int(envelope.Partition(user, int(w.kept.partitions)))%len(w.routers.routers)]
}

func (w *world) connect(user, device, comet string, session uint64) {
	w.owner(user).connect(user, device, comet, session, "")
}

func (w *world) records() []*envelope.Record {
	var out []*envelope.Record
	for _, e := range w.kept.all() {
		rec := &envelope.Record{}
		if err := rec.UnmarshalVT(e.Value); err != nil {
			w.t.Fatal(err)
		}
		out = append(out, rec)
	}
	return out
}

func (w *world) envelopes() []*envelope.Envelope {
	var out []*envelope.Envelope
	for _, e := range w.live.all() {
		env := &envelope.Envelope{}
		if err := env.UnmarshalVT(e.Value); err != nil {
			w.t.Fatal(err)
		}
		out = append(out, env)
	}
	return out
}

func (w *world) push(c logic.PushCommand) *logic.PushResult {
	w.t.Helper()
	if c.Op == 0 {
		c.Op = 5
	}
	result, err := w.Push(w.t.Context(), &c)
	if err != nil {
		w.t.Fatalf("push: %v", err)
	}
	return result
}

// field returns the Field of the *envelope.Error in err.
func field(err error) string {
	var e *envelope.Error
	if errors.As(err, &e) {
		return e.Field
	}
	return ""
}

var eventually = waittest.Eventually
