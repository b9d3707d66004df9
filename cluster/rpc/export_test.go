package rpc

import (
	"context"

	"google.golang.org/protobuf/proto"
)

// Methods returns how many methods a server has.
func Methods() int { return len(newHandlers()) }

// StubServices returns stubs of all services, whose calls call answers.
func StubServices(call func(ctx context.Context, method string, req, rep proto.Message) error) Services {
	s := stub{to: callerFunc(call)}
	return Services{Router: remoteRouter{s}, Logic: remoteLogic{s}, Comet: remoteComet{s}, Status: remoteStatus{s}}
}

// callerFunc is a function as a caller.
type callerFunc func(ctx context.Context, method string, req, rep proto.Message) error

func (f callerFunc) call(ctx context.Context, method string, _ uint16, req, rep message) error {
	return f(ctx, method, req.(proto.Message), rep.(proto.Message))
}
