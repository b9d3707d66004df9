package rpc

import (
	"context"
	"fmt"

	"imgo/envelope"
)

// message is a message of envelope, with the code that vtprotobuf generates.
type message interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
	UnmarshalVT([]byte) error
}

// messageOf is a pointer to a T that is a message.
type messageOf[T any] interface {
	*T
	message
}

// handler is the called half of a method. offered are the services at the time
// of the call, nil before Server.Register.
type handler func(ctx context.Context, offered *Services, request *envelope.CallPart) (message, error)

// handlers are all methods, by their names on the wire.
type handlers map[string]handler

// service is one service of the table of handlers.
type service[S any] struct {
	role string // that implements it; "" for the status, which every node has
	pick func(*Services) S
}

// add puts a method into the table. name is its name on the wire.
func add[S, Req, Rep any, P messageOf[Req], Q messageOf[Rep]](
	h handlers, s service[S], name string, call func(S, context.Context, *Req) (*Rep, error),
) {
	h[name] = func(ctx context.Context, offered *Services, request *envelope.CallPart) (message, error) {
		to, err := s.offeredBy(offered, request.Generation)
		if err != nil {
			return nil, err
		}
		req := new(Req)
		if err := P(req).UnmarshalVT(request.Data); err != nil {
			return nil, fmt.Errorf("unmarshal %T: %w", req, err)
		}
		rep, err := call(to, ctx, req)
		if err != nil {
			return nil, err
		}
		return Q(rep), nil
	}
}

// offeredBy returns the role that a call is for. It returns an
// envelope.ErrUnavailable if this node does not have it, or has it for another
// generation of the kept topic.
func (s service[S]) offeredBy(offered *Services, generation uint32) (to S, err error) {
	if offered == nil {
		return to, envelope.Errorf(envelope.CodeUnavailable, "this node is starting")
	}
	to, ok := any(s.pick(offered)).(S) // a nil interface is no S
	switch {
	case ok && s.role == "router" && !offered.hasGeneration(generation):
		return to, envelope.Errorf(envelope.CodeUnavailable,
			"the router here is of generation %d of the kept topic, the call of generation %d", offered.Generation, generation)
	case ok:
		return to, nil
	case s.role == "":
		return to, envelope.Errorf(envelope.CodeUnavailable, "this node does not tell its status")
	}
	return to, envelope.Errorf(envelope.CodeUnavailable, "this node does not run role %s", s.role)
}

// hasGeneration reports whether a call for a generation is for the router that
// is offered.
func (o *Services) hasGeneration(generation uint32) bool {
	return o.Generation == 0 || generation == 0 || generation == uint32(o.Generation)
}

// noReply makes a method that replies Empty of one that returns only an error.
func noReply[S, Req any](call func(S, context.Context, *Req) error) func(S, context.Context, *Req) (*envelope.Empty, error) {
	return func(s S, ctx context.Context, r *Req) (*envelope.Empty, error) {
		return &envelope.Empty{}, call(s, ctx, r)
	}
}

// marshal encodes m.
func marshal(m message) ([]byte, error) {
	data := make([]byte, m.SizeVT())
	if _, err := m.MarshalToSizedBufferVT(data); err != nil {
		return nil, fmt.Errorf("marshal %T: %w", m, err)
	}
	return data, nil
}
