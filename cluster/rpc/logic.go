package rpc

import (
	"context"

	"imgo/envelope"
)

// Logic is any logic, as a comet calls it.
type Logic interface {
	Connect(ctx context.Context, r *envelope.ConnectRequest) (*envelope.ConnectReply, error)
	CatchUp(ctx context.Context, r *envelope.CatchUpRequest) error
	Ack(ctx context.Context, r *envelope.AckRequest) error
	Read(ctx context.Context, r *envelope.ReadRequest) (*envelope.ReadReply, error)
	Detach(ctx context.Context, r *envelope.DetachRequest) error
	Announce(ctx context.Context, r *envelope.AnnounceRequest) (*envelope.AnnounceReply, error)
	RoomOpened(ctx context.Context, r *envelope.RoomOpened) error
	Join(ctx context.Context, r *envelope.JoinRequest) (*envelope.JoinReply, error)
	Refresh(ctx context.Context, r *envelope.RefreshRequest) (*envelope.RefreshReply, error)
	Upstream(ctx context.Context, r *envelope.UpstreamRequest) (*envelope.UpstreamReply, error)
}

// logicService is the beginning of the names of its methods on the wire.
const logicService = "/imgo.rpc.v1.Logic/"

func (h handlers) addLogic() {
	s := service[Logic]{"logic", func(o *Services) Logic { return o.Logic }}
	add(h, s, logicService+"Connect", Logic.Connect)
	add(h, s, logicService+"CatchUp", noReply(Logic.CatchUp))
	add(h, s, logicService+"Ack", noReply(Logic.Ack))
	add(h, s, logicService+"Read", Logic.Read)
	add(h, s, logicService+"Detach", noReply(Logic.Detach))
	add(h, s, logicService+"Announce", Logic.Announce)
	add(h, s, logicService+"RoomOpened", noReply(Logic.RoomOpened))
	add(h, s, logicService+"Join", Logic.Join)
	add(h, s, logicService+"Refresh", Logic.Refresh)
	add(h, s, logicService+"Upstream", Logic.Upstream)
}

// remoteLogic is the logic of another node.
type remoteLogic struct{ stub }

func (r remoteLogic) Connect(ctx context.Context, q *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
	return ask[envelope.ConnectReply](ctx, r.stub, logicService+"Connect", q)
}

func (r remoteLogic) CatchUp(ctx context.Context, q *envelope.CatchUpRequest) error {
	return r.tell(ctx, logicService+"CatchUp", q)
}

func (r remoteLogic) Ack(ctx context.Context, q *envelope.AckRequest) error {
	return r.tell(ctx, logicService+"Ack", q)
}

func (r remoteLogic) Read(ctx context.Context, q *envelope.ReadRequest) (*envelope.ReadReply, error) {
	return ask[envelope.ReadReply](ctx, r.stub, logicService+"Read", q)
}

func (r remoteLogic) Detach(ctx context.Context, q *envelope.DetachRequest) error {
	return r.tell(ctx, logicService+"Detach", q)
}

func (r remoteLogic) Announce(ctx context.Context, q *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
	return ask[envelope.AnnounceReply](ctx, r.stub, logicService+"Announce", q)
}

func (r remoteLogic) RoomOpened(ctx context.Context, q *envelope.RoomOpened) error {
	return r.tell(ctx, logicService+"RoomOpened", q)
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

func (try anyLogic) Connect(ctx context.Context, r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
	return askAny(ctx, try, r, Logic.Connect)
}

func (try anyLogic) CatchUp(ctx context.Context, r *envelope.CatchUpRequest) error {
	return try(ctx, func(ctx context.Context, to Logic) error { return to.CatchUp(ctx, r) })
}

func (try anyLogic) Ack(ctx context.Context, r *envelope.AckRequest) error {
	return try(ctx, func(ctx context.Context, to Logic) error { return to.Ack(ctx, r) })
}

func (try anyLogic) Read(ctx context.Context, r *envelope.ReadRequest) (*envelope.ReadReply, error) {
	return askAny(ctx, try, r, Logic.Read)
}

func (try anyLogic) Detach(ctx context.Context, r *envelope.DetachRequest) error {
	return try(ctx, func(ctx context.Context, to Logic) error { return to.Detach(ctx, r) })
}

func (try anyLogic) RoomOpened(ctx context.Context, r *envelope.RoomOpened) error {
	return try(ctx, func(ctx context.Context, to Logic) error { return to.RoomOpened(ctx, r) })
}

func (try anyLogic) Announce(ctx context.Context, r *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
	return askAny(ctx, try, r, Logic.Announce)
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
