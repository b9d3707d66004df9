package rpc

import (
	"context"
	"errors"
	"maps"
	"slices"

	"imgo/envelope"
)

// This file has all calls between roles: the interfaces, the called half of each method and its calling half.

// Router is the owner of some partitions, as logic and job call it.
type Router interface {
	Attach(ctx context.Context, r *envelope.AttachRequest) (*envelope.AttachReply, error)
	Detach(ctx context.Context, r *envelope.DetachRequest) error
	CatchUp(ctx context.Context, r *envelope.CatchUpRequest) (*envelope.Backlog, error)
	Lookup(ctx context.Context, r *envelope.LookupRequest) (*envelope.LookupReply, error)
	Announce(ctx context.Context, r *envelope.AnnounceRequest) (*envelope.AnnounceReply, error)
	User(ctx context.Context, r *envelope.UserRequest) (*envelope.UserReply, error)
	Take(ctx context.Context, r *envelope.TakeRequest) (*envelope.TakeReply, error)
	Claim(ctx context.Context, r *envelope.ClaimRequest) (*envelope.ClaimReply, error)
	Forget(ctx context.Context, r *envelope.ForgetRequest) (*envelope.ForgetReply, error)
	Remove(ctx context.Context, r *envelope.RemoveRequest) (*envelope.RemoveReply, error)
	Resolve(ctx context.Context, r *envelope.ResolveRequest) (*envelope.ResolveReply, error)
	Memberships(ctx context.Context, r *envelope.MembershipsRequest) (*envelope.MembershipsReply, error)
	Messages(ctx context.Context, r *envelope.MessagesRequest) (*envelope.MessagesReply, error)
}

// Logic is any logic, as a comet calls it.
type Logic interface {
	Connect(ctx context.Context, r *envelope.ConnectRequest) (*envelope.ConnectReply, error)
	CatchUp(ctx context.Context, r *envelope.CatchUpRequest) error
	Ack(ctx context.Context, r *envelope.AckRequest) (*envelope.PartsReply, error)
	Read(ctx context.Context, r *envelope.ReadRequest) (*envelope.ReadReply, error)
	Detach(ctx context.Context, r *envelope.DetachRequest) (*envelope.PartsReply, error)
	Announce(ctx context.Context, r *envelope.AnnounceRequest) (*envelope.AnnounceReply, error)
	RoomOpened(ctx context.Context, r *envelope.RoomOpened) error
	Join(ctx context.Context, r *envelope.JoinRequest) (*envelope.JoinReply, error)
	Refresh(ctx context.Context, r *envelope.RefreshRequest) (*envelope.RefreshReply, error)
	Upstream(ctx context.Context, r *envelope.UpstreamRequest) (*envelope.UpstreamReply, error)
}

// Comet is one comet, as job and logic call it.
type Comet interface {
	Push(ctx context.Context, r *envelope.PushRequest) (*envelope.PushReply, error)
	Rooms(ctx context.Context, r *envelope.RoomsRequest) (*envelope.RoomsReply, error)
	Members(ctx context.Context, r *envelope.MembersRequest) (*envelope.MembersReply, error)
}

// Status is the service of every node, whatever its roles.
type Status interface {
	Status(ctx context.Context, r *envelope.StatusRequest) (*envelope.StatusReply, error)
}

// The beginnings of the names of methods on the wire.
const (
	routerService = "/imgo.rpc.v1.Router/"
	logicService  = "/imgo.rpc.v1.Logic/"
	cometService  = "/imgo.rpc.v1.Comet/"
	statusService = "/imgo.rpc.v1.Status/"
)

// newHandlers returns the called half of all methods.
func newHandlers() handlers {
	h := make(handlers)
	router := service[Router]{"router", func(o *Services) Router { return o.Router }}
	add(h, router, routerService+"Attach", Router.Attach)
	add(h, router, routerService+"Detach", noReply(Router.Detach))
	add(h, router, routerService+"CatchUp", Router.CatchUp)
	add(h, router, routerService+"Lookup", Router.Lookup)
	add(h, router, routerService+"Announce", Router.Announce)
	add(h, router, routerService+"User", Router.User)
	add(h, router, routerService+"Take", Router.Take)
	add(h, router, routerService+"Claim", Router.Claim)
	add(h, router, routerService+"Forget", Router.Forget)
	add(h, router, routerService+"Remove", Router.Remove)
	add(h, router, routerService+"Resolve", Router.Resolve)
	add(h, router, routerService+"Memberships", Router.Memberships)
	add(h, router, routerService+"Messages", Router.Messages)
	logic := service[Logic]{"logic", func(o *Services) Logic { return o.Logic }}
	add(h, logic, logicService+"Connect", Logic.Connect)
	add(h, logic, logicService+"CatchUp", noReply(Logic.CatchUp))
	add(h, logic, logicService+"Ack", Logic.Ack)
	add(h, logic, logicService+"Read", Logic.Read)
	add(h, logic, logicService+"Detach", Logic.Detach)
	add(h, logic, logicService+"Announce", Logic.Announce)
	add(h, logic, logicService+"RoomOpened", noReply(Logic.RoomOpened))
	add(h, logic, logicService+"Join", Logic.Join)
	add(h, logic, logicService+"Refresh", Logic.Refresh)
	add(h, logic, logicService+"Upstream", Logic.Upstream)
	comet := service[Comet]{"comet", func(o *Services) Comet { return o.Comet }}
	add(h, comet, cometService+"Push", Comet.Push)
	add(h, comet, cometService+"Rooms", Comet.Rooms)
	add(h, comet, cometService+"Members", Comet.Members)
	status := service[Status]{"", func(o *Services) Status { return o.Status }}
	add(h, status, statusService+"Status", Status.Status)
	return h
}

// stub is the calling half of a service.
type stub struct {
	to caller
	// generation is the one of the kept topic that is asked about. 0 means any.
	generation uint16
}

// caller makes calls by their names on the wire. A Peer is one.
type caller interface {
	call(ctx context.Context, method string, generation uint16, req, rep message) error
}

// ask calls a method that replies.
func ask[Rep any, P messageOf[Rep]](ctx context.Context, s stub, method string, req message) (*Rep, error) {
	rep := new(Rep)
	if err := s.to.call(ctx, method, s.generation, req, P(rep)); err != nil {
		return nil, err
	}
	return rep, nil
}

// callNoReply calls a method that returns only an error.
func (s stub) callNoReply(ctx context.Context, method string, req message) error {
	return s.to.call(ctx, method, s.generation, req, &envelope.Empty{})
}

// remoteRouter is the router of another node.
type remoteRouter struct{ stub }

func (r remoteRouter) Attach(ctx context.Context, q *envelope.AttachRequest) (*envelope.AttachReply, error) {
	return ask[envelope.AttachReply](ctx, r.stub, routerService+"Attach", q)
}

func (r remoteRouter) Detach(ctx context.Context, q *envelope.DetachRequest) error {
	return r.callNoReply(ctx, routerService+"Detach", q)
}

func (r remoteRouter) CatchUp(ctx context.Context, q *envelope.CatchUpRequest) (*envelope.Backlog, error) {
	return ask[envelope.Backlog](ctx, r.stub, routerService+"CatchUp", q)
}

func (r remoteRouter) Lookup(ctx context.Context, q *envelope.LookupRequest) (*envelope.LookupReply, error) {
	return ask[envelope.LookupReply](ctx, r.stub, routerService+"Lookup", q)
}

func (r remoteRouter) Announce(ctx context.Context, q *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
	return ask[envelope.AnnounceReply](ctx, r.stub, routerService+"Announce", q)
}

func (r remoteRouter) User(ctx context.Context, q *envelope.UserRequest) (*envelope.UserReply, error) {
	return ask[envelope.UserReply](ctx, r.stub, routerService+"User", q)
}

func (r remoteRouter) Take(ctx context.Context, q *envelope.TakeRequest) (*envelope.TakeReply, error) {
	return ask[envelope.TakeReply](ctx, r.stub, routerService+"Take", q)
}

func (r remoteRouter) Claim(ctx context.Context, q *envelope.ClaimRequest) (*envelope.ClaimReply, error) {
	return ask[envelope.ClaimReply](ctx, r.stub, routerService+"Claim", q)
}

func (r remoteRouter) Forget(ctx context.Context, q *envelope.ForgetRequest) (*envelope.ForgetReply, error) {
	return ask[envelope.ForgetReply](ctx, r.stub, routerService+"Forget", q)
}

func (r remoteRouter) Remove(ctx context.Context, q *envelope.RemoveRequest) (*envelope.RemoveReply, error) {
	return ask[envelope.RemoveReply](ctx, r.stub, routerService+"Remove", q)
}

func (r remoteRouter) Resolve(ctx context.Context, q *envelope.ResolveRequest) (*envelope.ResolveReply, error) {
	return ask[envelope.ResolveReply](ctx, r.stub, routerService+"Resolve", q)
}

func (r remoteRouter) Memberships(ctx context.Context, q *envelope.MembershipsRequest) (*envelope.MembershipsReply, error) {
	return ask[envelope.MembershipsReply](ctx, r.stub, routerService+"Memberships", q)
}

func (r remoteRouter) Messages(ctx context.Context, q *envelope.MessagesRequest) (*envelope.MessagesReply, error) {
	return ask[envelope.MessagesReply](ctx, r.stub, routerService+"Messages", q)
}

// remoteLogic is the logic of another node.
type remoteLogic struct{ stub }

func (r remoteLogic) Connect(ctx context.Context, q *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
	return ask[envelope.ConnectReply](ctx, r.stub, logicService+"Connect", q)
}

func (r remoteLogic) CatchUp(ctx context.Context, q *envelope.CatchUpRequest) error {
	return r.callNoReply(ctx, logicService+"CatchUp", q)
}

func (r remoteLogic) Ack(ctx context.Context, q *envelope.AckRequest) (*envelope.PartsReply, error) {
	return ask[envelope.PartsReply](ctx, r.stub, logicService+"Ack", q)
}

func (r remoteLogic) Read(ctx context.Context, q *envelope.ReadRequest) (*envelope.ReadReply, error) {
	return ask[envelope.ReadReply](ctx, r.stub, logicService+"Read", q)
}

func (r remoteLogic) Detach(ctx context.Context, q *envelope.DetachRequest) (*envelope.PartsReply, error) {
	return ask[envelope.PartsReply](ctx, r.stub, logicService+"Detach", q)
}

func (r remoteLogic) Announce(ctx context.Context, q *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
	return ask[envelope.AnnounceReply](ctx, r.stub, logicService+"Announce", q)
}

func (r remoteLogic) RoomOpened(ctx context.Context, q *envelope.RoomOpened) error {
	return r.callNoReply(ctx, logicService+"RoomOpened", q)
}

func (r remoteLogic) Join(ctx context.Context, q *envelope.JoinRequest) (*envelope.JoinReply, error) {
	return ask[envelope.JoinReply](ctx, r.stub, logicService+"Join", q)
}

func (r remoteLogic) Refresh(ctx context.Context, q *envelope.RefreshRequest) (*envelope.RefreshReply, error) {
	return ask[envelope.RefreshReply](ctx, r.stub, logicService+"Refresh", q)
}

func (r remoteLogic) Upstream(ctx context.Context, q *envelope.UpstreamRequest) (*envelope.UpstreamReply, error) {
	return ask[envelope.UpstreamReply](ctx, r.stub, logicService+"Upstream", q)
}

// remoteComet is the comet of another node.
type remoteComet struct{ stub }

func (r remoteComet) Push(ctx context.Context, q *envelope.PushRequest) (*envelope.PushReply, error) {
	return ask[envelope.PushReply](ctx, r.stub, cometService+"Push", q)
}

func (r remoteComet) Rooms(ctx context.Context, q *envelope.RoomsRequest) (*envelope.RoomsReply, error) {
	return ask[envelope.RoomsReply](ctx, r.stub, cometService+"Rooms", q)
}

func (r remoteComet) Members(ctx context.Context, q *envelope.MembersRequest) (*envelope.MembersReply, error) {
	return ask[envelope.MembersReply](ctx, r.stub, cometService+"Members", q)
}

// remoteStatus is the status of another node.
type remoteStatus struct{ stub }

func (r remoteStatus) Status(ctx context.Context, q *envelope.StatusRequest) (*envelope.StatusReply, error) {
	return ask[envelope.StatusReply](ctx, r.stub, statusService+"Status", q)
}

// AnyLogic returns a Logic that makes each call by try. try runs call with a Logic that it chooses, and may run it again
// with another one.
func AnyLogic(try func(ctx context.Context, call func(context.Context, Logic) error) error) Logic {
	return anyLogic(try)
}

type anyLogic func(ctx context.Context, call func(context.Context, Logic) error) error

func askAny[Q, A any](ctx context.Context, try anyLogic, q Q, call func(Logic, context.Context, Q) (A, error)) (answer A, err error) {
	err = try(ctx, func(ctx context.Context, to Logic) error {
		answer, err = call(to, ctx, q)
		return err
	})
	return answer, err
}

// askAnyParts is askAny for a call about items of several partitions. It asks another logic if all partitions failed, because
// the first logic may be cut off from Kafka or from the routers. If all partitions fail for every logic, the answer names
// the partitions. An error would say less: the caller would repeat the call before all others, and one partition that
// fails would stop them.
func askAnyParts[Q any, I interface{ GetUser() string }](
	ctx context.Context, try anyLogic, q Q, items []I, call func(Logic, context.Context, Q) (*envelope.PartsReply, error),
) (*envelope.PartsReply, error) {
	var none *envelope.PartsReply
	answer, err := askAny(ctx, try, q, func(to Logic, ctx context.Context, q Q) (*envelope.PartsReply, error) {
		answer, err := call(to, ctx, q)
		if err == nil && allFailed(answer, items) {
			none, err = answer, envelope.Errorf(envelope.CodeUnavailable, "all partitions of the call failed")
		}
		return answer, err
	})
	if err != nil && none != nil && (errors.Is(err, envelope.ErrUnavailable) || ctx.Err() != nil) {
		return none, nil
	}
	return answer, err
}

// allFailed reports whether a call failed for the partitions of all items.
func allFailed[I interface{ GetUser() string }](answer *envelope.PartsReply, items []I) bool {
	if len(answer.GetFailed()) == 0 {
		return false
	}
	return !slices.ContainsFunc(items, func(item I) bool {
		return !slices.Contains(answer.GetFailed(), envelope.Partition(item.GetUser(), int(answer.GetPartitions())))
	})
}

func (try anyLogic) Connect(ctx context.Context, r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
	return askAny(ctx, try, r, Logic.Connect)
}

func (try anyLogic) CatchUp(ctx context.Context, r *envelope.CatchUpRequest) error {
	return try(ctx, func(ctx context.Context, to Logic) error { return to.CatchUp(ctx, r) })
}

func (try anyLogic) Ack(ctx context.Context, r *envelope.AckRequest) (*envelope.PartsReply, error) {
	return askAnyParts(ctx, try, r, r.GetAcks(), Logic.Ack)
}

func (try anyLogic) Read(ctx context.Context, r *envelope.ReadRequest) (*envelope.ReadReply, error) {
	return askAny(ctx, try, r, Logic.Read)
}

func (try anyLogic) Detach(ctx context.Context, r *envelope.DetachRequest) (*envelope.PartsReply, error) {
	return askAnyParts(ctx, try, r, r.GetSessions(), Logic.Detach)
}

func (try anyLogic) RoomOpened(ctx context.Context, r *envelope.RoomOpened) error {
	return try(ctx, func(ctx context.Context, to Logic) error { return to.RoomOpened(ctx, r) })
}

// Announce asks another logic, once, if the first one did not reach the owners of all partitions with sessions.
func (try anyLogic) Announce(ctx context.Context, r *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
	var first *envelope.AnnounceReply // its logic did not reach all owners
	answer, err := askAny(ctx, try, r, func(to Logic, ctx context.Context, r *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
		answer, err := to.Announce(ctx, r)
		switch {
		case err != nil:
		case first != nil:
			epochs := make(map[uint32]uint64)
			maps.Copy(epochs, first.GetEpochs())
			maps.Copy(epochs, answer.GetEpochs())
			answer.Epochs = epochs
			if ownersMissing(r, answer) {
				first, err = answer, errOwnersAway
			}
		case ownersMissing(r, answer):
			first, err = answer, envelope.Errorf(envelope.CodeUnavailable, "some owners did not answer")
		}
		return answer, err
	})
	if err != nil && first != nil && (errors.Is(err, envelope.ErrUnavailable) || errors.Is(err, errOwnersAway) || ctx.Err() != nil) {
		return first, nil
	}
	return answer, err
}

// errOwnersAway says that two logics did not reach an owner. No further logic is asked.
var errOwnersAway = errors.New("an owner is away")

// ownersMissing reports whether the owner of a partition with sessions did not answer an announcement.
func ownersMissing(r *envelope.AnnounceRequest, answer *envelope.AnnounceReply) bool {
	for p, sessions := range r.GetPartitions() {
		if _, ok := answer.GetEpochs()[p]; !ok && sessions > 0 && p < answer.GetPartitions() {
			return true
		}
	}
	return false
}

func (try anyLogic) Join(ctx context.Context, r *envelope.JoinRequest) (*envelope.JoinReply, error) {
	return askAny(ctx, try, r, Logic.Join)
}

func (try anyLogic) Refresh(ctx context.Context, r *envelope.RefreshRequest) (*envelope.RefreshReply, error) {
	return askAny(ctx, try, r, Logic.Refresh)
}

func (try anyLogic) Upstream(ctx context.Context, r *envelope.UpstreamRequest) (*envelope.UpstreamReply, error) {
	return askAny(ctx, try, r, Logic.Upstream)
}
