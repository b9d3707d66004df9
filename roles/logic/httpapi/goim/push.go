package goim

import (
	"slices"
	"strconv"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/logic"
	"imgo/roles/logic/httpapi/internal/httpcall"
)

// pushKeys answers POST /goim/push/keys?operation=&keys=&keys=, a push to named
// sessions that is never kept. goim did not know mid=: with it the keys are those of
// that user's sessions.
func (a *API) pushKeys(c *httpcall.Call) error {
	b := bind(c)
	op := b.integer("operation", 32)
	if !b.ok(c) {
		return nil
	}
	body, err := c.ReadBody()
	if err != nil {
		return refuse(c, err)
	}
	named := b.query["keys"]
	if len(named) == 0 {
		return refuse(c, envelope.Invalid("keys", "is missing"))
	}
	keys := slices.DeleteFunc(slices.Clone(named), func(key string) bool { return key == "" }) // as goim did
	if len(keys) == 0 {
		return replyData(c, nil)
	}
	// goim said -400 for every error of this one.
	if err := a.do(c, &logic.PushCommand{Keys: keys, KeyUser: b.query.Get("mid"), Op: int32(op), Body: body}); err != nil { // 32 bits
		return refuse(c, err)
	}
	return nil
}

// pushMids answers POST /goim/push/mids?operation=&mids=&mids=. The push is kept:
// an offline user gets it later, which goim did not offer. Members of 0 and below
// could not be reached in goim and are ignored.
func (a *API) pushMids(c *httpcall.Call) error {
	b := bind(c)
	op := b.integer("operation", 32)
	mids := b.integers("mids")
	if !b.ok(c) {
		return nil
	}
	body, err := c.ReadBody()
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
		return replyData(c, nil)
	}
	return a.do(c, &logic.PushCommand{Users: users, Op: int32(op), Body: body, Kept: true}) // 32 bits
}

// pushRoom answers POST /goim/push/room?operation=&type=&room=.
func (a *API) pushRoom(c *httpcall.Call) error {
	b := bind(c)
	op := b.integer("operation", 32)
	kind, room := b.query.Get("type"), b.query.Get("room")
	b.require("operation", "Op", op != 0)
	b.require("type", "Type", kind != "")
	b.require("room", "Room", room != "")
	if !b.ok(c) {
		return nil
	}
	body, err := c.ReadBody()
	if err != nil {
		return err
	}
	return a.do(c, &logic.PushCommand{Room: roomName(kind, room), Op: int32(op), Body: body}) // 32 bits
}

// pushAll answers POST /goim/push/all?operation=&speed=. speed throttled goim's
// comets, which woke a goroutine for each message and session. imgo's comets need
// no throttle, so speed must be a number and has no effect.
func (a *API) pushAll(c *httpcall.Call) error {
	b := bind(c)
	op := b.integer("operation", 32)
	b.integer("speed", 32)
	b.require("operation", "Op", op != 0)
	if !b.ok(c) {
		return nil
	}
	body, err := c.ReadBody()
	if err != nil {
		return err
	}
	return a.do(c, &logic.PushCommand{All: true, Op: int32(op), Body: body}) // 32 bits
}

// do pushes and answers. goim took any operation and sent a message to the sessions that accept
// it, or to all in a room. No client accepts one of 0 and below, so that is no push.
func (a *API) do(c *httpcall.Call, cmd *logic.PushCommand) error {
	if cmd.Op <= 0 {
		return replyData(c, nil)
	}
	cmd.Goim = true
	if cmd.Op == protocol.OpMessage && cmd.Room == "" {
		cmd.Op = protocol.OpIfAccepted
	}
	if _, err := a.service.Push(c.Ctx, cmd); err != nil {
		return err
	}
	return replyData(c, nil)
}

// roomName returns a room's id as goim's clients name it.
func roomName(kind, room string) string { return kind + "://" + room }
