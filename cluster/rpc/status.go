package rpc

import (
	"context"

	"imgo/envelope"
)

// Status is the service of every node, whatever its roles.
type Status interface {
	Status(ctx context.Context, r *envelope.StatusRequest) (*envelope.StatusReply, error)
}

// statusService is the beginning of the names of its methods on the wire.
const statusService = "/imgo.rpc.v1.Status/"

func (h handlers) addStatus() {
	s := service[Status]{"", func(o *Services) Status { return o.Status }}
	add(h, s, statusService+"Status", Status.Status)
}

// remoteStatus is the status of another node.
type remoteStatus struct{ stub }

func (r remoteStatus) Status(ctx context.Context, q *envelope.StatusRequest) (*envelope.StatusReply, error) {
	return ask[envelope.StatusReply](ctx, r.stub, statusService+"Status", q)
}
