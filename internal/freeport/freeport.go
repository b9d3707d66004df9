// Package freeport finds addresses of this machine for programs that are told where to listen, or that
// start again where they were. It is for tests and for bench. It does not reserve an address.
package freeport

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
)

// Find returns n addresses of a host that nobody listens on, with ports in a row. The ports are below
// those that systems use for outgoing connections, so none is taken by a connection before the program
// listens, or while it is down.
func Find(host string, n int) ([]string, error) {
	for range 1000 {
		first, all := 10_000+rand.IntN(20_000), []string(nil)
		for i := range n {
			l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(first+i))) //nolint:noctx // it does not wait
			if err != nil {
				break
			}
			_ = l.Close()
			all = append(all, l.Addr().String())
		}
		if len(all) == n {
			return all, nil
		}
	}
	return nil, errors.New("no free ports between 10000 and 30000 of " + host)
}
