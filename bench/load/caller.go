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

// Call is an HTTP request that is built once and sent many times. Only bytes at fixed
// places change between two sends. Each goroutine needs its own Clone.
type Call struct {
	bytes []byte
	// reports: the push asks for events.
	reports bool
	user    int // offset of the user's digits; 0 if there is no user
	stamp   int // offset of the message's stamp; 0 if there is none
}

// BodySize is the size of the body that PushCall pushes, in bytes.
const BodySize = 100

// PushCall returns a push of a stamped JSON string to a user.
func PushCall(kept bool) Call {
	more := ""
	if !kept {
		more = `,"kept":false`
	}
	c := stampedCall(`{"user":"`+UserID(0)+`","body":"`, BodySize, more)
	c.user = bytes.LastIndex(c.bytes, []byte(UserID(0))) + 1
	return c
}

// ReportCall returns a kept push of PushCall with the report "each".
func ReportCall() Call {
	c := stampedCall(`{"user":"`+UserID(0)+`","body":"`, BodySize, `,"report":"each"`)
	c.user, c.reports = bytes.LastIndex(c.bytes, []byte(UserID(0)))+1, true
	return c
}

// Reports reports whether the push asks for events.
func (c *Call) Reports() bool { return c.reports }

// AllCall returns a push to everyone whose packet has 26 bytes.
func AllCall() Call { return newCall(`{"all":true,"body_text":"hi"}`) }

// StampedAllCall returns a push to everyone of a stamped JSON string of size bytes.
// The size must be at least StampSize+2.
func StampedAllCall(size int) Call { return stampedCall(`{"all":true,"body":"`, size, "") }

// RoomCall returns a push of a stamped JSON string to a room.
func RoomCall(room string) Call { return stampedCall(`{"room":"`+room+`","body":"`, StampSize+2, "") }

// stampedCall returns a call with a stamped JSON string of size bytes, quotes
// included. before is the JSON text up to and including the opening quote, and more
// the text after the closing quote.
func stampedCall(before string, size int, more string) Call {
	c := newCall(before + string(bytes.Repeat([]byte("x"), max(size-2, StampSize))) + `"` + more + "}")
	c.stamp = bytes.Index(c.bytes, []byte("\r\n\r\n")) + 4 + len(before)
	return c
}

func newCall(body string) Call {
	const head = "POST /v1/push HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
	return Call{bytes: fmt.Appendf(nil, head+"%s", len(body), body)}
}

// Clone returns a copy for one goroutine.
func (c Call) Clone() Call {
	c.bytes = bytes.Clone(c.bytes)
	return c
}

// To sets the user to the n-th one. It does nothing if the call has no user.
func (c *Call) To(n int) {
	if c.user == 0 {
		return
	}
	for i := len(UserID(0)) - 2; i >= 0; i-- {
		c.bytes[c.user+i] = '0' + byte(n%10)
		n /= 10
	}
}

// Stamp writes the time to the front of the message's body. It does nothing if the
// body has no stamp.
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

// Caller is one HTTP/1.1 keep-alive connection that needs very little CPU time a call.
// It is not safe for concurrent use.
type Caller struct {
	conn net.Conn
	r    *bufio.Reader
	by   time.Time // the current deadline
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

// Do sends a request and reads the answer. accepted reports whether the answer is the
// 202 of an accepted push; otherwise text is the body of the answer.
func (c *Caller) Do(call *Call) (accepted bool, text string, err error) {
	// The deadline may be up to a second too early. Setting it at every call would be a
	// large part of the cost of a call.
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
