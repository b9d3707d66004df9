package comet

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"imgo/envelope"
)

// AuthOf returns the contents of an auth body as texts. got is the result of parseAuth, want is the
// result of encoding/json.
func AuthOf(body []byte, maxRooms int) (got, want string) {
	describe := func(auth authBody, err error) string {
		if err != nil {
			auth = authBody{hasMid: auth.hasMid} // This flag decides the form of the answer.
		}
		return fmt.Sprintf("%#v %v", auth, err)
	}
	return describe(parseAuth(body, maxRooms)), describe(referenceAuth(body, maxRooms))
}

// referenceAuth is parseAuth written with encoding/json. Earlier versions read auth bodies this way,
// and clients may rely on every detail of it.
func referenceAuth(body []byte, maxRooms int) (authBody, error) {
	var auth authBody
	var object map[string]json.RawMessage
	if err := json.Unmarshal(body, &object); err == nil && object != nil {
		err = auth.parseReference(object, maxRooms)
		return auth, err
	}
	if json.Unmarshal(body, &auth.token) == nil {
		return auth, nil
	}
	if !utf8.Valid(body) {
		return auth, envelope.Invalid("auth body", "is not valid UTF-8")
	}
	auth.token = strings.Trim(string(body), `"`)
	return auth, nil
}

func (a *authBody) parseReference(object map[string]json.RawMessage, maxRooms int) error {
	var room string
	for _, member := range []struct {
		field, kind string
		into        any
	}{
		{"token", "a string", &a.token}, {"device", "a string", &a.device}, {"key", "a string", &a.key},
		{"platform", "a string", &a.platform}, {"room_id", "a string", &room}, {"ack", "true or false", &a.acks},
		{"rooms", "an array of strings", &a.rooms}, {"accepts", "an array of 32-bit integers", &a.accepts},
	} {
		raw, ok := object[member.field]
		if !ok {
			continue
		}
		if err := json.Unmarshal(raw, member.into); err != nil {
			return envelope.Invalid("auth "+member.field, "must be "+member.kind)
		}
	}
	if raw, ok := object["mid"]; ok {
		a.hasMid = true
		if err := a.parseReferenceMid(raw); err != nil {
			return err
		}
	}
	return a.check(room, maxRooms)
}

func (a *authBody) parseReferenceMid(raw json.RawMessage) error {
	if string(raw) == "null" || json.Unmarshal(raw, &a.mid) == nil {
		return nil
	}
	var n int64
	if json.Unmarshal(raw, &n) != nil {
		return envelope.Invalid("auth mid", "must be a 64-bit integer or a string")
	}
	a.mid = strconv.FormatInt(n, 10)
	return nil
}

// ParseAuth parses an auth body, for benchmarks.
func ParseAuth(body []byte) error {
	_, err := parseAuth(body, 10)
	return err
}
