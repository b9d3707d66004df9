package rpc

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"imgo/envelope"
)

// maxErrorText bounds the text of an error on the wire, in bytes.
const maxErrorText = 4 << 10

// callError is an error that another node answered, or that kept a call from it.
type callError struct {
	text string
	// is are the errors that it stands for: the envelope.Error of the other
	// node, a context's error.
	is []error
}

func (e *callError) Error() string   { return e.text }
func (e *callError) Unwrap() []error { return e.is }

// toStatus is a handler's error on its way to the caller.
func toStatus(err error) error {
	code := codes.Unknown
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	}
	failure := &envelope.Failure{}
	var e *envelope.Error
	if errors.As(err, &e) {
		failure.Code, failure.Field, failure.Message = string(e.Code), valid(e.Field), valid(e.Message)
	}
	st := status.New(code, valid(err.Error()))
	if with, derr := st.WithDetails(failure); derr == nil {
		st = with
	}
	return st.Err()
}

// valid is text that protobuf and a header take.
func valid(s string) string {
	if len(s) > maxErrorText {
		s = s[:maxErrorText]
	}
	return strings.ToValidUTF8(s, "�")
}

// fromStatus is what a call's error means to its caller. ctx is the call's.
func fromStatus(ctx context.Context, addr, method string, err error) error {
	st, ok := status.FromError(err)
	if !ok {
		return fmt.Errorf("call %s of %s: %w", method, addr, err)
	}
	for _, d := range st.Details() {
		if f, ok := d.(*envelope.Failure); ok {
			return answered(st, f)
		}
	}
	text := fmt.Sprintf("call %s of %s: %s", method, addr, st.Message())
	unavailable := func(also ...error) error {
		e := &envelope.Error{Code: envelope.CodeUnavailable, Message: text}
		return &callError{text: text, is: append([]error{e}, also...)}
	}
	switch st.Code() {
	case codes.DeadlineExceeded:
		return unavailable(context.DeadlineExceeded)
	case codes.Canceled:
		// Without a cancelled caller it is the connection that was closed.
		if errors.Is(ctx.Err(), context.Canceled) {
			return &callError{text: text, is: []error{context.Canceled}}
		}
		return unavailable()
	case codes.Unavailable, codes.Unimplemented:
		return unavailable()
	case codes.ResourceExhausted:
		return &callError{text: text, is: []error{&envelope.Error{Code: envelope.CodeTooLarge, Message: text}}}
	}
	return &callError{text: text, is: []error{&envelope.Error{Code: envelope.CodeInternal, Message: text}}}
}

// answered is the error that the other node's handler returned.
func answered(st *status.Status, f *envelope.Failure) error {
	e := &callError{text: st.Message()}
	switch {
	case f.Code != "":
		e.is = append(e.is, &envelope.Error{Code: envelope.Code(f.Code), Field: f.Field, Message: f.Message})
	case st.Code() == codes.DeadlineExceeded || st.Code() == codes.Canceled:
		// The handler ran out of time or its role stops: worth another try.
		e.is = append(e.is, &envelope.Error{Code: envelope.CodeUnavailable, Message: e.text})
	}
	if st.Code() == codes.DeadlineExceeded {
		e.is = append(e.is, context.DeadlineExceeded)
	}
	return e
}
