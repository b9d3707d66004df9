package comet

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"imgo/envelope"
	"imgo/internal/jsonread"
	"imgo/protocol"
	"imgo/transport"
)

// generation says for which server a client was written. Where those servers
// differed, each client gets what its own server gave it (docs/reference/protocol.md).
type generation uint8

const (
	genImgo generation = iota // imgo 2016
	genGoim                   // goim v2
	genV2                     // imgo's own protocol, version 2
	generations
)

func (g generation) String() string {
	switch g {
	case genGoim:
		return "goim"
	case genV2:
		return "v2"
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
}

// identify returns the generation of the client that sent the auth packet p, and
// the form of frames to it. No goim client ever spoke text, so a mid in a text
// frame is a name like any other.
func identify(p transport.Packet, text bool, auth *authBody) (generation, transport.Form) {
	switch {
	case p.Version == protocol.Version2 && text:
		return genV2, transport.FormV2JSON
	case p.Version == protocol.Version2:
		return genV2, transport.FormV2
	case text:
		return genImgo, transport.FormImgoJSON
	case auth.hasMid:
		return genGoim, transport.FormGoim
	}
	return genImgo, transport.FormImgo
}

// parseAuth reads an auth body: a JSON object with the keys of the protocol,
// else the token itself, as a JSON string or as plain bytes with or without
// quotes around them. Numbers and the other JSON that is no object are tokens
// too: to the server of 2016 everything was. Its errors name the field.
func parseAuth(body []byte, maxRooms int) (authBody, error) {
	var auth authBody
	r := jsonread.NewLenient(body)
	switch r.Kind() {
	case '{':
		var members authMembers
		if r.Members(func(name []byte) error { return members.read(r, name) }) == nil && r.End() == nil {
			err := auth.parse(r, &members, maxRooms)
			return auth, err
		}
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
	if !utf8.Valid(body) {
		return auth, envelope.Invalid("auth body", "is not valid UTF-8")
	}
	auth.token = strings.Trim(string(body), `"`)
	return auth, nil
}

// authMembers has the values of an auth body as they were sent, nil where there
// is none. Of a name that is there twice the last value counts.
type authMembers struct {
	token, device, key, platform, roomID, rooms, ack, accepts, mid []byte
}

func (m *authMembers) read(r *jsonread.Reader, name []byte) error {
	value, err := r.Raw()
	switch string(name) {
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

func (a *authBody) parse(r *jsonread.Reader, m *authMembers, maxRooms int) error {
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
	if m.mid != nil {
		a.hasMid = true
		if err := a.parseMid(m.mid); err != nil {
			return err
		}
	}
	return a.check(room, maxRooms)
}

// parseText reads a string or null, which changes nothing, as no value does.
// It reports whether the value was one of these.
func parseText(value []byte, into *string) bool {
	if len(value) == 0 || string(value) == "null" {
		return true
	}
	if value[0] != '"' {
		return false
	}
	// The value was read before, so all that can be wrong is UTF-8, which the
	// unquoted form has mended.
	text, _ := jsontext.AppendUnquote(nil, value)
	*into = string(text)
	return true
}

// parseLists reads rooms and accepts. A null in them is "" and 0, and instead
// of them nothing.
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
		{"auth device", a.device}, {"auth platform", a.platform}, {"auth room_id", room},
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
		if err := envelope.CheckName("auth rooms", room); err != nil {
			return err
		}
		if slices.Contains(a.rooms, room) {
			continue
		}
		if len(a.rooms) == maxRooms {
			return envelope.Invalid("auth rooms", fmt.Sprintf("are more than the %d that are allowed", maxRooms))
		}
		a.rooms = append(a.rooms, room)
	}
	slices.Sort(a.accepts)
	a.accepts = slices.Compact(a.accepts)
	if len(a.accepts) > maxAccepts {
		return envelope.Invalid("auth accepts", fmt.Sprintf("names %d operations, at most %d are allowed", len(a.accepts), maxAccepts))
	}
	return nil
}
