package rpc

import (
	"context"

	"imgo/envelope"
)

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

// tell calls a method that returns only an error.
func (s stub) tell(ctx context.Context, method string, req message) error {
	return s.to.call(ctx, method, s.generation, req, &envelope.Empty{})
}
