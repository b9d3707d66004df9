package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"imgo/envelope"
	"imgo/roles/logic"
)

// The codes of /goim.
const (
	goimOK         = 0
	goimRequestErr = -400
	goimServerErr  = -500
)

// goimContent is what goim's framework labelled its answers with.
const goimContent = "application/json; charset=utf-8"

// goimReply is every answer of /goim.
type goimReply struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Data    any    `json:"data,omitempty"`
}

// goimForm answers as goim v2 did: status 200 whatever happened, but for a
// query that cannot be read (400), and for the two things that it did not
// have, API keys (401) and their rates (429).
func goimForm() *form {
	return &form{
		problem: func(c *call, p problem) {
			status, code := http.StatusOK, goimServerErr
			switch p.status {
			case http.StatusUnauthorized, http.StatusForbidden:
				status, code = p.status, goimRequestErr
			case http.StatusTooManyRequests:
				status = p.status
			case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusNotFound:
				code = goimRequestErr
			}
			if p.retryAfter > 0 {
				c.w.Header().Set("Retry-After", strconv.Itoa(seconds(p.retryAfter)))
			}
			c.goimWrite(status, goimContent, goimReply{Code: code, Message: p.message})
		},
		// goim's router knows no wrong methods, only paths that it has not.
		wrongMethod: func(c *call, _ *route) {
			c.write(http.StatusNotFound, "text/plain", []byte("404 page not found"))
		},
	}
}

func (c *call) goimWrite(status int, contentType string, reply goimReply) {
	data, err := json.Marshal(reply)
	if err != nil {
		c.api.log.Error().Err(err).Msg("cannot encode a /goim answer")
		data, _ = json.Marshal(goimReply{Code: goimServerErr})
	}
	c.write(status, contentType, data)
}

// goimResult answers code 0 with data, if any.
func (c *call) goimResult(data any) error {
	c.goimWrite(http.StatusOK, goimContent, goimReply{Code: goimOK, Data: data})
	return nil
}

// goimRefuse answers -400 for any error, where goim did.
func (c *call) goimRefuse(err error) error {
	p := c.api.note(c, err)
	c.goimWrite(http.StatusOK, goimContent, goimReply{Code: goimRequestErr, Message: p.message})
	return nil
}

// binder reads a query like goim's framework did: a number that cannot be read
// is told of at once, what is missing only after all numbers could be. Either
// is answered with status 400 and, since the framework had sent the header by
// then, as plain text.
type binder struct {
	query   url.Values
	err     *envelope.Error
	missing []string
	field   string
}

func (c *call) bind() *binder { return &binder{query: c.params()} }

// parse reads one number; an empty one is 0.
func (b *binder) parse(field, text string, bits int) int64 {
	if text == "" || b.err != nil {
		return 0
	}
	n, err := strconv.ParseInt(text, 10, bits)
	if err != nil {
		b.err = envelope.Invalid(field, err.Error())
		return 0
	}
	return n
}

func (b *binder) integer(field string, bits int) int64 {
	return b.parse(field, b.query.Get(field), bits)
}

func (b *binder) integers(field string) []int64 {
	list := make([]int64, 0, len(b.query[field]))
	for _, text := range b.query[field] {
		list = append(list, b.parse(field, text, 64))
	}
	return list
}

// require notes a field that is missing; name is what goim's code called it,
// which its callers saw in the message.
func (b *binder) require(field, name string, there bool) {
	if !there {
		b.missing = append(b.missing, fmt.Sprintf("Key: '%s' Error:Field validation for '%s' failed on the 'required' tag", name, name))
		if b.field == "" {
			b.field = field
		}
	}
}

// ok says whether the query could be read, and answers if not.
func (b *binder) ok(c *call) bool {
	if b.err == nil && len(b.missing) > 0 {
		b.err = envelope.Invalid(b.field, strings.Join(b.missing, "\n"))
	}
	if b.err == nil {
		return true
	}
	c.api.note(c, b.err)
	c.goimWrite(http.StatusBadRequest, contentText, goimReply{Code: goimRequestErr, Message: b.err.Message})
	return false
}

// goimPushKeys answers POST /goim/push/keys?operation=&keys=&keys=: to named
// sessions, never kept.
func (a *API) goimPushKeys(c *call) error {
	b := c.bind()
	op := b.integer("operation", 32)
	if !b.ok(c) {
		return nil
	}
	body, err := c.readBody()
	if err != nil {
		return c.goimRefuse(err)
	}
	named := b.query["keys"]
	if len(named) == 0 {
		return c.goimRefuse(envelope.Invalid("keys", "is missing"))
	}
	keys := make([]string, 0, len(named))
	for _, key := range named {
		if key != "" { // goim passed over them
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return c.goimResult(nil)
	}
	// goim said -400 for every error of this one.
	if err := a.goimDo(c, &logic.PushCommand{Keys: keys, Op: int32(op), Body: body}); err != nil { // 32 bits
		return c.goimRefuse(err)
	}
	return c.goimResult(nil)
}

// goimPushMids answers POST /goim/push/mids?operation=&mids=&mids=. The push is
// kept: who is away gets it on return, which goim's callers could not have.
// Members of 0 and below could not be reached in goim and are passed over.
func (a *API) goimPushMids(c *call) error {
	b := c.bind()
	op := b.integer("operation", 32)
	mids := b.integers("mids")
	if !b.ok(c) {
		return nil
	}
	body, err := c.readBody()
	if err != nil {
		return err
	}
	users := make([]string, 0, len(mids))
	for _, mid := range mids {
		if mid > 0 {
			users = append(users, strconv.FormatInt(mid, 10))
		}
	}
	if len(users) == 0 {
		return c.goimResult(nil)
	}
	if err := a.goimDo(c, &logic.PushCommand{Users: users, Op: int32(op), Body: body, Kept: true}); err != nil { // 32 bits
		return err
	}
	return c.goimResult(nil)
}

// goimPushRoom answers POST /goim/push/room?operation=&type=&room=.
func (a *API) goimPushRoom(c *call) error {
	b := c.bind()
	op := b.integer("operation", 32)
	kind, room := b.query.Get("type"), b.query.Get("room")
	b.require("operation", "Op", op != 0)
	b.require("type", "Type", kind != "")
	b.require("room", "Room", room != "")
	if !b.ok(c) {
		return nil
	}
	body, err := c.readBody()
	if err != nil {
		return err
	}
	if err := a.goimDo(c, &logic.PushCommand{Room: goimRoom(kind, room), Op: int32(op), Body: body}); err != nil { // 32 bits
		return err
	}
	return c.goimResult(nil)
}

// goimPushAll answers POST /goim/push/all?operation=&speed=. speed throttled
// goim's comets, which woke a goroutine for each message and session; ours
// need no throttle, and it is only checked for being a number.
func (a *API) goimPushAll(c *call) error {
	b := c.bind()
	op := b.integer("operation", 32)
	b.integer("speed", 32)
	b.require("operation", "Op", op != 0)
	if !b.ok(c) {
		return nil
	}
	body, err := c.readBody()
	if err != nil {
		return err
	}
	if err := a.goimDo(c, &logic.PushCommand{All: true, Op: int32(op), Body: body}); err != nil { // 32 bits
		return err
	}
	return c.goimResult(nil)
}

func (a *API) goimDo(c *call, cmd *logic.PushCommand) error {
	_, err := a.service.Push(c.ctx, cmd)
	return err
}

// goimRoom is a room's id as goim's clients say it.
func goimRoom(kind, room string) string { return kind + "://" + room }
