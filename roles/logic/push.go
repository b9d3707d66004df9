package logic

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/protocol"
)

// PushCommand is one push, whatever API it came by. Exactly one of Users, Keys,
// Room and All is its target.
type PushCommand struct {
	// Users lists user ids (1 to 128 bytes of UTF-8), at most Config.MaxUsers.
	Users []string
	// Keys lists sessions by their key or name; never kept. With KeyUser they are
	// sessions of that user. Without it a key reaches only sessions that it names
	// without their user (see SessionInfo.global_key).
	Keys    []string
	KeyUser string
	// Room is the id of a room; never kept.
	Room string
	// All means every connected session; never kept.
	All bool

	// Goim says that the push comes by goim's API. Then any operation from 1 on and
	// protocol.OpIfAccepted are allowed, and rooms and keys may be as long as those
	// of goim's clients.
	Goim bool

	// Op is the operation: 5 (message), or 1000 and above.
	Op   int32
	Body []byte
	// Kept has the message wait in the user's mailbox until every covered device
	// has acknowledged it or TTL has passed. Only with Users.
	Kept bool
	// TTL is how long a kept message lives. 0 means Config.DefaultTTL.
	TTL time.Duration
	// Ref is the caller's own name of the message, or empty. Every event has it. Only with Kept.
	Ref string
	// Report says which events tell what becomes of the message. nil means Config.DefaultReport. Only with
	// Kept.
	Report *events.Level
	// Deadline is how long after the push the message is reported as undelivered. 0 means never. It is
	// reported if no device has it by then, or with DeadlineAny if any device lacks it. Only with Kept.
	Deadline    time.Duration
	DeadlineAny bool
	// Caller is the name of the API key that pushes, or empty if there are no keys. The log keeps it.
	Caller string
	// IdempotencyKey is a key in the scope of its caller, or empty. For
	// kept.idempotency_ttl (24 h by default) a second push with the same key has no effect on a user that the
	// first one reached.
	IdempotencyKey string
}

// UserResult is what a push did for one user.
type UserResult struct {
	User string
	// ID is the kept message's id, or 0 if it is not kept.
	ID uint64
	// Sessions counts the user's sessions at the time of the push. A push that is
	// not kept reaches only these.
	Sessions int
	// Duplicate reports whether the idempotency key was used for this user before.
	// ID is then the first push's.
	Duplicate bool
	// Dropped counts the messages that the bound on the mailbox cost to make room for
	// this one, as the owner knew it when it was asked. Refused reports whether it was
	// this one that was not kept.
	Dropped int
	Refused bool
	// Unknown reports whether the user's owner did not answer in time, so that the
	// number of sessions is not known. Only a kept push is accepted all the same.
	Unknown bool
}

// PushResult is what a push did.
type PushResult struct {
	// Users has one result for each user of the command, in its order. A user that
	// is named twice is pushed to once and has one result.
	Users []UserResult
	// Sessions counts the sessions that the push is on its way to. It is 0 for Room
	// and All, whose members only the comets know.
	Sessions int
	// Duplicate reports whether the idempotency key was used before, so that
	// nothing was done (with Users: for each of them).
	Duplicate bool
}

// pushHandler takes pushes: it checks each, asks the owners who is there, and
// appends what is to be delivered to one of the logs.
type pushHandler struct {
	*shared
	slots  *slots
	claims *claims
	level  events.Level
}

// Push pushes. Without an error the push is in the log, and durable if it is kept. With
// an error it was not accepted. After ErrInvalid and ErrTooLarge nothing was done, and
// Field names the input. ErrDiskFull is the error of the log. ErrUnavailable means that a
// router or the log did not answer in time, or that too many large pushes wait. A push to
// many users has more time. After an error of the log a part of the push may be there all
// the same. Repeating a push with its idempotency key is safe.
//
// Two pushes are two messages however alike they are, unless they share an
// idempotency key.
func (h *pushHandler) Push(ctx context.Context, c *PushCommand) (*PushResult, error) {
	start := time.Now()
	kind := kindOf(c)
	result, err := h.push(ctx, kind, c)
	h.metrics.pushed(kind, result, err, time.Since(start))
	return result, err
}

func (h *pushHandler) push(ctx context.Context, kind string, c *PushCommand) (*PushResult, error) {
	if err := h.check(kind, c); err != nil {
		return nil, err
	}
	if kind == kindKept && h.reportOf(c, time.Time{}) != nil {
		if err := h.kept.require(ctx, envelope.RecordVersionReports); err != nil {
			return nil, err
		}
	}
	release, err := h.slots.acquire(ctx, len(c.Users))
	if err != nil {
		return nil, err
	}
	defer release()
	ctx, end, err := h.life.beginWithin(ctx, timeoutFor(h.cfg.CallTimeout, len(c.Users)))
	if err != nil {
		return nil, err
	}
	defer end()
	switch kind {
	case kindKept:
		return h.pushKept(ctx, c)
	case kindUsers:
		return h.pushUsers(ctx, c)
	case kindKeys:
		return h.pushKeys(ctx, c)
	}
	return h.pushOpen(ctx, c)
}

// kindOf returns the kind of a push by its target. It is kindNone unless there
// is exactly one.
func kindOf(c *PushCommand) string {
	users, keys, room := len(c.Users) > 0, len(c.Keys) > 0, c.Room != ""
	switch {
	case users && !keys && !room && !c.All && c.Kept:
		return kindKept
	case users && !keys && !room && !c.All:
		return kindUsers
	case keys && !users && !room && !c.All:
		return kindKeys
	case room && !users && !keys && !c.All:
		return kindRoom
	case c.All && !users && !keys && !room:
		return kindAll
	}
	return kindNone
}

// check returns an error that names the first field that is wrong.
func (h *pushHandler) check(kind string, c *PushCommand) error {
	if kind == kindNone {
		return targetError(c)
	}
	if err := h.checkTarget(c); err != nil {
		return err
	}
	switch {
	case !c.validOp():
		return envelope.Invalid("op", fmt.Sprintf("is %d: it must be %d, or %d and above", c.Op, protocol.OpMessage, protocol.FirstAcceptedOp))
	case len(c.Body) > h.cfg.MaxBody:
		return &envelope.Error{Code: envelope.CodeTooLarge, Field: "body",
			Message: fmt.Sprintf("is %d bytes long, at most %d are allowed", len(c.Body), h.cfg.MaxBody)}
	case c.Kept && kind != kindKept:
		return envelope.Invalid("kept", "is only possible for users: messages to keys, a room or all are not kept")
	case c.KeyUser != "" && kind != kindKeys:
		return envelope.Invalid("user", "can only go with keys")
	case c.TTL < 0:
		return envelope.Invalid("ttl", "must not be negative")
	case c.TTL > 0 && !c.Kept:
		return envelope.Invalid("ttl", "is only possible for a kept message")
	case c.TTL > 0 && c.TTL < time.Millisecond:
		return envelope.Invalid("ttl", "must be at least a millisecond")
	case c.TTL > h.cfg.MaxTTL:
		return envelope.Invalid("ttl", fmt.Sprintf("is %s, at most %s are allowed", c.TTL, h.cfg.MaxTTL))
	case len(c.IdempotencyKey) > protocol.MaxKeyBytes:
		return envelope.Invalid("idempotency_key",
			fmt.Sprintf("is %d bytes long with its scope, at most %d are allowed", len(c.IdempotencyKey), protocol.MaxKeyBytes))
	case !utf8.ValidString(c.IdempotencyKey):
		return envelope.Invalid("idempotency_key", "is not valid UTF-8")
	}
	return h.checkReport(c)
}

func (c *PushCommand) validOp() bool {
	if c.Goim && (c.Op > 0 || c.Op == protocol.OpIfAccepted) {
		return true
	}
	return c.Op == protocol.OpMessage || c.Op >= protocol.FirstAcceptedOp
}

// targetError returns the error for a push that has no target, or several.
func targetError(c *PushCommand) error {
	var named []string
	if len(c.Users) > 0 {
		named = append(named, "users")
	}
	if len(c.Keys) > 0 {
		named = append(named, "keys")
	}
	if c.Room != "" {
		named = append(named, "room")
	}
	if c.All {
		named = append(named, "all")
	}
	switch {
	case len(named) > 1:
		return envelope.Invalid(named[1], fmt.Sprintf("cannot go with %s: a push has one kind of target, this one has %s",
			named[0], strings.Join(named, ", ")))
	case c.Users == nil && c.Keys != nil:
		return envelope.Invalid("keys", "must not be empty")
	}
	return envelope.Invalid("users", "must not be empty (or name keys, a room or all instead)")
}

func (h *pushHandler) checkTarget(c *PushCommand) error {
	if c.Room != "" {
		if c.Goim {
			return envelope.CheckRoom("room", c.Room)
		}
		return envelope.CheckName("room", c.Room)
	}
	if err := checkNames("users", c.Users, h.cfg.MaxUsers, envelope.CheckName); err != nil {
		return err
	}
	if err := checkOptional("user", c.KeyUser); err != nil {
		return err
	}
	if c.Goim {
		return checkNames("keys", c.Keys, h.cfg.MaxUsers, envelope.CheckRoom)
	}
	return checkNames("keys", c.Keys, h.cfg.MaxUsers, envelope.CheckName)
}

// checkOptional checks a name that may be missing.
func checkOptional(field, name string) error {
	if name == "" {
		return nil
	}
	return envelope.CheckName(field, name)
}

// checkNames checks a list of at most limit users or keys, which may be empty.
func checkNames(field string, names []string, limit int, check func(field, name string) error) error {
	if len(names) > limit {
		return envelope.Invalid(field, fmt.Sprintf("has %d entries, at most %d are allowed", len(names), limit))
	}
	for i, name := range names {
		if check("", name) != nil {
			// The field's name is made only for a bad name.
			return check(fmt.Sprintf("%s[%d]", field, i), name)
		}
	}
	return nil
}
