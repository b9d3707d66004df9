package rpc

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"imgo/envelope"
)

// maxErrorText bounds each text of an error on the wire, in bytes.
const maxErrorText = 4 << 10

// callError is the error of a call. It stands for several errors, which
// errors.Is and errors.As find: an envelope.Error, and a context's error.
type callError struct {
	text string
	is   []error
}

func (e *callError) Error() string   { return e.text }
func (e *callError) Unwrap() []error { return e.is }

// newFailure encodes the error of a handler.
func newFailure(err error) *envelope.Failure {
	f := &envelope.Failure{Text: validText(err.Error()), TimedOut: errors.Is(err, context.DeadlineExceeded)}
	var e *envelope.Error
	switch {
	case errors.As(err, &e):
		f.Code, f.Field, f.Message = string(e.Code), validText(e.Field), validText(e.Message)
	case f.TimedOut || errors.Is(err, context.Canceled):
		// The handler ran out of time, or its role stops: worth another try.
		f.Code, f.Message = string(envelope.CodeUnavailable), f.Text
	}
	return f
}

// validText returns s cut to what protobuf takes.
func validText(s string) string {
	if len(s) > maxErrorText {
		s = s[:maxErrorText]
	}
	return strings.ToValidUTF8(s, "�")
}

// newCallError decodes the error that the handler in the other node returned.
func newCallError(f *envelope.Failure) *callError {
	e := &callError{text: f.Text}
	if f.Code != "" {
		e.is = append(e.is, &envelope.Error{Code: envelope.Code(f.Code), Field: f.Field, Message: f.Message})
	}
	if f.TimedOut {
		e.is = append(e.is, context.DeadlineExceeded)
	}
	return e
}

// errTooLarge is the error of a request or a reply over the limit.
func errTooLarge(text string) *callError {
	return &callError{text: text, is: []error{&envelope.Error{Code: envelope.CodeTooLarge, Message: text}}}
}

// callFailed is the error of a call that the other node did not answer, because
// of err.
func callFailed(addr, method string, err error) error {
	text := fmt.Sprintf("call %s of %s: %v", method, addr, err)
	if errors.Is(err, context.Canceled) { // only the caller does that
		return &callError{text: text, is: []error{context.Canceled}}
	}
	e := &callError{text: text, is: []error{&envelope.Error{Code: envelope.CodeUnavailable, Message: text}}}
	if errors.Is(err, context.DeadlineExceeded) {
		e.is = append(e.is, context.DeadlineExceeded)
	}
	return e
}
