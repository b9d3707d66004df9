//go:build !linux

package socket

import (
	"errors"
	"net"
)

const unackedKnown = false

// unacked is not to be had portably: callers go by what the client answers.
func unacked(*net.TCPConn) (int64, error) { return 0, errors.ErrUnsupported }
