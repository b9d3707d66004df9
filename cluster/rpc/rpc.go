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

// window is how many bytes of a stream may be on their way to a node that does not
// read them. It is fixed: gRPC measures the network with pings to adapt a window,
// and these pings cost a third of the CPU time of a call that is made alone.
const window = 1 << 20

// defaultMaxMessage is the limit of one request or reply in bytes, if MaxMessage is not set.
const defaultMaxMessage = 64 << 20
