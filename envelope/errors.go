package envelope

import (
	"errors"
	"fmt"
)

// Code is the kind of an Error. It stays the same from node to node, and the HTTP API shows it as
// error.code.
type Code string

// The codes. Each has a sentinel below for errors.Is.
const (
	CodeInvalid        Code = "invalid"          // the caller's input; Field says where
	CodeUnauthorized   Code = "unauthorized"     // token unknown, forged or missing
	CodeForbidden      Code = "forbidden"        // known, but not allowed to do this
	CodeExpired        Code = "token_expired"    // token was good once
	CodeRevoked        Code = "token_revoked"    // token was taken back
	CodeTooMany        Code = "too_many"         // a limit the operator set: sessions a user …
	CodeTooManyDevices Code = "too_many_devices" // the user has as many devices as the operator allows
	CodeRateLimited    Code = "rate_limited"     // too often; try later
	CodeNotFound       Code = "not_found"        // no such user, room, token …
	CodeConflict       Code = "conflict"         // well-formed; contradicts itself or the present state
	// CodeUpgradeUnfinished means that a node of the cluster is too old for the call.
	CodeUpgradeUnfinished Code = "upgrade_unfinished"
	CodeTooLarge          Code = "too_large"    // body over its bound
	CodeMailboxFull       Code = "mailbox_full" // as many messages wait for the user as are allowed
	CodeDiskFull          Code = "disk_full"    // less than the reserve is left
	CodeUnavailable       Code = "unavailable"  // try again: starting, stopping, owner moved
	CodeNotReady          Code = "not_ready"    // a part of this node is still catching up, or is stopping; try again
	// CodeAuthUnavailable means that there is no decision about one client, or about a room for it, at the moment. There may
	// be one about others.
	CodeAuthUnavailable Code = "auth_unavailable"
	CodeOutOfRange      Code = "out_of_range" // offset no longer (or not yet) in the log
	CodeClosed          Code = "closed"       // used after Close
	CodeUnsupported     Code = "unsupported"  // nothing here does that
	CodeInternal        Code = "internal"     // a bug or a broken disk
)

// Sentinels for errors.Is, which compares only their codes.
var (
	ErrInvalid           = &Error{Code: CodeInvalid}
	ErrUnauthorized      = &Error{Code: CodeUnauthorized}
	ErrForbidden         = &Error{Code: CodeForbidden}
	ErrExpired           = &Error{Code: CodeExpired}
	ErrRevoked           = &Error{Code: CodeRevoked}
	ErrTooMany           = &Error{Code: CodeTooMany}
	ErrTooManyDevices    = &Error{Code: CodeTooManyDevices}
	ErrRateLimited       = &Error{Code: CodeRateLimited}
	ErrNotFound          = &Error{Code: CodeNotFound}
	ErrConflict          = &Error{Code: CodeConflict}
	ErrUpgradeUnfinished = &Error{Code: CodeUpgradeUnfinished}
	ErrTooLarge          = &Error{Code: CodeTooLarge}
	ErrMailboxFull       = &Error{Code: CodeMailboxFull}
	ErrDiskFull          = &Error{Code: CodeDiskFull}
	ErrUnavailable       = &Error{Code: CodeUnavailable}
	ErrNotReady          = &Error{Code: CodeNotReady}
	ErrAuthUnavailable   = &Error{Code: CodeAuthUnavailable}
	ErrOutOfRange        = &Error{Code: CodeOutOfRange}
	ErrClosed            = &Error{Code: CodeClosed}
	ErrUnsupported       = &Error{Code: CodeUnsupported}
	ErrInternal          = &Error{Code: CodeInternal}
)

// Error is an error with a code. Message is for people and says how to correct the input, if that is
// possible. Field names the wrong input, if there is one.
type Error struct {
	Code    Code
	Field   string
	Message string
}

func (e *Error) Error() string {
	switch {
	case e.Field != "" && e.Message != "":
		return fmt.Sprintf("%s %s", e.Field, e.Message)
	case e.Message != "":
		return e.Message
	}
	return string(e.Code)
}

// Is reports whether target is an Error of the same code. errors.Is calls it.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Errorf returns an Error of a code with a formatted message.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Invalid returns the error for wrong input in field.
func Invalid(field, message string) *Error {
	return &Error{Code: CodeInvalid, Field: field, Message: message}
}

// Conflict returns the error for input in field that is well-formed but contradicts itself or the present
// state.
func Conflict(field, message string) *Error {
	return &Error{Code: CodeConflict, Field: field, Message: message}
}

// CodeOf returns the code of the first Error in err's chain. It is CodeInternal if there is none, and ""
// if err is nil.
func CodeOf(err error) Code {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Code
	}
	return CodeInternal
}

// IsTemporary reports whether a call may succeed if it is repeated a moment later: a role did not answer, or is not ready.
func IsTemporary(err error) bool {
	return errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNotReady)
}
