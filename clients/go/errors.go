package imgoclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"imgo/clients/go/raw"
)

// Code says what kind of error an Error is. All client libraries of imgo have the same codes.
type Code string

// The codes.
const (
	CodeInvalid     Code = "invalid"     // an argument or option is wrong
	CodeUnsupported Code = "unsupported" // this system lacks what the option needs
	CodeClosed      Code = "closed"      // the client was closed before the call was complete
	CodeRefused     Code = "refused"     // the server refused the client for good; see CloseCode
	CodeDenied      Code = "denied"      // the server refused this call; see ServerCode
	CodeNotLive     Code = "not_live"    // the call needs a live session
	CodeLost        Code = "lost"        // the connection was lost before the reply; the effect is unknown
	CodeTimeout     Code = "timeout"     // the reply did not come in time; the effect is unknown
	CodeTooMany     Code = "too_many"    // too many calls are open, or the outbox is full
	CodeToken       Code = "token"       // the token source failed
	CodeHandler     Code = "handler"     // the message handler failed
	CodeProtocol    Code = "protocol"    // the server broke the protocol
	CodeStorage     Code = "storage"     // the store or the outbox failed
)

// Errors to compare with by errors.Is. Each matches all errors of its code.
var (
	ErrInvalid     error = &Error{Code: CodeInvalid}
	ErrUnsupported error = &Error{Code: CodeUnsupported}
	ErrClosed      error = &Error{Code: CodeClosed}
	ErrRefused     error = &Error{Code: CodeRefused}
	ErrDenied      error = &Error{Code: CodeDenied}
	ErrNotLive     error = &Error{Code: CodeNotLive}
	ErrLost        error = &Error{Code: CodeLost}
	ErrTimeout     error = &Error{Code: CodeTimeout}
	ErrTooMany     error = &Error{Code: CodeTooMany}
	ErrToken       error = &Error{Code: CodeToken}
	ErrHandler     error = &Error{Code: CodeHandler}
	ErrProtocol    error = &Error{Code: CodeProtocol}
	ErrStorage     error = &Error{Code: CodeStorage}
)

// Error is the type of all errors of this package.
type Error struct {
	Code Code
	// Text names what was attempted, for people.
	Text string
	// CloseCode is the server's code for the end of the connection, or 0. The constants are in package
	// raw, such as raw.CloseKicked.
	CloseCode int
	// ServerCode is the server's word for a denied call, such as "forbidden", "too_many", "unavailable" or
	// "unsupported".
	ServerCode string
	// RetryAfter is set if the server has denied the call and says that another try may succeed after this
	// time.
	RetryAfter time.Duration
	// Err is the cause, or nil. It is a *raw.CloseError if the server gave a reason for the end of the
	// connection.
	Err error
}

func (e *Error) Error() string {
	switch {
	case e.Err == nil && e.Text == "":
		return strings.ReplaceAll(string(e.Code), "_", " ")
	case e.Err == nil:
		return e.Text
	case e.Text == "":
		return e.Err.Error()
	}
	return e.Text + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is one of the Err variables of this package and has the code of e.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error) //nolint:errorlint // errors.Is compares each error of the chain with target itself
	return ok && *t == Error{Code: e.Code}
}

func invalid(format string, args ...any) *Error {
	return &Error{Code: CodeInvalid, Text: fmt.Sprintf(format, args...)}
}

// classify returns the Error for the failure of what was attempted. code is for a cause that does not say
// more.
func classify(code Code, attempted string, err error) *Error {
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	e := &Error{Code: code, Text: attempted, Err: err}
	var format *raw.FormatError
	var closed *raw.CloseError
	var network net.Error
	switch {
	case errors.As(err, &closed):
		e.Code, e.CloseCode = CodeLost, closed.Code
		if !closed.Reconnect {
			e.Code = CodeRefused
		}
	case errors.As(err, &format):
		e.Code = CodeProtocol
	case errors.Is(err, context.DeadlineExceeded) || errors.As(err, &network) && network.Timeout():
		e.Code = CodeTimeout
	case err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF):
		e.Err = fmt.Errorf("the server ended the connection: %w", err)
	}
	return e
}
