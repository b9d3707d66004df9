package logic

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"imgo/envelope"
	"imgo/protocol"
)

// maxKeyBytes bounds an idempotency key with its caller's scope.
const maxKeyBytes = 512

// Push pushes. Without an error the push is in the log: durable if it is kept.
// With one it was not accepted: ErrInvalid and ErrTooLarge (Field says where;
// nothing was done), ErrDiskFull (as the log gave it), ErrUnavailable (a router
// or the log did not answer in time). After an error of the log some of it may
// be there all the same; repeating the push with an idempotency key is safe.
//
// Two pushes are two messages however alike they are, unless they share an
// idempotency key.
func (l *Logic) Push(ctx context.Context, c *PushCommand) (*PushResult, error) {
	ctx, end, err := l.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	start := time.Now()
	kind := kindOf(c)
	result, err := l.push(ctx, kind, c)
	l.metrics.pushed(kind, result, err, time.Since(start))
	return result, err
}

func (l *Logic) push(ctx context.Context, kind string, c *PushCommand) (*PushResult, error) {
	if err := l.checkPush(c); err != nil {
		return nil, err
	}
	switch kind {
	case kindKept:
		return l.pushKept(ctx, c)
	case kindUsers:
		return l.pushUsers(ctx, c)
	case kindKeys:
		return l.pushKeys(ctx, c)
	}
	return l.pushOpen(ctx, c)
}

func kindOf(c *PushCommand) string {
	kind, targets := kindNone, 0
	choose := func(is bool, k string) {
		if is {
			kind = k
			targets++
		}
	}
	choose(len(c.Users) > 0 && c.Kept, kindKept)
	choose(len(c.Users) > 0 && !c.Kept, kindUsers)
	choose(len(c.Keys) > 0, kindKeys)
	choose(c.Room != "", kindRoom)
	choose(c.All, kindAll)
	if targets != 1 {
		return kindNone
	}
	return kind
}

// checkPush says what is wrong with a command, naming the field.
func (l *Logic) checkPush(c *PushCommand) error {
	if err := l.checkTarget(c); err != nil {
		return err
	}
	switch {
	case c.Op != protocol.OpMessage && c.Op < protocol.FirstAcceptedOp:
		return envelope.Invalid("op", fmt.Sprintf("is %d: it must be %d, or %d and above", c.Op, protocol.OpMessage, protocol.FirstAcceptedOp))
	case len(c.Body) > l.cfg.MaxBody:
		return &envelope.Error{Code: envelope.CodeTooLarge, Field: "body",
			Message: fmt.Sprintf("is %d bytes long, at most %d are allowed", len(c.Body), l.cfg.MaxBody)}
	case c.Kept && len(c.Users) == 0:
		return envelope.Invalid("kept", "is only possible for users: messages to keys, a room or all are not kept")
	case c.TTL < 0:
		return envelope.Invalid("ttl", "must not be negative")
	case c.TTL > 0 && !c.Kept:
		return envelope.Invalid("ttl", "is only possible for a kept message")
	case c.TTL > 0 && c.TTL < time.Millisecond:
		return envelope.Invalid("ttl", "must be at least a millisecond")
	case c.TTL > l.cfg.MaxTTL:
		return envelope.Invalid("ttl", fmt.Sprintf("is %s, at most %s are allowed", c.TTL, l.cfg.MaxTTL))
	case len(c.IdempotencyKey) > maxKeyBytes:
		return envelope.Invalid("idempotency_key", fmt.Sprintf("is %d bytes long with its scope, at most %d are allowed", len(c.IdempotencyKey), maxKeyBytes))
	case !utf8.ValidString(c.IdempotencyKey):
		return envelope.Invalid("idempotency_key", "is not valid UTF-8")
	}
	return nil
}

func (l *Logic) checkTarget(c *PushCommand) error {
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
	case len(named) == 0 && c.Users == nil && c.Keys != nil:
		return envelope.Invalid("keys", "must not be empty")
	case len(named) == 0:
		return envelope.Invalid("users", "must not be empty (or name keys, a room or all instead)")
	case len(named) > 1:
		return envelope.Invalid(named[1], fmt.Sprintf("cannot go with %s: a push has one kind of target, this one has %s", named[0], strings.Join(named, ", ")))
	case c.Room != "":
		return envelope.CheckName("room", c.Room)
	}
	if err := l.checkNames("users", c.Users); err != nil {
		return err
	}
	return l.checkNames("keys", c.Keys)
}

// checkNames checks a list of users or keys; an empty one is fine.
func (l *Logic) checkNames(field string, names []string) error {
	if len(names) > l.cfg.MaxUsers {
		return envelope.Invalid(field, fmt.Sprintf("has %d entries, at most %d are allowed", len(names), l.cfg.MaxUsers))
	}
	for i, name := range names {
		if err := envelope.CheckName("", name); err != nil {
			// Only a bad name pays for its field's.
			return envelope.CheckName(fmt.Sprintf("%s[%d]", field, i), name)
		}
	}
	return nil
}

// unique is names, each once, in their order.
func unique(names []string) []string {
	if len(names) == 1 {
		return names
	}
	seen := make(map[string]struct{}, len(names))
	out := make([]string, 0, len(names))
	for _, name := range names {
		if _, again := seen[name]; !again {
			seen[name] = struct{}{}
			out = append(out, name)
		}
	}
	return out
}

// appending is what an append's error becomes: a full disk stays as the log
// said it, since it is the operator's to read.
func appending(what string, err error) error {
	if errors.Is(err, envelope.ErrDiskFull) {
		return err
	}
	return attempted(what, err)
}
