//go:build !linux

package ws

import (
	"context"

	"imgo/transport"
)

func (l *Listener) run(ctx context.Context, handle func(transport.Conn)) error {
	return l.runHTTP(ctx, handle)
}

// headReaders is of no use here: net/http reads every request.
type headReaders struct{}
