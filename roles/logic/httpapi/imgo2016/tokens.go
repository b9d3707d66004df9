package imgo2016

import (
	"bytes"
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"time"

	"imgo/envelope"
	"imgo/internal/jsonread"
	"imgo/roles/logic"
	"imgo/roles/logic/httpapi/internal/httpcall"
)

// tokenNew answers POST /1/admin/token/new. imgo 2016's code read a form and its
// document showed JSON. Both are accepted, with any content type.
func (a *API) tokenNew(c *httpcall.Call) error {
	body, err := c.ReadBody()
	if err != nil {
		return err
	}
	uid, token, expire, err := tokenFields(c, body)
	if err != nil {
		return err
	}
	user, err := user(uid)
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
	// The user's other tokens stay good, as they did: a login on each device had a
	// token of its own.
	ttl := time.Duration(min(n, jsonread.MaxSeconds)) * time.Second
	if _, err := a.service.NewToken(c.Ctx, logic.TokenRequest{User: user, TTL: ttl, Token: token}); err != nil {
		return err
	}
	return replyRet(c, retOK)
}

func tokenFields(c *httpcall.Call, body []byte) (uid, token, expire string, err error) {
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
	// A pair that cannot be read is left out. If it is required, the checks of
	// the fields find that.
	values, _ := url.ParseQuery(string(body))
	field := func(name string) string {
		if v := values.Get(name); v != "" {
			return v
		}
		return c.Param(name)
	}
	return field("uid"), field("token"), field("expire"), nil
}
