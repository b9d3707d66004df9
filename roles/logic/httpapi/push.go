package httpapi

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/internal/jsonread"
	"imgo/protocol"
	"imgo/roles/logic"
	"imgo/roles/logic/httpapi/internal/httpcall"
)

// pushRequest is the body of POST /v1/push.
type pushRequest struct {
	// target is the field that named the receivers, "" until one did.
	target string
	user   string
	users  []string
	keys   []string
	// keysOfUser is set if the sessions are those of user.
	keysOfUser bool
	room       string

	// content is the field that had the message, "" until one did.
	content string
	body    []byte

	op             int32
	kept           *bool
	ttl            time.Duration
	idempotencyKey string
	ref            string
	report         *events.Level
	deadline       time.Duration
	deadlineAny    *bool

	maxUsers int
}

// parsePush reads one push. The result refers to data's bytes.
func parsePush(data []byte, maxUsers int) (*pushRequest, error) {
	p := &pushRequest{op: protocol.OpMessage, maxUsers: maxUsers}
	if err := jsonread.Object(data, p); err != nil {
		return nil, err
	}
	return p, p.check()
}

func (p *pushRequest) Field(r *jsonread.Reader, name string) (err error) {
	switch name {
	case "user", "users", "keys", "room", "all":
		return p.readTarget(r, name)
	case "body", "body_text", "body_base64":
		return p.readContent(r, name)
	case "op":
		var op int64
		op, err = r.Integer(math.MinInt32, math.MaxInt32)
		p.op = int32(op) // bounded by integer
	case "kept":
		var kept bool
		kept, err = r.Boolean()
		p.kept = &kept
	case "ttl":
		p.ttl, err = r.Duration()
	case "idempotency_key":
		if p.idempotencyKey, err = r.Text(); err == nil {
			err = envelope.CheckName(name, p.idempotencyKey)
		}
	case "ref", "report", "deadline", "deadline_if":
		return p.readReport(r, name)
	default:
		return jsonread.ErrUnknownField
	}
	return err
}

func (p *pushRequest) readReport(r *jsonread.Reader, name string) (err error) {
	switch name {
	case "ref":
		if p.ref, err = r.Text(); err == nil && p.ref == "" {
			err = envelope.Invalid(name, "must not be empty; leave it out for none")
		}
		return err
	case "deadline":
		if p.deadline, err = r.Duration(); err == nil && p.deadline == 0 {
			err = envelope.Invalid(name, "must be longer than 0; leave it out for none")
		}
		return err
	}
	text, err := r.Text()
	if err != nil {
		return err
	}
	if name == "report" {
		level, ok := events.ParseLevel(text)
		if !ok {
			return envelope.Invalid(name, fmt.Sprintf("is %q: it must be none, settled or each", text))
		}
		p.report = &level
		return nil
	}
	any := text == "any"
	if !any && text != "none_delivered" {
		return envelope.Invalid(name, fmt.Sprintf("is %q: it must be any or none_delivered", text))
	}
	p.deadlineAny = &any
	return nil
}

func (p *pushRequest) readTarget(r *jsonread.Reader, name string) (err error) {
	switch name {
	case "user":
		p.user, err = r.Text()
	case "users":
		p.users, err = r.Texts(p.maxUsers)
	case "keys":
		p.keys, err = r.Texts(p.maxUsers)
	case "room":
		p.room, err = r.Text()
	case "all":
		var all bool
		if all, err = r.Boolean(); err == nil && !all {
			err = envelope.Invalid(name, "can only be true; leave it out for a push to somebody else")
		}
	}
	if err != nil {
		return err
	}
	switch {
	case p.target == "":
		p.target = name
	case p.target == "user" && name == "keys", p.target == "keys" && name == "user" && !p.keysOfUser:
		p.target, p.keysOfUser = "keys", true
	default:
		return envelope.Invalid(name, fmt.Sprintf("cannot be there beside %s: a push has exactly one of user, users, keys, room and all "+
			"(or user and keys, for sessions of the user)", p.target))
	}
	return nil
}

func (p *pushRequest) readContent(r *jsonread.Reader, name string) (err error) {
	if p.content != "" {
		return envelope.Invalid(name, fmt.Sprintf("cannot be there beside %s: a push has exactly one of body, body_text and body_base64",
			p.content))
	}
	p.content = name
	switch name {
	case "body":
		p.body, err = r.Raw()
	case "body_text":
		var text string
		text, err = r.Text()
		p.body = []byte(text)
	default:
		p.body, err = r.Base64()
	}
	return err
}

// receivers is the number of users and keys that the push names.
func (p *pushRequest) receivers() int {
	n := len(p.users) + len(p.keys)
	if p.user != "" {
		n++
	}
	return n
}

// check says what the fields together lack or contradict. Names, operation and
// size are the service's to judge: they are the same whatever API they came by.
func (p *pushRequest) check() error {
	switch {
	case p.target == "":
		return envelope.Invalid("user", "is missing: a push has exactly one of user, users, keys, room and all")
	case p.content == "":
		return envelope.Invalid("body", "is missing: a push has exactly one of body, body_text and body_base64")
	}
	// An empty list, room or user would otherwise look like no target at all.
	switch p.target {
	case "user":
		if p.user == "" {
			return envelope.Invalid("user", "must not be empty")
		}
	case "users", "keys":
		if len(p.users)+len(p.keys) == 0 {
			return envelope.Invalid(p.target, "must not be empty")
		}
		if p.keysOfUser && p.user == "" {
			return envelope.Invalid("user", "must not be empty")
		}
	case "room":
		if p.room == "" {
			return envelope.Invalid("room", "must not be empty")
		}
	}
	toUsers := p.target == "user" || p.target == "users"
	if p.kept == nil {
		p.kept = &toUsers
	}
	switch {
	case *p.kept && !toUsers:
		return envelope.Invalid("kept", fmt.Sprintf("cannot be true with %s: only a push to user or users is kept", p.target))
	case !*p.kept && p.ttl != 0:
		return envelope.Invalid("ttl", "is only for a push that is kept")
	case p.deadlineAny != nil && p.deadline == 0:
		return envelope.Invalid("deadline_if", "is only for a push with a deadline")
	}
	return nil
}

// command returns the push as the service takes it.
func (p *pushRequest) command(key *caller) *logic.PushCommand {
	cmd := &logic.PushCommand{
		Users: p.users, Keys: p.keys, Room: p.room, All: p.target == "all",
		Op: p.op, Body: p.body, Kept: *p.kept, TTL: p.ttl, IdempotencyKey: key.scope(p.idempotencyKey),
		Caller: key.pusher(),
		Ref:    p.ref, Report: p.report, Deadline: p.deadline, DeadlineAny: p.deadlineAny != nil && *p.deadlineAny,
	}
	switch {
	case p.target == "user":
		cmd.Users = []string{p.user}
	case p.keysOfUser:
		cmd.KeyUser = p.user
	}
	return cmd
}

// blame gives an error the name that the caller used for the field. To the
// service a single user is a list.
func (p *pushRequest) blame(err error) error {
	var e *envelope.Error
	if p.target == "user" && errors.As(err, &e) && strings.HasPrefix(e.Field, "users") {
		return &envelope.Error{Code: e.Code, Field: "user", Message: e.Message}
	}
	return err
}

// pushHandlers answer the calls that push.
type pushHandlers struct {
	cfg     Config
	service Pusher
	shared  *httpcall.Shared
	metrics *metrics
	// ends is done when streams of pushes have to end.
	ends context.Context
}

// one answers POST /v1/push.
func (h pushHandlers) one(c *call) error {
	data, err := c.ReadBody()
	if err != nil {
		return err
	}
	p, err := parsePush(data, h.cfg.MaxUsers)
	if err != nil {
		return err
	}
	if header := c.R.Header.Get("Idempotency-Key"); c.R.Header.Values("Idempotency-Key") != nil {
		if err := envelope.CheckName("Idempotency-Key", header); err != nil {
			return err
		}
		if p.idempotencyKey != "" && p.idempotencyKey != header {
			return envelope.Conflict("idempotency_key", "differs from the Idempotency-Key header")
		}
		p.idempotencyKey = header
	}
	result, err := h.service.Push(c.Ctx, p.command(c.key))
	if err != nil {
		return p.blame(err)
	}
	c.Write(http.StatusAccepted, httpcall.ContentJSON, append(p.appendResult(nil, result, ""), '\n'))
	return nil
}

// appendResult appends the result of a push: {"id","user","sessions",
// "duplicate"} for one user, {"results":[…],"sessions"} for several, and
// {"sessions"} for other receivers. head comes before the object's first field.
func (p *pushRequest) appendResult(b []byte, r *logic.PushResult, head string) []byte {
	b = append(b, '{')
	b = append(b, head...)
	switch p.target {
	case "user":
		one := logic.UserResult{User: p.user, Sessions: r.Sessions, Duplicate: r.Duplicate}
		if len(r.Users) > 0 {
			one = r.Users[0]
		}
		return append(appendUserResult(b, &one), '}')
	case "users":
		if b == nil || cap(b) < 96*len(r.Users) {
			b = append(make([]byte, 0, len(b)+64+96*len(r.Users)), b...)
		}
		b = append(b, `"results":[`...)
		for i := range r.Users {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendUserResult(append(b, '{'), &r.Users[i]), '}')
		}
		b = append(b, `],`...)
	}
	b = append(b, `"sessions":`...)
	if p.target == "room" || p.target == "all" {
		b = append(b, `null`...) // only the comets know the members
	} else {
		b = strconv.AppendInt(b, int64(r.Sessions), 10)
	}
	if r.Duplicate {
		b = append(b, `,"duplicate":true`...)
	}
	return append(b, '}')
}

func appendUserResult(b []byte, u *logic.UserResult) []byte {
	b = append(b, `"id":"`...)
	b = strconv.AppendUint(b, u.ID, 10)
	b = append(b, `","user":`...)
	b = appendString(b, u.User)
	b = append(b, `,"sessions":`...)
	b = strconv.AppendInt(b, int64(u.Sessions), 10)
	b = append(b, `,"duplicate":`...)
	b = strconv.AppendBool(b, u.Duplicate)
	switch {
	case u.Refused:
		b = append(b, `,"refused":"mailbox_full"`...)
	case u.Dropped > 0:
		b = append(b, `,"dropped":`...)
		b = strconv.AppendInt(b, int64(u.Dropped), 10)
	}
	return b
}
