package rpc

import (
	"context"

	"imgo/envelope"
)

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

// routerService is the beginning of the names of its methods on the wire.
const routerService = "/imgo.rpc.v1.Router/"

func (h handlers) addRouter() {
	s := service[Router]{"router", func(o *Services) Router { return o.Router }}
	add(h, s, routerService+"Attach", Router.Attach)
	add(h, s, routerService+"Detach", noReply(Router.Detach))
	add(h, s, routerService+"CatchUp", Router.CatchUp)
	add(h, s, routerService+"Lookup", Router.Lookup)
	add(h, s, routerService+"Announce", Router.Announce)
	add(h, s, routerService+"User", Router.User)
	add(h, s, routerService+"Take", Router.Take)
	add(h, s, routerService+"Claim", Router.Claim)
	add(h, s, routerService+"Forget", Router.Forget)
	add(h, s, routerService+"Remove", Router.Remove)
	add(h, s, routerService+"Resolve", Router.Resolve)
	add(h, s, routerService+"Memberships", Router.Memberships)
	add(h, s, routerService+"Messages", Router.Messages)
}

// remoteRouter is the router of another node.
type remoteRouter struct{ stub }

func (r remoteRouter) Attach(ctx context.Context, q *envelope.AttachRequest) (*envelope.AttachReply, error) {
	return ask[envelope.AttachReply](ctx, r.stub, routerService+"Attach", q)
}

func (r remoteRouter) Detach(ctx context.Context, q *envelope.DetachRequest) error {
	return r.tell(ctx, routerService+"Detach", q)
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
