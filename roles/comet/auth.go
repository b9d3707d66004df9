package comet

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"imgo/envelope"
	"imgo/internal/jsonread"
	"imgo/protocol"
	"imgo/transport"
)

// clientProtocol says for which server a client was written. Where those servers
// differed, each client gets what its own server gave it (docs/reference/protocol.md).
type clientProtocol uint8

const (
	protocolImgo clientProtocol = iota // imgo 2016
	protocolGoim                       // goim v2
	protocolV2                         // imgo's own protocol, version 2
	clientProtocols
)

func (p clientProtocol) String() string {
	switch p {
	case protocolGoim:
		return "goim"
	case protocolV2:
		return envelope.ClientProtocolV2
	}
	return "imgo"
}

// maxAccepts bounds the operations that a session accepts.
const maxAccepts = 1000

// authBody is the content of an auth packet's body.
type authBody struct {
	token    string
	mid      string
	hasMid   bool
	device   string
	key      string
	platform string
	acks     bool
	accepts  []int32 // sorted, each once
	rooms    []string
	// refused are rooms that are more than a session may be in, at most
	// maxRefused of them.
	refused []*envelope.RoomRefusal
}

// isV2 reports whether an auth packet asks for version 2. Clients of the old
// servers may have that version in their packets too: a packet with the short header
// and no JSON object in it is theirs.
func isV2(p transport.Packet) bool {
	return p.Version == protocol.Version2 && (p.Long || jsontext.Value(p.Body).Kind() == '{')
}

// maxRefused bounds the rooms that a client is told of because they are too many.
const maxRefused = 32

// identify returns the protocol of the client that sent the auth packet p, and
// the form of frames to it. No goim client ever spoke JSON frames, so a mid in one
// is a name like any other.
func identify(p transport.Packet, conn transport.Conn, auth *authBody) (clientProtocol, transport.Form) {
	text := conn.Text()
	switch {
	case isV2(p) && text:
		return protocolV2, transport.FormV2JSON
	case isV2(p):
		return protocolV2, transport.FormV2
	case text:
		return protocolImgo, transport.FormImgoJSON
	case auth.hasMid && conn.Traits().ClientPicksForm:
		return protocolGoim, transport.FormGoimWS
	case auth.hasMid:
		return protocolGoim, transport.FormGoim
	}
	return protocolImgo, transport.FormImgo
}

// authReaders has readers of auth bodies that are not in use. A new reader costs more
// than the reading of a body.
var authReaders = sync.Pool{New: func() any { return jsonread.NewLenient(nil) }}

// parseAuth reads the body of an auth packet. It is a JSON object with the keys of the
// protocol, or else the token itself: a JSON string, or plain bytes with or without
// quotes around them. Numbers and the other JSON that is no object are tokens too: to the
// server of 2016 everything was. So is the whole text of an old client's object that has
// no token. Its errors name the field.
func parseAuth(p transport.Packet, text bool, maxRooms int) (authBody, error) {
	var auth authBody
	body, v2 := p.Body, isV2(p)
	r := authReaders.Get().(*jsonread.Reader)
	defer authReaders.Put(r)
	r.Reset(body)
	switch r.Kind() {
	case '{':
		var members authMembers
		if r.Members(func(name []byte) error { return members.read(r, name) }) != nil || r.End() != nil {
			break
		}
		err := auth.parse(r, &members, maxRooms, v2 || text)
		if !v2 && auth.token == "" && (err == nil || !auth.hasMid) {
			if err != nil { // nothing but the token of a client of 2016
				auth = authBody{}
			}
			return auth, auth.wholeToken(string(body))
		}
		return auth, err
	case '"':
		if token, err := r.Text(); err == nil && r.End() == nil {
			auth.token = token
			return auth, nil
		}
	case 'n':
		if _, err := r.Raw(); err == nil && r.End() == nil {
			return auth, nil
		}
	}
	return auth, auth.wholeToken(strings.Trim(string(body), `"`))
}

// wholeToken takes a text as the token as it is.
func (a *authBody) wholeToken(text string) error {
	if !utf8.ValidString(text) {
		return envelope.Invalid("auth body", "is not valid UTF-8")
	}
	a.token = text
	return nil
}

// foldName returns the name of a member in lower case, as encoding/json compares it.
func foldName(name []byte) []byte {
	for _, c := range name {
		if c != '_' && (c < 'a' || c > 'z') {
			return bytes.ToLower(bytes.ToUpper(name)) // the way through capitals folds the long s
		}
	}
	return name
}

// authMembers has the values of an auth body as they were sent, nil where there
// is none. Of a name that is there twice the last value counts.
type authMembers struct {
	token, device, key, platform, roomID, rooms, ack, accepts, mid []byte
}

func (m *authMembers) read(r *jsonread.Reader, name []byte) error {
	value, err := r.Raw()
	switch string(foldName(name)) { // goim read them in any case
	case "token":
		m.token = value
	case "device":
		m.device = value
	case "key":
		m.key = value
	case "platform":
		m.platform = value
	case "room_id":
		m.roomID = value
	case "rooms":
		m.rooms = value
	case "ack":
		m.ack = value
	case "accepts":
		m.accepts = value
	case "mid":
		m.mid = value
	}
	return err
}

// parse reads the members. If notGoim is set, the members that only goim has (key,
// room_id, accepts, platform) do not make the client one of goim.
func (a *authBody) parse(r *jsonread.Reader, m *authMembers, maxRooms int, notGoim bool) error {
	a.hasMid = m.mid != nil
	var room string
	for _, text := range [...]struct {
		field string
		value []byte
		into  *string
	}{
		{"token", m.token, &a.token}, {"device", m.device, &a.device}, {"key", m.key, &a.key},
		{"platform", m.platform, &a.platform}, {"room_id", m.roomID, &room},
	} {
		if !parseText(text.value, text.into) {
			return envelope.Invalid("auth "+text.field, "must be a string")
		}
	}
	switch string(m.ack) {
	case "true":
		a.acks = true
	case "", "null", "false":
	default:
		return envelope.Invalid("auth ack", "must be true or false")
	}
	if err := a.parseLists(r, m); err != nil {
		return err
	}
	switch {
	case m.mid != nil:
		if err := a.parseMid(m.mid); err != nil {
			return err
		}
	case !notGoim && m.token == nil && (m.key != nil || m.roomID != nil || m.accepts != nil || m.platform != nil):
		a.hasMid, a.mid = true, "0" // what goim read where there was none
	}
	return a.check(room, maxRooms)
}

// parseText stores a string in into. It leaves into unchanged for null and for an
// absent value. It reports whether the value was one of the three.
func parseText(value []byte, into *string) bool {
	if len(value) == 0 || string(value) == "null" {
		return true
	}
	if value[0] != '"' {
		return false
	}
	text := value[1 : len(value)-1]
	if bytes.IndexByte(text, '\\') >= 0 || !utf8.Valid(text) {
		// The value was read before, so all that can be wrong is UTF-8, which the
		// unquoted form has corrected.
		text, _ = jsontext.AppendUnquote(nil, value)
	}
	*into = string(text)
	return true
}

// parseLists reads rooms and accepts. In a list, null stands for an empty string or
// 0. A list that is null is skipped.
func (a *authBody) parseLists(r *jsonread.Reader, m *authMembers) error {
	if m.rooms != nil && string(m.rooms) != "null" {
		a.rooms = []string{}
		r.Reset(m.rooms)
		err := r.Elements("", func(int) error {
			value, err := r.Raw()
			var room string
			if err == nil && !parseText(value, &room) {
				err = errAuthElement
			}
			a.rooms = append(a.rooms, room)
			return err
		})
		if err != nil {
			return envelope.Invalid("auth rooms", "must be an array of strings")
		}
	}
	if m.accepts != nil && string(m.accepts) != "null" {
		a.accepts = []int32{}
		r.Reset(m.accepts)
		err := r.Elements("", func(int) error {
			value, err := r.Raw()
			var op int64
			if err == nil && string(value) != "null" {
				if op, err = strconv.ParseInt(string(value), 10, 32); err != nil {
					return err
				}
			}
			a.accepts = append(a.accepts, int32(op)) // 32 bits
			return err
		})
		if err != nil {
			return envelope.Invalid("auth accepts", "must be an array of 32-bit integers")
		}
	}
	return nil
}

// errAuthElement says that an element of a list is not of the list's type.
var errAuthElement = errors.New("not a string")

// check checks the names and lists, and puts room, of room_id, before the rooms.
func (a *authBody) check(room string, maxRooms int) error {
	for _, name := range [...]struct{ field, value string }{
		{"auth device", a.device}, {"auth platform", a.platform},
	} {
		if name.value == "" {
			continue
		}
		if err := envelope.CheckName(name.field, name.value); err != nil {
			return err
		}
	}
	if a.key != "" {
		if err := envelope.CheckKey("auth key", a.key); err != nil {
			return err
		}
	}
	if room != "" {
		if err := envelope.CheckRoom("auth room_id", room); err != nil {
			return err
		}
		a.rooms = append([]string{room}, a.rooms...)
	}
	return a.checkLists(maxRooms)
}

// parseMid reads goim's member id, an int64 there and any string here.
func (a *authBody) parseMid(value []byte) error {
	if parseText(value, &a.mid) {
		return nil
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil {
		return envelope.Invalid("auth mid", "must be a 64-bit integer or a string")
	}
	a.mid = strconv.FormatInt(n, 10)
	return nil
}

func (a *authBody) checkLists(maxRooms int) error {
	rooms := a.rooms
	a.rooms = nil
	for _, room := range rooms {
		if err := envelope.CheckRoom("auth rooms", room); err != nil {
			return err
		}
		if slices.Contains(a.rooms, room) {
			continue
		}
		if len(a.rooms) < maxRooms {
			a.rooms = append(a.rooms, room)
		} else if len(a.refused) < maxRefused {
			e := tooManyRooms(maxRooms)
			a.refused = append(a.refused, &envelope.RoomRefusal{Room: room, Code: string(e.Code), Reason: e.Message})
		}
	}
	slices.Sort(a.accepts)
	a.accepts = slices.Compact(a.accepts)
	if len(a.accepts) > maxAccepts {
		return envelope.Invalid("auth accepts", fmt.Sprintf("names %d operations, at most %d are allowed", len(a.accepts), maxAccepts))
	}
	return nil
}
