//go:build linux

package load

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// CallTimeout bounds one HTTP call.
const CallTimeout = 30 * time.Second

// Call is an HTTP request that is made once and sent many times: only bytes of
// a fixed place in it change. Clone it for each goroutine.
type Call struct {
	bytes []byte
	user  int // where the user's digits begin; 0: it has none
	stamp int // where the message's stamp goes; 0: it has none
}

// BodySize is the size of the body that PushCall pushes, in bytes.
const BodySize = 100

// PushCall is a push of a stamped JSON string to a user.
func PushCall(kept bool) Call {
	more := ""
	if !kept {
		more = `,"kept":false`
	}
	c := stampedCall(`{"user":"`+UserID(0)+`","body":"`, BodySize, more)
	c.user = bytes.LastIndex(c.bytes, []byte(UserID(0))) + 1
	return c
}

// AllCall is a push to everyone of a packet of 26 bytes.
func AllCall() Call { return newCall(`{"all":true,"body_text":"hi"}`) }

// StampedAllCall is a push to everyone of a stamped JSON string of so many
// bytes, StampSize+2 at least.
func StampedAllCall(size int) Call { return stampedCall(`{"all":true,"body":"`, size, "") }

// RoomCall is a push to a room of a stamped JSON string.
func RoomCall(room string) Call { return stampedCall(`{"room":"`+room+`","body":"`, StampSize+2, "") }

// stampedCall is a call whose last field before more is a JSON string of size
// bytes with its quotes; before ends with the first.
func stampedCall(before string, size int, more string) Call {
	c := newCall(before + string(bytes.Repeat([]byte("x"), max(size-2, StampSize))) + `"` + more + "}")
	c.stamp = bytes.Index(c.bytes, []byte("\r\n\r\n")) + 4 + len(before)
	return c
}

func newCall(body string) Call {
	const head = "POST /v1/push HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
	return Call{bytes: fmt.Appendf(nil, head+"%s", len(body), body)}
}

// Clone is a copy for one goroutine.
func (c Call) Clone() Call {
	c.bytes = bytes.Clone(c.bytes)
	return c
}

// To sets the user, where the call has one.
func (c *Call) To(n int) {
	if c.user == 0 {
		return
	}
	for i := len(UserID(0)) - 2; i >= 0; i-- {
		c.bytes[c.user+i] = '0' + byte(n%10)
		n /= 10
	}
}

// Stamp writes a time to the front of the message's body, where it has a
// place for it.
func (c *Call) Stamp(at time.Time) {
	if c.stamp == 0 {
		return
	}
	n := at.UnixNano()
	for i := StampSize - 1; i >= 0; i-- {
		c.bytes[c.stamp+i] = '0' + byte(n%10)
		n /= 10
	}
}

// Caller is one HTTP/1.1 keep-alive connection, next to no work a call. It is
// for one goroutine.
type Caller struct {
	conn net.Conn
	r    *bufio.Reader
	by   time.Time // the deadline that is set
}

// DialCaller connects to an API.
func DialCaller(ctx context.Context, addr string) (*Caller, error) {
	conn, err := (&net.Dialer{Timeout: CallTimeout}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", addr, err)
	}
	return newCaller(conn), nil
}

func newCaller(conn net.Conn) *Caller {
	return &Caller{conn: conn, r: bufio.NewReaderSize(conn, 4<<10)}
}

// Close ends the connection.
func (c *Caller) Close() { _ = c.conn.Close() }

// Do sends a request and reads the answer. text is the answer's body where it
// is not the 202 of an accepted push.
func (c *Caller) Do(call *Call) (accepted bool, text string, err error) {
	// A deadline that is a second too early is good enough, and setting one is
	// a good part of what a call costs here.
	if by := time.Now().Add(CallTimeout); by.Sub(c.by) > time.Second {
		if err := c.conn.SetDeadline(by); err != nil {
			return false, "", fmt.Errorf("call: %w", err)
		}
		c.by = by
	}
	if _, err := c.conn.Write(call.bytes); err != nil {
		return false, "", fmt.Errorf("call: %w", err)
	}
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return false, "", fmt.Errorf("read the answer: %w", err)
	}
	accepted = bytes.HasPrefix(line, []byte("HTTP/1.1 202"))
	status := ""
	if !accepted {
		status = string(bytes.TrimSpace(line))
	}
	length := -1
	for {
		if line, err = c.r.ReadSlice('\n'); err != nil {
			return false, "", fmt.Errorf("read the answer: %w", err)
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(value)); err != nil {
				return false, "", fmt.Errorf("read the answer: %w", err)
			}
		}
	}
	switch {
	case length < 0:
		return false, "", errors.New("read the answer: it has no Content-Length")
	case accepted:
		_, err = c.r.Discard(length)
	default:
		body := make([]byte, length)
		_, err = io.ReadFull(c.r, body)
		text = status + ": " + string(body)
	}
	if err != nil {
		return false, "", fmt.Errorf("read the answer: %w", err)
	}
	return accepted, text, nil
}
