package comet

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/transport"
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
	p := transport.Packet{Version: protocol.Version2, Long: true, Body: body}
	return describe(parseAuth(p, false, maxRooms)), describe(referenceAuth(body, maxRooms))
}

// referenceAuth is parseAuth written with encoding/json. Earlier versions read auth bodies this way,
// and clients may rely on every detail of it.
func referenceAuth(body []byte, maxRooms int) (authBody, error) {
	var auth authBody
	var object map[string]json.RawMessage
	if err := json.Unmarshal(body, &object); err == nil && object != nil {
		err = auth.parseReference(body, maxRooms)
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

func (a *authBody) parseReference(body []byte, maxRooms int) error {
	// encoding/json takes names in any case, and of those that are the same the last.
	var object struct {
		Token, Device, Key, Platform json.RawMessage
		RoomID                       json.RawMessage `json:"room_id"`
		Ack, Rooms, Accepts, Mid     json.RawMessage
	}
	if err := json.Unmarshal(body, &object); err != nil {
		return err
	}
	var room string
	for _, member := range []struct {
		field, kind string
		raw         json.RawMessage
		into        any
	}{
		{"token", "a string", object.Token, &a.token}, {"device", "a string", object.Device, &a.device},
		{"key", "a string", object.Key, &a.key}, {"platform", "a string", object.Platform, &a.platform},
		{"room_id", "a string", object.RoomID, &room}, {"ack", "true or false", object.Ack, &a.acks},
		{"rooms", "an array of strings", object.Rooms, &a.rooms},
		{"accepts", "an array of 32-bit integers", object.Accepts, &a.accepts},
	} {
		if member.raw == nil {
			continue
		}
		if err := json.Unmarshal(member.raw, member.into); err != nil {
			return envelope.Invalid("auth "+member.field, "must be "+member.kind)
		}
	}
	if object.Mid != nil {
		a.hasMid = true
		if err := a.parseReferenceMid(object.Mid); err != nil {
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
	_, err := parseAuth(transport.Packet{Version: protocol.Version2, Long: true, Body: body}, false, 10)
	return err
}

// Handle has the session of a user handle a packet, as the poller's goroutine does once it has seen that there is space.
func Handle(c *Comet, user string, p transport.Packet) {
	c.table.each(func(s *session) {
		if s.user == user {
			r := reader{s}
			r.handle(p, r.upstreamMessage(p, true))
		}
	})
}
