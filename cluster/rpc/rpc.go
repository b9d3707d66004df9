// Package rpc is how a role calls a role of another node: gRPC with the
// messages of envelope, over connections that both sides have authenticated.
//
// A Server offers what the roles of this node declare; a Pool has one
// connection to each other node, made when it is first needed and made again
// when it broke, and hands out the same interfaces. So the caller of a role
// does not see whether it is in this process.
//
// Guarantees: an envelope.Error keeps its identity (code, field, message) and
// the text of the chain around it over the hop; every call has a deadline; a
// call to a node that cannot be reached fails at once with
// envelope.ErrUnavailable; a panic in a handler is an internal error of that
// call. A call that failed may have been carried out all the same, and a call
// may be carried out twice when its connection breaks: every method must be
// safe to repeat.
//
// It does not choose nodes, retry, or know who is alive: cluster/members says
// that. A node does not call itself here; give the role itself to the caller.
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
	Resolve(ctx context.Context, r *envelope.ResolveRequest) (*envelope.ResolveReply, error)
}

// Logic is any logic, as a comet calls it.
type Logic interface {
	Connect(ctx context.Context, r *envelope.ConnectRequest) (*envelope.ConnectReply, error)
	CatchUp(ctx context.Context, r *envelope.CatchUpRequest) error
	Ack(ctx context.Context, r *envelope.AckRequest) error
	Detach(ctx context.Context, r *envelope.DetachRequest) error
	Announce(ctx context.Context, r *envelope.AnnounceRequest) (*envelope.AnnounceReply, error)
	RoomOpened(ctx context.Context, r *envelope.RoomOpened) error
}

// Comet is one comet, as job and logic call it.
type Comet interface {
	Push(ctx context.Context, r *envelope.PushRequest) (*envelope.PushReply, error)
	Rooms(ctx context.Context, r *envelope.RoomsRequest) (*envelope.RoomsReply, error)
}

// Status is how a node is, whatever its roles.
type Status interface {
	Status(ctx context.Context, r *envelope.StatusRequest) (*envelope.StatusReply, error)
}

// Services are what a node offers. A nil one is not offered: calls to it fail
// with envelope.ErrUnavailable.
type Services struct {
	Router Router
	// Generation is the generation of the kept topic that Router is of; 0: any.
	// A call that is of another one fails with envelope.ErrUnavailable: what is
	// in a partition of one generation is elsewhere in the next.
	Generation uint16
	Logic      Logic
	Comet      Comet
	Status     Status
}

// defaultMaxMessage bounds one request or reply, in bytes.
const defaultMaxMessage = 64 << 20

// generationKey is the metadata of a call that says which generation of the
// kept topic it is of.
const generationKey = "imgo-kept-generation"

// The names of the services on the wire.
const (
	routerService = "imgo.rpc.v1.Router"
	logicService  = "imgo.rpc.v1.Logic"
	cometService  = "imgo.rpc.v1.Comet"
	statusService = "imgo.rpc.v1.Status"
)
