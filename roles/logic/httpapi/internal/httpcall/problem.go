package httpcall

import (
	"context"
	"errors"
	"net/http"
	"time"

	"imgo/envelope"
)

// Codes of the HTTP side only, in addition to envelope's.
const (
	CodeMethod    envelope.Code = "method_not_allowed"
	CodeForbidden               = envelope.CodeForbidden
	CodeTooSlow   envelope.Code = "too_slow"
)

// StatusClientGone is the status in the metrics and the access log of a caller
// that went away before its answer.
const StatusClientGone = 499

// Problem is an error as it is shown to a caller, before an API gives it a form.
type Problem struct {
	Status  int
	Code    envelope.Code
	Message string
	Field   string
	// RetryAfter, when above 0, becomes the header Retry-After.
	RetryAfter time.Duration
	// Hidden is the cause of a fault of the server's, for the log only.
	Hidden error
}

// Limited is the error of a caller above its rate.
type Limited struct {
	Cause      *envelope.Error
	RetryAfter time.Duration
}

func (e *Limited) Error() string { return e.Cause.Error() }
func (e *Limited) Unwrap() error { return e.Cause }

// Explain turns an error into what the caller is told. An error without an
// *envelope.Error in its chain is the server's fault: the caller learns that it
// happened and nothing else.
func Explain(err error) Problem {
	var e *envelope.Error
	switch {
	case errors.As(err, &e):
	case errors.Is(err, context.DeadlineExceeded):
		e = envelope.Errorf(envelope.CodeUnavailable,
			"the server took too long. The request may have been carried out. Repeat a push with the same idempotency key.")
	case errors.Is(err, context.Canceled):
		return Problem{Status: StatusClientGone, Code: envelope.CodeUnavailable, Message: "the caller went away"}
	default:
		e = &envelope.Error{Code: envelope.CodeInternal}
	}

	p := Problem{Code: e.Code, Message: e.Error(), Field: e.Field, Hidden: err}
	switch e.Code {
	case envelope.CodeInvalid:
		p.Status, p.Hidden = http.StatusBadRequest, nil
	case envelope.CodeUnauthorized, envelope.CodeExpired, envelope.CodeRevoked:
		p.Status, p.Hidden = http.StatusUnauthorized, nil
	case CodeForbidden:
		p.Status, p.Hidden = http.StatusForbidden, nil
	case envelope.CodeNotFound:
		p.Status, p.Hidden = http.StatusNotFound, nil
	case CodeTooSlow:
		p.Status, p.Hidden = http.StatusRequestTimeout, nil
	case CodeMethod:
		p.Status, p.Hidden = http.StatusMethodNotAllowed, nil
	case envelope.CodeConflict, envelope.CodeUpgradeUnfinished:
		p.Status, p.Hidden = http.StatusConflict, nil
	case envelope.CodeTooLarge:
		p.Status, p.Hidden = http.StatusRequestEntityTooLarge, nil
	case envelope.CodeRateLimited, envelope.CodeTooMany, envelope.CodeTooManyDevices:
		p.Status, p.RetryAfter, p.Hidden = http.StatusTooManyRequests, time.Second, nil
		var l *Limited
		if errors.As(err, &l) {
			p.RetryAfter = l.RetryAfter
		}
	case envelope.CodeMailboxFull:
		p.Status, p.Hidden = http.StatusInsufficientStorage, nil
	case envelope.CodeDiskFull:
		p.Status = http.StatusInsufficientStorage
	case envelope.CodeUnavailable, envelope.CodeNotReady, envelope.CodeAuthUnavailable, envelope.CodeClosed:
		// The caller needs no difference between the four. All mean "try again".
		p.Status, p.Code, p.RetryAfter = http.StatusServiceUnavailable, envelope.CodeUnavailable, time.Second
	default:
		p.Status, p.Code, p.Field = http.StatusInternalServerError, envelope.CodeInternal, ""
		p.Message = "the server failed; its log says why"
	}
	return p
}
