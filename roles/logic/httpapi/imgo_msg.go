package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"imgo/envelope"
)

// imgoMessage is a message of /1/msg/get, in imgo 2016's order. gid was a
// message group and always 0.
type imgoMessage struct {
	Msg []byte `json:"msg"` // base64 in JSON
	Mid int64  `json:"mid"` // Unix milliseconds
	Gid uint   `json:"gid"`
}

// maxCallback bounds JSONP's cb, in bytes.
const maxCallback = 128

// isCallback says whether name may be JSONP's cb: a path of names and indexes.
// imgo 2016 put anything in, and so let anybody's HTML be served from here.
func isCallback(name string) bool {
	for i, r := range []byte(name) {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_' || r == '$'
		inside := r >= '0' && r <= '9' || r == '.' || r == '[' || r == ']'
		if !letter && (i == 0 || !inside) {
			return false
		}
	}
	return name != "" && len(name) <= maxCallback
}

// imgoMsgGet answers GET /1/msg/get?uid=&mid=&token=&cb=: what was pushed to a
// user after mid (milliseconds, exclusive) while nobody acknowledged it, which
// is deleted by being read. The client's own token must be the user's.
func (a *API) imgoMsgGet(c *call) error {
	cb := c.param("cb")
	if cb != "" && !isCallback(cb) {
		return envelope.Invalid("cb", "must be the name of a JavaScript function")
	}
	messages, err := a.imgoTake(c)
	ret := retMsgOK
	if err != nil {
		// Noted here and answered below, since the answer has the callback.
		ret = retOf(a.note(c, err))
	}

	b := make([]byte, 0, 256)
	if cb != "" {
		b = append(append(b, cb...), '(')
	}
	b = append(b, '{')
	if len(messages) > 0 {
		data, err := json.Marshal(messages)
		if err != nil {
			return fmt.Errorf("encode the messages: %w", err)
		}
		b = append(append(append(b, `"data":{"msgs":`...), data...), `},`...)
	}
	b = append(b, `"ret":`...)
	b = append(strconv.AppendInt(b, int64(ret), 10), '}')
	if cb != "" {
		b = append(b, ')')
	}
	c.write(http.StatusOK, contentText, b)
	return nil
}

// imgoTake checks in the order that imgo 2016 did.
func (a *API) imgoTake(c *call) ([]imgoMessage, error) {
	for _, name := range []string{"uid", "mid", "token"} {
		if c.param(name) == "" {
			return nil, envelope.Invalid(name, "is missing")
		}
	}
	user, err := imgoUser(c.param("uid"))
	if err != nil {
		return nil, err
	}
	owner, err := a.service.CheckToken(c.ctx, c.param("token"))
	switch {
	case errors.Is(err, envelope.ErrNotFound):
		return nil, envelope.Errorf(envelope.CodeUnauthorized, "the token is unknown")
	case err != nil:
		return nil, err
	case owner != user:
		return nil, envelope.Errorf(envelope.CodeUnauthorized, "the token is another user's")
	}
	after, err := strconv.ParseInt(c.param("mid"), 10, 64)
	if err != nil {
		return nil, envelope.Invalid("mid", "must be a whole number of milliseconds")
	}
	taken, err := a.service.Take(c.ctx, user, after, a.cfg.MaxTake)
	if err != nil {
		return nil, err
	}
	messages := make([]imgoMessage, 0, len(taken.GetMessages()))
	for _, m := range taken.GetMessages() {
		body := m.GetBody()
		if body == nil {
			body = []byte{} // nil would be null
		}
		messages = append(messages, imgoMessage{Msg: body, Mid: m.GetTimeMs()})
	}
	return messages, nil
}
