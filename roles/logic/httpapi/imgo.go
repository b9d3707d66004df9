package httpapi

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"imgo/envelope"
	"imgo/internal/jsonread"
	"imgo/protocol"
	"imgo/roles/logic"
)

// The codes of /1: what "ret" says. /1/msg/get came from another server of
// imgo 2016, and there 0 is good.
const (
	retOK       = 1
	retMsgOK    = 0
	retToken    = 65533
	retParam    = 65534
	retInternal = 65535
)

// imgoForm answers as imgo 2016 did: status 200 whatever happened, but for the
// two things that it did not have, API keys (401) and their rates (429).
func imgoForm() *form {
	return &form{
		problem: func(c *call, p problem) {
			status := http.StatusOK
			if p.status == http.StatusUnauthorized || p.status == http.StatusTooManyRequests || p.status == http.StatusForbidden {
				status = p.status
			}
			if p.retryAfter > 0 {
				c.w.Header().Set("Retry-After", strconv.Itoa(seconds(p.retryAfter)))
			}
			c.write(status, contentText, fmt.Appendf(nil, `{"ret":%d}`, retOf(p)))
		},
		wrongMethod: func(c *call, rt *route) {
			if rt.methods == nil {
				c.status = http.StatusNotFound
				http.NotFound(c.w, c.r)
				return
			}
			c.status = http.StatusMethodNotAllowed
			http.Error(c.w, "Method Not Allowed", http.StatusMethodNotAllowed)
		},
	}
}

// retOf is a problem as "ret": the caller's own mistakes, its lack of a key or
// token, and everything else.
func retOf(p problem) int {
	switch p.code {
	case envelope.CodeInvalid, envelope.CodeTooLarge, envelope.CodeNotFound:
		return retParam
	case envelope.CodeUnauthorized, envelope.CodeExpired, envelope.CodeRevoked, codeForbidden:
		return retToken
	}
	return retInternal
}

// replyRet answers {"ret":ret}, the way Go's server labelled it for imgo 2016.
func (c *call) replyRet(ret int) error {
	c.write(http.StatusOK, contentText, fmt.Appendf(nil, `{"ret":%d}`, ret))
	return nil
}

// imgoUser is a 2016 user id as imgo has it: the decimal form of a number
// that is not negative. uid=-1 once killed the router.
func imgoUser(uid string) (string, error) {
	n, err := strconv.ParseInt(uid, 10, 64)
	if err != nil || n < 0 {
		return "", envelope.Invalid("uid", fmt.Sprintf("must be a whole number from 0 to %d", int64(math.MaxInt64)))
	}
	return strconv.FormatInt(n, 10), nil
}

// imgoPush answers POST /1/push?uid=: kept, as imgo 2016 kept it for a user
// who was away.
func (a *API) imgoPush(c *call) error {
	body, err := c.readBody()
	if err != nil {
		return err
	}
	user, err := imgoUser(c.param("uid"))
	if err != nil {
		return err
	}
	return a.imgoDo(c, &logic.PushCommand{Users: []string{user}, Body: body, Kept: true})
}

func (a *API) imgoDo(c *call, cmd *logic.PushCommand) error {
	cmd.Op = protocol.OpMessage
	if _, err := a.service.Push(c.ctx, cmd); err != nil {
		return err
	}
	return c.replyRet(retOK)
}

// imgoMany is the body of /1/pushs. It is read as leniently as imgo 2016 read
// it: its callers send what they send.
type imgoMany struct {
	Message json.RawMessage `json:"m"`
	Users   []int64         `json:"u"`
}

// imgoPushMany answers POST /1/pushs. imgo 2016 forgot the users who were away.
func (a *API) imgoPushMany(c *call) error {
	body, err := c.readBody()
	if err != nil {
		return err
	}
	var many imgoMany
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
	if len(many.Users) > a.cfg.MaxUsers {
		return envelope.Invalid("u", fmt.Sprintf("has more than %d entries", a.cfg.MaxUsers))
	}
	users := make([]string, len(many.Users))
	for i, uid := range many.Users {
		if uid < 0 {
			return envelope.Invalid(fmt.Sprintf("u[%d]", i), "must not be negative")
		}
		users[i] = strconv.FormatInt(uid, 10)
	}
	if len(users) == 0 {
		return c.replyRet(retOK) // to nobody, as it always was
	}
	return a.imgoDo(c, &logic.PushCommand{Users: users, Body: many.Message, Kept: true})
}

// imgoPushRoom answers POST /1/push/room?rid=&ensure=. ensure asked the old job
// not to drop the message when it was full, which is always so now.
func (a *API) imgoPushRoom(c *call) error {
	body, err := c.readBody()
	if err != nil {
		return err
	}
	rid, err := strconv.ParseInt(c.param("rid"), 10, 32)
	if err != nil {
		return envelope.Invalid("rid", "must be a whole number of 32 bits")
	}
	return a.imgoDo(c, &logic.PushCommand{Room: strconv.FormatInt(rid, 10), Body: body})
}

// imgoPushAll answers POST /1/push/all.
func (a *API) imgoPushAll(c *call) error {
	body, err := c.readBody()
	if err != nil {
		return err
	}
	return a.imgoDo(c, &logic.PushCommand{All: true, Body: body})
}

// The fields of /1/count, in imgo 2016's order and with its names.
type (
	imgoRoomCount struct {
		RoomID int32 `json:"RoomId"`
		Count  int32
	}
	imgoServerCount struct{ Server, Count int32 }
)

// imgoNoRoom stands for the sessions that are in no room.
const imgoNoRoom = -1

// imgoCount answers GET /1/count?type=room or server.
func (a *API) imgoCount(c *call) error {
	reply := struct {
		Data any `json:"data,omitempty"`
		Ret  int `json:"ret"`
	}{Ret: retOK}
	switch c.param("type") {
	case "room":
		rooms, err := a.imgoRoomCounts(c)
		if err != nil {
			return err
		}
		reply.Data = rooms
	case "server":
		comets, err := a.service.CountByComet(c.ctx)
		if err != nil {
			return err
		}
		list := make([]imgoServerCount, 0, len(comets))
		for name, n := range comets {
			list = append(list, imgoServerCount{Server: serverNumber(name), Count: int32(min(n, math.MaxInt32))}) // min
		}
		slices.SortFunc(list, func(x, y imgoServerCount) int { return cmp.Compare(x.Server, y.Server) })
		reply.Data = list
	}
	data, err := json.Marshal(reply)
	if err != nil {
		return fmt.Errorf("encode the counts: %w", err)
	}
	c.write(http.StatusOK, contentText, data)
	return nil
}

// imgoRoomCounts are the rooms that imgo 2016 could have named, by number, and
// in front of them those who are in no room at all: a session was in one room
// or none, so that is what the rooms leave of all sessions.
func (a *API) imgoRoomCounts(c *call) ([]imgoRoomCount, error) {
	rooms, err := a.service.Rooms(c.ctx)
	if err != nil {
		return nil, err
	}
	stats, err := a.service.Stats(c.ctx)
	if err != nil {
		return nil, err
	}
	list := make([]imgoRoomCount, 0, len(rooms)+1)
	roomless := int64(stats.Sessions)
	for name, n := range rooms {
		roomless -= int64(n)
		id, err := strconv.ParseInt(name, 10, 32)
		if err != nil || id == imgoNoRoom || strconv.FormatInt(id, 10) != name {
			continue
		}
		list = append(list, imgoRoomCount{RoomID: int32(id), Count: int32(min(n, math.MaxInt32))}) // min
	}
	if roomless > 0 {
		list = append(list, imgoRoomCount{RoomID: imgoNoRoom, Count: int32(min(roomless, math.MaxInt32))}) // min
	}
	slices.SortFunc(list, func(x, y imgoRoomCount) int { return cmp.Compare(x.RoomID, y.RoomID) })
	return list, nil
}

// serverNumber is a comet's number for the callers of imgo 2016, whose comets
// had no names: its name where that is a number, and else a hash of it, which
// is the same on every node and does not change.
func serverNumber(comet string) int32 {
	if n, err := strconv.ParseInt(comet, 10, 32); err == nil && strconv.FormatInt(n, 10) == comet {
		return int32(n)
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(comet))           // never fails
	return int32(h.Sum32() & math.MaxInt32) // 31 bits
}

// imgoServerDel answers POST /1/server/del?server=: forget the sessions of a
// comet. A dead comet needs no hand any more; one that lives announces its
// sessions again.
func (a *API) imgoServerDel(c *call) error {
	number, err := strconv.ParseInt(c.param("server"), 10, 32)
	if err != nil {
		return envelope.Invalid("server", "must be a whole number of 32 bits, as /1/count?type=server shows it")
	}
	comets, err := a.service.CountByComet(c.ctx)
	if err != nil {
		return err
	}
	names := []string{strconv.FormatInt(number, 10)}
	for name := range comets {
		if name != names[0] && int64(serverNumber(name)) == number {
			names = append(names, name)
		}
	}
	for _, name := range names {
		if _, err := a.service.ForgetComet(c.ctx, name); err != nil && !errors.Is(err, envelope.ErrNotFound) {
			return err
		}
	}
	return c.replyRet(retOK)
}

// imgoTokenNew answers POST /1/admin/token/new. imgo 2016's code read a form
// and its document showed JSON; both are taken, whatever the content type says.
func (a *API) imgoTokenNew(c *call) error {
	body, err := c.readBody()
	if err != nil {
		return err
	}
	uid, token, expire, err := imgoTokenFields(c, body)
	if err != nil {
		return err
	}
	user, err := imgoUser(uid)
	if err != nil {
		return err
	}
	if user == "0" {
		return envelope.Invalid("uid", "must not be 0")
	}
	if token == "" {
		return envelope.Invalid("token", "is missing")
	}
	n, err := strconv.ParseInt(expire, 10, 64)
	if err != nil || n <= 0 {
		return envelope.Invalid("expire", "must be a number of seconds above 0")
	}
	// A user has one token: the one before is revoked. imgo 2016 meant to,
	// and left it valid.
	ttl := time.Duration(min(n, jsonread.MaxSeconds)) * time.Second
	if _, err := a.service.NewToken(c.ctx, user, ttl, token, true); err != nil {
		return err
	}
	return c.replyRet(retOK)
}

func imgoTokenFields(c *call, body []byte) (uid, token, expire string, err error) {
	if trimmed := bytes.TrimSpace(body); len(trimmed) > 0 && trimmed[0] == '{' {
		var doc struct {
			UID    json.RawMessage `json:"uid"`
			Token  string          `json:"token"`
			Expire json.RawMessage `json:"expire"`
		}
		if err := json.Unmarshal(trimmed, &doc); err != nil {
			return "", "", "", envelope.Invalid("", `the request must be as in {"uid":1,"token":"…","expire":3600}: `+err.Error())
		}
		// Numbers, or strings of them.
		return strings.Trim(string(doc.UID), `"`), doc.Token, strings.Trim(string(doc.Expire), `"`), nil
	}
	// A pair that cannot be read is left out, and missed below if it matters.
	values, _ := url.ParseQuery(string(body))
	field := func(name string) string {
		if v := values.Get(name); v != "" {
			return v
		}
		return c.param(name)
	}
	return field("uid"), field("token"), field("expire"), nil
}
