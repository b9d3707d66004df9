package rpc

import (
	"context"
	"net"
)

// Faults are the seams by which tests cut or change connections. The zero value is the product.
type Faults struct {
	// Dial connects to the RPC address of another node. Nil means TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}
