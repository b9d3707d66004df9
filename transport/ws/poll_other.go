//go:build !linux

package ws

import (
	"context"

	"imgo/transport"
)

func (l *Listener) run(ctx context.Context, handle func(transport.Conn)) error {
	return l.runSockets(ctx, handle)
}
