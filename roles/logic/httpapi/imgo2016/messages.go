package imgo2016

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"imgo/envelope"
	"imgo/roles/logic/httpapi/internal/httpcall"
)

// message is a message of /1/msg/get. Its fields are in imgo 2016's order. gid was
// a message group and always 0.
type message struct {
	Msg []byte `json:"msg"` // base64 in JSON
	Mid int64  `json:"mid"` // Unix milliseconds
	Gid uint   `json:"gid"`
}

// maxCallback bounds JSONP's cb, in bytes.
const maxCallback = 128

// isCallback reports whether name may be JSONP's cb, a path of names and indexes.
// imgo 2016 accepted any text, so that others could have HTML served from here.
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

// msgGet answers GET /1/msg/get?uid=&mid=&token=&cb= with a user's messages that
// are not acknowledged and newer than mid, in milliseconds. Reading deletes them.
// The client's own token must be the user's.
func (a *API) msgGet(c *httpcall.Call) error {
	cb := c.Param("cb")
	if cb != "" && !isCallback(cb) {
		return envelope.Invalid("cb", "must be the name of a JavaScript function")
	}
	if cb != "" {
		c.W.Header().Del("X-Content-Type-Options") // with it, browsers run no script of the type text/plain
	}
	messages, err := a.messagesOf(c)
	ret := retMsgOK
	if err != nil {
		// The answer, below, has the callback, so the form cannot give it.
		if ret = retOf(pathMsgGet, c.Report(err)); err == errUnknownToken {
			ret = retInternal // as imgo 2016 answered it
		}
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
	c.Write(http.StatusOK, httpcall.ContentText, b)
	return nil
}

// errUnknownToken is the error of a token that nobody has.
var errUnknownToken error = envelope.Errorf(envelope.CodeUnauthorized, "the token is unknown")

// messagesOf checks in the order that imgo 2016 did.
func (a *API) messagesOf(c *httpcall.Call) ([]message, error) {
	for _, name := range []string{"uid", "mid", "token"} {
		if c.Param(name) == "" {
			return nil, envelope.Invalid(name, "is missing")
		}
	}
	user, err := user(c.Param("uid"))
	if err != nil {
		return nil, err
	}
	owner, err := a.service.CheckToken(c.Ctx, c.Param("token"))
	switch {
	case errors.Is(err, envelope.ErrNotFound) || errors.Is(err, envelope.ErrUnauthorized):
		return nil, errUnknownToken
	case err != nil:
		return nil, err
	case owner != user:
		return nil, envelope.Errorf(envelope.CodeUnauthorized, "the token is another user's")
	}
	after, err := strconv.ParseInt(c.Param("mid"), 10, 64)
	if err != nil {
		return nil, envelope.Invalid("mid", "must be a whole number of milliseconds")
	}
	taken, err := a.service.Take(c.Ctx, user, after, maxTake)
	if err != nil {
		return nil, err
	}
	messages := make([]message, 0, len(taken.GetMessages()))
	for _, m := range taken.GetMessages() {
		body := m.GetBody()
		if body == nil {
			body = []byte{} // nil would be null
		}
		messages = append(messages, message{Msg: body, Mid: m.GetTimeMs()})
	}
	return messages, nil
}
