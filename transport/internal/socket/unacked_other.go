//go:build !linux

package socket

import (
	"errors"
	"net"
)

const unackedKnown = false

// unacked is not available here. Callers rely on the client's answers.
func unacked(*net.TCPConn) (int64, error) { return 0, errors.ErrUnsupported }
