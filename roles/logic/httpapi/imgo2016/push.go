package imgo2016

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"

	"imgo/envelope"
	"imgo/internal/jsonread"
	"imgo/protocol"
	"imgo/roles/logic"
	"imgo/roles/logic/httpapi/internal/httpcall"
)

// user returns the name of a 2016 user id, which is the decimal form of a number
// of 0 or more. In imgo 2016 uid=-1 crashed the router.
func user(uid string) (string, error) {
	n, err := strconv.ParseInt(uid, 10, 64)
	if err != nil || n < 0 {
		return "", envelope.Invalid("uid", fmt.Sprintf("must be a whole number from 0 to %d", int64(math.MaxInt64)))
	}
	return strconv.FormatInt(n, 10), nil
}

// push answers POST /1/push?uid=. The push is kept, as imgo 2016 kept it for a
// user who was offline.
func (a *API) push(c *httpcall.Call) error {
	body, err := c.ReadBody()
	if err != nil {
		return err
	}
	user, err := user(c.Param("uid"))
	if err != nil {
		return err
	}
	if len(body) == 0 {
		return envelope.Invalid("body", "is empty: this call pushes no empty message")
	}
	return a.do(c, &logic.PushCommand{Users: []string{user}, Body: body, Kept: true})
}

func (a *API) do(c *httpcall.Call, cmd *logic.PushCommand) error {
	cmd.Op = protocol.OpMessage
	if _, err := a.service.Push(c.Ctx, cmd); err != nil {
		return err
	}
	return replyRet(c, retOK)
}

// many is the body of /1/pushs. It is read as leniently as imgo 2016 read it,
// since old callers cannot change.
type many struct {
	Message json.RawMessage `json:"m"`
	Users   []int64         `json:"u"`
}

// pushMany answers POST /1/pushs. The push is kept, which imgo 2016 did not do
// here.
func (a *API) pushMany(c *httpcall.Call) error {
	body, err := c.ReadBody()
	if err != nil {
		return err
	}
	var many many
	if jsonread.TooDeep(body, jsonread.MaxDepth) {
		return envelope.Invalid("m", fmt.Sprintf("is nested more than %d deep", jsonread.MaxDepth))
	}
	if err := json.Unmarshal(body, &many); err != nil {
		field := ""
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			field = wrong.Field
		}
		return envelope.Invalid(field, "must be as in {\"m\":<json>,\"u\":[1,2]}: "+err.Error())
	}
	if len(many.Users) > a.maxUsers {
		return envelope.Invalid("u", fmt.Sprintf("has more than %d entries", a.maxUsers))
	}
	users := make([]string, len(many.Users))
	for i, uid := range many.Users {
		if uid < 0 {
			return envelope.Invalid(fmt.Sprintf("u[%d]", i), "must not be negative")
		}
		users[i] = strconv.FormatInt(uid, 10)
	}
	if len(users) == 0 {
		return replyRet(c, retOK) // as imgo 2016 did
	}
	return a.do(c, &logic.PushCommand{Users: users, Body: many.Message, Kept: true})
}

// pushRoom answers POST /1/push/room?rid=&ensure=. ensure asked the old job not to
// drop the message when its queue was full. It has no effect now.
func (a *API) pushRoom(c *httpcall.Call) error {
	body, err := c.ReadBody()
	if err != nil {
		return err
	}
	rid, err := strconv.ParseInt(c.Param("rid"), 10, 32)
	if err != nil {
		return envelope.Invalid("rid", "must be a whole number of 32 bits")
	}
	return a.do(c, &logic.PushCommand{Room: strconv.FormatInt(rid, 10), Body: body})
}

// pushAll answers POST /1/push/all.
func (a *API) pushAll(c *httpcall.Call) error {
	body, err := c.ReadBody()
	if err != nil {
		return err
	}
	return a.do(c, &logic.PushCommand{All: true, Body: body})
}
