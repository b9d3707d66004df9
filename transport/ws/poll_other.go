//go:build !linux

package ws

import (
	"context"

	"imgo/transport"
)

func (l *Listener) next(ctx context.Context, handle func(transport.Conn)) error {
	return l.nextSocket(ctx, handle)
}
