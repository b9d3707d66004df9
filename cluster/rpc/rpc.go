// Package rpc carries the calls of one node's roles to the roles of another node.
//
// A Server offers the roles of this node. A Pool has one Peer for each other
// node, and a Peer returns the same interfaces that the roles have. So the caller
// of a role does not see whether the role is in this process.
//
// All calls of one node to another go over one bidirectional gRPC stream, which
// is opened at the first call and again after it broke. gRPC gives the connection:
// security, flow control, keepalive and reconnection (docs/adr/0011-one-rpc-layer.md).
//
// Guarantees:
//   - Both nodes of a connection have authenticated each other (see Security).
//   - An envelope.Error keeps its code, field and message over the hop, and the
//     text of the errors around it.
//   - Every call has a deadline. A call of a node that cannot be reached fails at
//     once with envelope.ErrUnavailable.
//   - A slow or large call does not delay the other calls of its stream.
//   - A panic in a handler is an internal error of that call only.
//
// A call that failed may have been carried out all the same. Every method except
// Router.Take is safe to repeat. A failed Take may have acknowledged messages that the
// caller never got.
//
// The package does not choose nodes, does not retry, and does not know which nodes
// are alive: cluster/members does. A node does not call itself through it.
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

// Services are what a node offers. A nil service is not offered: calls of it fail
// with envelope.ErrUnavailable.
type Services struct {
	Router Router
	// Generation is the generation of the kept topic that Router serves. 0 means any.
	// Calls for another generation fail with envelope.ErrUnavailable, because each
	// generation spreads users over its partitions differently.
	Generation uint16
	Logic      Logic
	Comet      Comet
	Status     Status
}

// The names of the services on the wire.
const (
	routerService = "imgo.rpc.v1.Router"
	logicService  = "imgo.rpc.v1.Logic"
	cometService  = "imgo.rpc.v1.Comet"
	statusService = "imgo.rpc.v1.Status"
)

// window is how many bytes of a stream may be on their way to a node that does not
// read them. It is fixed: gRPC measures the network with pings to adapt a window,
// and these pings cost a third of the CPU time of a call that is made alone.
const window = 1 << 20

// defaultMaxMessage is the limit of one request or reply in bytes, if MaxMessage is not set.
const defaultMaxMessage = 64 << 20
