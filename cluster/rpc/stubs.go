package rpc

import (
	"context"

	"imgo/envelope"
)

// ask calls a method that replies.
func ask[Rep any, P messageOf[Rep]](ctx context.Context, p *Peer, method string, generation uint16, req message) (*Rep, error) {
	rep := new(Rep)
	if err := p.call(ctx, method, generation, req, P(rep)); err != nil {
		return nil, err
	}
	return rep, nil
}

// remoteRouter is the router of another node.
type remoteRouter struct {
	peer *Peer
	// generation is the one of the kept topic that is asked about. 0 means any.
	generation uint16
}

func (r remoteRouter) Attach(ctx context.Context, q *envelope.AttachRequest) (*envelope.AttachReply, error) {
	return ask[envelope.AttachReply](ctx, r.peer, "/"+routerService+"/Attach", r.generation, q)
}

func (r remoteRouter) Detach(ctx context.Context, q *envelope.DetachRequest) error {
	return r.peer.call(ctx, "/"+routerService+"/Detach", r.generation, q, &envelope.Empty{})
}

func (r remoteRouter) CatchUp(ctx context.Context, q *envelope.CatchUpRequest) (*envelope.Backlog, error) {
	return ask[envelope.Backlog](ctx, r.peer, "/"+routerService+"/CatchUp", r.generation, q)
}

func (r remoteRouter) Lookup(ctx context.Context, q *envelope.LookupRequest) (*envelope.LookupReply, error) {
	return ask[envelope.LookupReply](ctx, r.peer, "/"+routerService+"/Lookup", r.generation, q)
}

func (r remoteRouter) Announce(ctx context.Context, q *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
	return ask[envelope.AnnounceReply](ctx, r.peer, "/"+routerService+"/Announce", r.generation, q)
}

func (r remoteRouter) User(ctx context.Context, q *envelope.UserRequest) (*envelope.UserReply, error) {
	return ask[envelope.UserReply](ctx, r.peer, "/"+routerService+"/User", r.generation, q)
}

func (r remoteRouter) Take(ctx context.Context, q *envelope.TakeRequest) (*envelope.TakeReply, error) {
	return ask[envelope.TakeReply](ctx, r.peer, "/"+routerService+"/Take", r.generation, q)
}

func (r remoteRouter) Claim(ctx context.Context, q *envelope.ClaimRequest) (*envelope.ClaimReply, error) {
	return ask[envelope.ClaimReply](ctx, r.peer, "/"+routerService+"/Claim", r.generation, q)
}

func (r remoteRouter) Forget(ctx context.Context, q *envelope.ForgetRequest) (*envelope.ForgetReply, error) {
	return ask[envelope.ForgetReply](ctx, r.peer, "/"+routerService+"/Forget", r.generation, q)
}

func (r remoteRouter) Remove(ctx context.Context, q *envelope.RemoveRequest) (*envelope.RemoveReply, error) {
	return ask[envelope.RemoveReply](ctx, r.peer, "/"+routerService+"/Remove", r.generation, q)
}

func (r remoteRouter) Resolve(ctx context.Context, q *envelope.ResolveRequest) (*envelope.ResolveReply, error) {
	return ask[envelope.ResolveReply](ctx, r.peer, "/"+routerService+"/Resolve", r.generation, q)
}

func (r remoteRouter) Memberships(ctx context.Context, q *envelope.MembershipsRequest) (*envelope.MembershipsReply, error) {
	return ask[envelope.MembershipsReply](ctx, r.peer, "/"+routerService+"/Memberships", r.generation, q)
}

func (r remoteRouter) Messages(ctx context.Context, q *envelope.MessagesRequest) (*envelope.MessagesReply, error) {
	return ask[envelope.MessagesReply](ctx, r.peer, "/"+routerService+"/Messages", r.generation, q)
}

// remoteLogic is the logic of another node.
type remoteLogic struct{ peer *Peer }

func (l remoteLogic) Connect(ctx context.Context, q *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
	return ask[envelope.ConnectReply](ctx, l.peer, "/"+logicService+"/Connect", 0, q)
}

func (l remoteLogic) CatchUp(ctx context.Context, q *envelope.CatchUpRequest) error {
	return l.peer.call(ctx, "/"+logicService+"/CatchUp", 0, q, &envelope.Empty{})
}

func (l remoteLogic) Ack(ctx context.Context, q *envelope.AckRequest) error {
	return l.peer.call(ctx, "/"+logicService+"/Ack", 0, q, &envelope.Empty{})
}

func (l remoteLogic) Read(ctx context.Context, q *envelope.ReadRequest) (*envelope.ReadReply, error) {
	return ask[envelope.ReadReply](ctx, l.peer, "/"+logicService+"/Read", 0, q)
}

func (l remoteLogic) Detach(ctx context.Context, q *envelope.DetachRequest) error {
	return l.peer.call(ctx, "/"+logicService+"/Detach", 0, q, &envelope.Empty{})
}

func (l remoteLogic) Announce(ctx context.Context, q *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
	return ask[envelope.AnnounceReply](ctx, l.peer, "/"+logicService+"/Announce", 0, q)
}

func (l remoteLogic) RoomOpened(ctx context.Context, q *envelope.RoomOpened) error {
	return l.peer.call(ctx, "/"+logicService+"/RoomOpened", 0, q, &envelope.Empty{})
}

func (l remoteLogic) Join(ctx context.Context, q *envelope.JoinRequest) (*envelope.JoinReply, error) {
	return ask[envelope.JoinReply](ctx, l.peer, "/"+logicService+"/Join", 0, q)
}

func (l remoteLogic) Refresh(ctx context.Context, q *envelope.RefreshRequest) (*envelope.RefreshReply, error) {
	return ask[envelope.RefreshReply](ctx, l.peer, "/"+logicService+"/Refresh", 0, q)
}

func (l remoteLogic) Upstream(ctx context.Context, q *envelope.UpstreamRequest) (*envelope.UpstreamReply, error) {
	return ask[envelope.UpstreamReply](ctx, l.peer, "/"+logicService+"/Upstream", 0, q)
}

// remoteComet is the comet of another node.
type remoteComet struct{ peer *Peer }

func (c remoteComet) Push(ctx context.Context, q *envelope.PushRequest) (*envelope.PushReply, error) {
	return ask[envelope.PushReply](ctx, c.peer, "/"+cometService+"/Push", 0, q)
}

func (c remoteComet) Rooms(ctx context.Context, q *envelope.RoomsRequest) (*envelope.RoomsReply, error) {
	return ask[envelope.RoomsReply](ctx, c.peer, "/"+cometService+"/Rooms", 0, q)
}

func (c remoteComet) Members(ctx context.Context, q *envelope.MembersRequest) (*envelope.MembersReply, error) {
	return ask[envelope.MembersReply](ctx, c.peer, "/"+cometService+"/Members", 0, q)
}

// remoteStatus is the status of another node.
type remoteStatus struct{ peer *Peer }

func (s remoteStatus) Status(ctx context.Context, q *envelope.StatusRequest) (*envelope.StatusReply, error) {
	return ask[envelope.StatusReply](ctx, s.peer, "/"+statusService+"/Status", 0, q)
}
