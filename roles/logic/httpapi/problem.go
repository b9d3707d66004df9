package httpapi

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"imgo/envelope"
)

// Codes that only the HTTP side has, beside envelope's.
const (
	codeMethod    envelope.Code = "method_not_allowed"
	codeForbidden envelope.Code = "forbidden"
)

// statusClientGone is what the metrics and the access log show for a caller
// that went away before its answer; nobody is there to read it.
const statusClientGone = 499

// problem is an error as a caller gets it, whatever form its API has.
type problem struct {
	status  int
	code    envelope.Code
	message string
	field   string
	// retryAfter, when above 0, becomes the header Retry-After.
	retryAfter time.Duration
	// hidden is the cause of a problem of ours, for the log.
	hidden error
}

// limited is the error of a caller above its rate.
type limited struct {
	cause      *envelope.Error
	retryAfter time.Duration
}

func (e *limited) Error() string { return e.cause.Error() }
func (e *limited) Unwrap() error { return e.cause }

// explain turns an error into what the caller is told. What has no identity
// (*envelope.Error in its chain) is ours: the caller learns that it happened
// and nothing else.
func explain(err error) problem {
	var e *envelope.Error
	switch {
	case errors.As(err, &e):
	case errors.Is(err, context.DeadlineExceeded):
		e = envelope.Errorf(envelope.CodeUnavailable, "the server took too long; whether it was done is not known, so try again with the same idempotency key")
	case errors.Is(err, context.Canceled):
		return problem{status: statusClientGone, code: envelope.CodeUnavailable, message: "the caller went away"}
	default:
		e = &envelope.Error{Code: envelope.CodeInternal}
	}

	p := problem{code: e.Code, message: e.Error(), field: e.Field, hidden: err}
	switch e.Code {
	case envelope.CodeInvalid:
		p.status, p.hidden = http.StatusBadRequest, nil
	case envelope.CodeUnauthorized, envelope.CodeExpired, envelope.CodeRevoked:
		p.status, p.hidden = http.StatusUnauthorized, nil
	case codeForbidden:
		p.status, p.hidden = http.StatusForbidden, nil
	case envelope.CodeNotFound:
		p.status, p.hidden = http.StatusNotFound, nil
	case codeMethod:
		p.status, p.hidden = http.StatusMethodNotAllowed, nil
	case envelope.CodeTooLarge:
		p.status, p.hidden = http.StatusRequestEntityTooLarge, nil
	case envelope.CodeRateLimited, envelope.CodeTooMany:
		p.status, p.retryAfter, p.hidden = http.StatusTooManyRequests, time.Second, nil
		var l *limited
		if errors.As(err, &l) {
			p.retryAfter = l.retryAfter
		}
	case envelope.CodeDiskFull:
		p.status = http.StatusInsufficientStorage
	case envelope.CodeUnavailable, envelope.CodeNotReady, envelope.CodeClosed:
		// Which of the three is the server's affair: all mean "try again".
		p.status, p.code, p.retryAfter = http.StatusServiceUnavailable, envelope.CodeUnavailable, time.Second
	default:
		p.status, p.code, p.field = http.StatusInternalServerError, envelope.CodeInternal, ""
		p.message = "the server failed; its log says why"
	}
	return p
}

// label is the problem's field as a metric's label: names that callers made
// up and indexes would make series without end.
func (p *problem) label() string {
	name, _, _ := strings.Cut(p.field, "[")
	if name == "" {
		return "none"
	}
	for _, known := range labelledFields {
		if name == known {
			return name
		}
	}
	return "other"
}

// labelledFields are the fields of all requests that can be at fault.
var labelledFields = [...]string{
	"user", "users", "keys", "room", "all", "body", "body_text", "body_base64", "op", "kept", "ttl",
	"idempotency_key", "Idempotency-Key", "pushes", "ids", "device", "session", "reason", "code", "prefix", "limit",
	"after", "token", "single", "close", "uid", "mid", "cb", "rid", "server", "expire", "u", "m", "operation", "mids",
	"type", "rooms", "speed", "platform", "Authorization", "Origin",
}
