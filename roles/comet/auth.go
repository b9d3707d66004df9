package comet

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/transport"
)

// generation is whose client a session is; where their servers differed, each
// gets what its own server gave it (docs/protocol.md).
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

// authBody is what an auth packet's body says.
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

// identify says whose client sent the auth packet p and in which form it is
// to be written to. Over text no goim client ever spoke, so a mid there is a
// name like any other.
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
	var room string
	if scan := (authScan{b: body}); scan.read(&auth, &room) {
		err := auth.check(room, maxRooms)
		return auth, err
	}
	return parseAnyAuth(body, maxRooms)
}

// parseAnyAuth is parseAuth for whatever a client may send.
func parseAnyAuth(body []byte, maxRooms int) (authBody, error) {
	var auth authBody
	var object map[string]json.RawMessage
	if err := json.Unmarshal(body, &object); err == nil && object != nil {
		err = auth.parse(object, maxRooms)
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

func (a *authBody) parse(object map[string]json.RawMessage, maxRooms int) error {
	var room string
	for field, into := range map[string]any{
		"token": &a.token, "device": &a.device, "key": &a.key, "platform": &a.platform,
		"room_id": &room, "rooms": &a.rooms, "ack": &a.acks, "accepts": &a.accepts,
	} {
		raw, ok := object[field]
		if !ok {
			continue
		}
		if err := json.Unmarshal(raw, into); err != nil {
			return envelope.Invalid("auth "+field, "must be "+kind(into))
		}
	}
	if raw, ok := object["mid"]; ok {
		a.hasMid = true
		if err := a.parseMid(raw); err != nil {
			return err
		}
	}
	return a.check(room, maxRooms)
}

// check checks the names and lists and puts room, of room_id, to the rooms.
func (a *authBody) check(room string, maxRooms int) error {
	for _, name := range [...]struct{ field, value string }{
		{"auth device", a.device}, {"auth key", a.key}, {"auth platform", a.platform}, {"auth room_id", room},
	} {
		if name.value == "" {
			continue
		}
		if err := envelope.CheckName(name.field, name.value); err != nil {
			return err
		}
	}
	if room != "" {
		a.rooms = append([]string{room}, a.rooms...)
	}
	return a.checkLists(maxRooms)
}

// kind names what a field must be, for a person.
func kind(into any) string {
	switch into.(type) {
	case *bool:
		return "true or false"
	case *[]string:
		return "an array of strings"
	case *[]int32:
		return "an array of 32-bit integers"
	}
	return "a string"
}

// parseMid takes goim's member id, an int64 there and any string here.
func (a *authBody) parseMid(raw json.RawMessage) error {
	if string(raw) == "null" {
		return nil
	}
	if json.Unmarshal(raw, &a.mid) == nil {
		return nil
	}
	var n int64
	if json.Unmarshal(raw, &n) != nil {
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
