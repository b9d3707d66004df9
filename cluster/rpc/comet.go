package rpc

import (
	"context"

	"imgo/envelope"
)

// Comet is one comet, as job and logic call it.
type Comet interface {
	Push(ctx context.Context, r *envelope.PushRequest) (*envelope.PushReply, error)
	Rooms(ctx context.Context, r *envelope.RoomsRequest) (*envelope.RoomsReply, error)
	Members(ctx context.Context, r *envelope.MembersRequest) (*envelope.MembersReply, error)
}

// cometService is the beginning of the names of its methods on the wire.
const cometService = "/imgo.rpc.v1.Comet/"

func (h handlers) addComet() {
	s := service[Comet]{"comet", func(o *Services) Comet { return o.Comet }}
	add(h, s, cometService+"Push", Comet.Push)
	add(h, s, cometService+"Rooms", Comet.Rooms)
	add(h, s, cometService+"Members", Comet.Members)
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
